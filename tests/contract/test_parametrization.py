"""What every part of the slot parametrization must do: products, gradients, cost, baking in, resuming; and freezing."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch.nn import functional as F

from isoflop.compress.weights import WeightPart
from isoflop.core.contracts import Parametrization, ParametrizationPart, Timed, TokenBatch, Treatment, merged
from isoflop.core.cost import Work
from isoflop.core.errors import RecipeError
from isoflop.core.recipe import Recipe
from isoflop.core.registry import get, names
from isoflop.core.rng import Rng
from isoflop.core.roles import Shape, new_role, parameter_groups, shapes_of
from isoflop.ledger import formulas
from isoflop.ledger.audit import Audit
from isoflop.objectives.losses.next_token import NextToken
from isoflop.train.restore import restore, trained
from isoflop.train.run import train
from transformer_toys import VOCAB, context

FIELDS: dict[str, dict[str, Any]] = {
    "lora": {"rank": 3, "rank_stabilized": True},
    "dora": {"rank": 3},
    "cat": {"adapters": ("a", "b")},
    "composed": {"parts": ("nm", "integer")},
}
PARTS = names("parametrization")
WEIGHTS = [name for name in PARTS if issubclass(get("parametrization", name), WeightPart) or name == "composed"]
"""Those that put another weight in a weight's place: one is tried in every way, since they share how they do it."""
MANY = [name for name in PARTS if name not in WEIGHTS or name == "soft_threshold"]
FEW = [name for name in WEIGHTS if name not in MANY]
FEED_FORWARDS = names("feed_forward")
ROWS, COLUMNS = 6, 12
FROZEN: list[tuple[str, ...]] = [
    (), ("embedding",), ("hidden",), ("norm", "embedding"), ("head",), ("blocks.0.*", "embedding"),
    ("*.q.weight", "*.gate.weight"), ("embedding", "norm", "hidden"),
]  # fmt: skip


def part_of(name: str, **fields: Any) -> ParametrizationPart:
    part: Any = get("parametrization", name)(**{**FIELDS.get(name, {}), **fields})
    others = [get("parametrization", "lora")(rank=rank) for rank in (2, 3)]  # type: ignore[call-arg]
    return part.given(dict(zip("ab", others, strict=True)))  # type: ignore[no-any-return]


def model_part(treatment: Treatment, **fields: Any) -> Any:
    return get("model", "transformer")(d_model=16, layers=2, **fields).treated(treatment)  # type: ignore[attr-defined]


def batch() -> TokenBatch:
    ids = torch.randint(0, VOCAB, (2, 12), generator=torch.Generator().manual_seed(0))
    return TokenBatch(ids[:, :-1], ids[:, 1:], 0)


def stir(module: torch.nn.Module) -> None:
    """Move every parameter off its start, so that nothing is zero by chance."""
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(torch.randn(p.shape, generator=draw), alpha=0.1)


@pytest.mark.parametrize("name", PARTS)
def test_it_meets_its_protocol_and_bakes_in_what_it_computes(name: str) -> None:
    part = part_of(name)
    assert part.card.summary
    live = part.build(ROWS, COLUMNS, Rng(1))
    assert isinstance(live, Parametrization)
    by_name = {shape.name: shape for shape in shapes_of(parameter_groups(live))}
    assert by_name == {shape.name: shape for shape in part.shapes(ROWS, COLUMNS)}
    stir(live)
    weight = torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(2))
    x = torch.randn(5, COLUMNS, generator=torch.Generator().manual_seed(3))
    for module in live.modules():
        if isinstance(module, Timed):
            module.at(10, 10)
    live.eval()
    with torch.no_grad():
        torch.testing.assert_close(live.product(weight, torch.float32)(x), x @ live.finalize(weight).T)
    assert live.product(weight, torch.bfloat16)(x.bfloat16()).dtype == torch.bfloat16


EVERY: list[Any] = [
    *itertools.product(
        [{}, {"tied": True}, *({"feed_forward": name} for name in FEED_FORWARDS)], [*MANY, None], FROZEN
    ),
    *itertools.product([{}, {"feed_forward": "gelu"}], FEW, [(), ("*.q.weight", "*.gate.weight")]),
]


@pytest.mark.parametrize(("fields", "name", "frozen"), EVERY, ids=str)
def test_work_is_what_is_executed_whatever_is_frozen(fields: Any, name: str | None, frozen: tuple[str, ...]) -> None:
    treatment = Treatment(None if name is None else part_of(name), frozen)
    part = model_part(treatment, **fields)
    if not part.trained_shapes(VOCAB):
        pytest.skip("nothing is trained")
    model = part.build(context())
    groups = parameter_groups(model)
    assert sorted(s.name for s in shapes_of(groups)) == sorted(s.name for s in part.trained_shapes(VOCAB))
    with Audit() as audit:
        NextToken(model).loss(batch()).total.backward()
    assert audit.total() == part.work(2, 11, VOCAB).total.executed
    for parameter, p in model.named_parameters():
        assert (p.grad is not None) == p.requires_grad, parameter


SCALE = new_role("scale_of_a_row", decays=False)


class RowScale(torch.nn.Module):
    """A trained factor a row, of a role of its own."""

    role = SCALE

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(rows))

    def finalize(self, weight: torch.Tensor) -> torch.Tensor:
        return weight * self.scale[:, None]

    def product(self, weight: torch.Tensor, dtype: torch.dtype) -> Any:
        cast = self.finalize(weight).to(dtype)
        return lambda x: F.linear(x, cast)


class RowScalePart(ParametrizationPart):
    name: ClassVar[str] = "row_scale"

    def build(self, rows: int, columns: int, rng: Rng) -> RowScale:
        return RowScale(rows)

    def shapes(self, rows: int, columns: int) -> list[Shape]:
        return [Shape("scale", SCALE, (rows,))]

    def work(self, tokens: int, rows: int, columns: int, *, trained: bool, live: bool, own: frozenset[str]) -> Work:
        needed = trained or "scale" in own
        return formulas.linear(tokens, columns, rows, input_gradient=live, weight_gradient=needed)


@pytest.mark.parametrize("frozen", [*FROZEN, ("norm", "embedding", "blocks.1.*")], ids=str)
def test_a_part_is_told_which_of_its_own_parameters_are_frozen(frozen: tuple[str, ...]) -> None:
    for rules in (frozen, (SCALE, *frozen)):
        part = model_part(Treatment(RowScalePart(), rules))
        model = part.build(context())
        with Audit() as audit:
            NextToken(model).loss(batch()).total.backward()
        assert audit.total() == part.work(2, 11, VOCAB).total.executed, rules
        for parameter, p in model.named_parameters():
            assert (p.grad is not None) == p.requires_grad, parameter


HELD: list[tuple[str, ...]] = [
    *FROZEN, ("embedding", "norm", "*.feed_forward.*"), ("embedding", "norm", "*.mixer.*")
]  # fmt: skip
CHECKPOINTED: list[Any] = [
    *itertools.product([*MANY, None], HELD, ["pre_norm", "parallel", "sandwich"]),
    *itertools.product(FEW, [()], ["pre_norm"]),
]


@pytest.mark.parametrize(("name", "frozen", "arrangement"), CHECKPOINTED, ids=str)
def test_checkpointed_activations_give_the_same_gradients_for_a_bill_that_is_exact(
    name: str | None, frozen: tuple[str, ...], arrangement: str
) -> None:
    """The forward is done again up to what autograd kept last in each block, and no further where all is plain."""
    gradients = []
    for checkpointing in (False, True):
        treatment = Treatment(None if name is None else part_of(name), frozen, checkpointing)
        part = model_part(treatment, arrangement=arrangement)
        if not part.trained_shapes(VOCAB):
            pytest.skip("nothing is trained")
        model = part.build(context())
        work = part.work(2, 11, VOCAB)
        with Audit() as audit:
            NextToken(model).loss(batch()).total.backward()
        assert audit.total() == work.total.executed
        assert checkpointing or not work.recompute.executed
        assert work.recompute.flops == 0
        gradients.append([p.grad for p in model.parameters() if p.requires_grad])
    assert all(map(torch.equal, *gradients))


@pytest.mark.parametrize("name", PARTS)
def test_targets_choose_the_matrices(name: str) -> None:
    part = model_part(Treatment(part_of(name, targets=("*.mixer.q", "*.down"))))
    model = part.build(context())
    chosen = {n for n, module in model.named_modules() if getattr(module, "parametrization", None) is not None}
    assert chosen == {f"blocks.{i}.{m}" for i in (0, 1) for m in ("mixer.q", "feed_forward.down")}


@pytest.mark.parametrize("name", PARTS)
def test_merged_weights_give_the_logits_of_the_parametrized_model(name: str) -> None:
    model = model_part(Treatment(part_of(name))).build(context())
    stir(model)
    for module in model.modules():
        if isinstance(module, Timed):
            module.at(1, 1)
    model.eval()
    plain = model_part(Treatment(part_of(name)) if name == "mx" else Treatment()).build(
        context()
    )  # it rounds activations
    plain.load_state_dict(merged(model))
    with torch.no_grad():
        torch.testing.assert_close(plain(batch().inputs), model(batch().inputs), rtol=0, atol=1e-5)
        if isinstance(part_of(name), WeightPart):
            assert torch.equal(plain(batch().inputs), model(batch().inputs))
        cache = model.make_cache(2, 11)
        torch.testing.assert_close(model.step(batch().inputs, cache), model(batch().inputs), rtol=0, atol=1e-5)


TINY = (
    'source={name="hmm", text_bytes=20000, heldout_bytes=1000}',
    "tokenizer=bytes",
    "model={name='transformer', d_model=16, layers=1}",
    "train={length=16, batch=2, evaluations=2, checkpoints=2}",
    "budget={steps=12}",
)


@pytest.mark.parametrize("name", [name for name in PARTS if not part_of(name).adopts])
def test_it_trains_under_audit_and_loads_again(name: str, tmp_path: Path) -> None:
    written = '["nm", "integer"]' if name == "composed" else name
    recipe = Recipe.load("small", *TINY, f"parametrization={written}")
    run = train(recipe, tmp_path, audit=True)
    assert run.result["status"] == "done"
    live = trained(run).model
    assert any(".parametrization" in n for n, _ in live.named_modules())
    before = recipe.policy.build(context(vocab_size=recipe.vocab_size, rng=recipe.rng)).state_dict()
    after = live.state_dict()
    if recipe.parametrization is not None and recipe.parametrization.alone:
        for key, weight in after.items():
            assert torch.equal(weight, before[key]) == (".parametrization." not in key), key


def test_frozen_parameters_stay_as_they_are_to_the_byte(tmp_path: Path) -> None:
    recipe = Recipe.load("small", *TINY, 'freeze=["embedding", "*.mixer.*"]', "optimizer=muon")
    run = train(recipe, tmp_path, audit=True)
    before = recipe.policy.build(context(vocab_size=recipe.vocab_size, rng=recipe.rng)).state_dict()
    for key, weight in trained(run).model.state_dict().items():
        assert torch.equal(weight, before[key]) == (key == "embedding.weight" or ".mixer." in key), key


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ('freeze=["nonsense"]', "'nonsense' is no role and matches no parameter's name"),
        ('freeze=["*"]', "leaves nothing to train"),
        ('parametrization={name="lora", targets=["*.nowhere"]}', "matches no matrix within the blocks"),
    ],
)
def test_rules_that_mean_nothing_are_refused(override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message.replace("*", r"\*")):
        Recipe.load("small", *TINY, override)


def test_rounding_begins_at_its_share_of_the_run(tmp_path: Path) -> None:
    late = train(Recipe.load("small", *TINY, 'parametrization={name="integer", bits=2, begin=0.5}'), tmp_path)
    never = train(Recipe.load("small", *TINY), tmp_path)
    always = train(Recipe.load("small", *TINY, 'parametrization={name="integer", bits=2}'), tmp_path)
    losses = [[record["loss"] for record in run.metrics("step")] for run in (late, never, always)]
    assert losses[0][:6] == pytest.approx(losses[1][:6], rel=1e-5)
    assert losses[0][6] != pytest.approx(losses[1][6], rel=1e-5)
    assert losses[2][0] != pytest.approx(losses[1][0], rel=1e-5)
    for run in (late, always):  # what is measured and used later is rounded as in training
        assert restore(run).measure()["bits_per_byte"].value == pytest.approx(run.result["value"], rel=1e-6)
        live = trained(run).model
        row = live.get_submodule("blocks.0.mixer.q").product(torch.float32)(torch.eye(16))[:, 0]  # type: ignore[operator]
        assert len(row.unique()) <= 3, "two bits: -s, 0 and s"

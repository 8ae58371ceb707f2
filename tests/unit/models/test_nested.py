"""Nested widths: each is a model of its own, pays for itself, and leaves the rest alone."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from isoflop.core.contracts import VARIANT, TokenBatch, Treatment
from isoflop.core.errors import RecipeError
from isoflop.core.recipe import Recipe
from isoflop.core.registry import get, names
from isoflop.core.rng import Rng
from isoflop.core.roles import parameter_groups
from isoflop.core.turns import Turns
from isoflop.ledger.audit import Audit
from isoflop.ledger.budgets import step_cost
from isoflop.models.architectures.transformer import TransformerPart
from isoflop.models.feed_forwards.nested import NestedPart
from isoflop.models.variants import in_variant
from isoflop.objectives.losses.nested import NestedLossPart
from isoflop.objectives.losses.next_token import NextToken
from isoflop.train.problem import training_rule
from isoflop.train.run import train
from transformer_toys import VOCAB, context, part

WIDTHS = (8, 24, 40)
UNITS = ["swiglu", "geglu", "gelu", "squared_relu"]
TINY: dict[str, Any] = {
    "source": {"name": "hmm", "text_bytes": 20_000, "heldout_bytes": 2000},
    "model": {"name": "transformer", "d_model": 16, "feed_forward": {"name": "nested", "widths": [8, 16, 40]}},
    "budget": {"steps": 5},
    "schedule": "constant",
    "train": {"batch": 2, "length": 16, "evaluations": 1},
}


def nested(unit: str = "swiglu", **fields: Any) -> TransformerPart:
    return part(feed_forward={"name": "nested", "widths": WIDTHS, "unit": unit}, **fields)


def tokens(rows: int = 2, length: int = 21) -> Tensor:
    return torch.randint(0, VOCAB, (rows, length), generator=torch.Generator().manual_seed(0))


def plain_tensors(made: TransformerPart, model: torch.nn.Module, widths: list[int]) -> dict[str, Tensor]:
    """Tensors of the model whose layers have these widths and are plain."""
    found = {name: tensor for name, tensor in model.state_dict().items() if ".segments." not in name}
    for layer, width in enumerate(widths):
        own, prefix = made.blocks()[layer][1], f"blocks.{layer}.feed_forward."
        assert isinstance(own, NestedPart)
        inside = {n.removeprefix(prefix): t for n, t in model.state_dict().items() if n.startswith(prefix)}
        for name, tensor in own.joined(inside, made.d_model)[1].items():
            found[prefix + name] = tensor[:, :width] if name.startswith("down.") else tensor[:width]
    return found


def plain(unit: str, width: int, **fields: Any) -> TransformerPart:
    return part(feed_forward={"name": unit, "hidden": width}, **fields)


@pytest.mark.parametrize("unit", UNITS)
def test_each_width_is_the_plain_model_of_that_width(unit: str) -> None:
    made = nested(unit)
    model = made.build(context()).eval()
    for variant, width in enumerate(WIDTHS):
        alone = plain(unit, width).build(context(rng=Rng(1)))
        alone.load_state_dict(plain_tensors(made, model, [width, width]))
        with in_variant(model, variant):
            torch.testing.assert_close(model(tokens()), alone(tokens()), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(model(tokens()), alone(tokens()), rtol=1e-6, atol=1e-6)  # in use it is whole
    assert len(alone.state_dict()) < len(model.state_dict())


def test_a_step_draws_a_width_in_training_alone() -> None:
    made = nested()
    model = made.build(context(rng=Rng(4)))
    turns = Turns(Rng(4)(VARIANT), len(WIDTHS))
    whole = model.eval()(tokens())
    for step in range(6):
        for block in model.blocks:
            block.feed_forward.at(step, 6)
        assert torch.equal(model.eval()(tokens()), whole)
        found = model.train()(tokens())
        with in_variant(model, turns.at(step)):
            assert torch.equal(found, model(tokens()))
        assert torch.equal(found, whole) == (turns.at(step) == len(WIDTHS) - 1)


def test_the_whole_starts_as_a_plain_model_does() -> None:
    """Entries of every matrix have the standard deviation of the plain model's."""
    made = part(d_model=128, feed_forward={"name": "nested", "widths": (64, 128, 512)})
    ours = plain_tensors(made, made.build(context()), [512, 512])
    theirs = plain("swiglu", 512, d_model=128).build(context()).state_dict()
    for name, tensor in ours.items():
        if tensor.ndim == 2:
            assert float(tensor.std()) == pytest.approx(float(theirs[name].std()), rel=0.05), name


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("freeze", [(), ("embedding", "norm", "*.gate.weight", "*.mixer.*"), ("*.down.weight",)])
def test_a_step_pays_for_its_width_and_touches_nothing_else(checkpointing: bool, freeze: tuple[str, ...]) -> None:
    made = nested().treated(Treatment(checkpointing=checkpointing, freeze=freeze))
    for precision in ("fp32",) if freeze else ("fp32", "bf16"):
        model = made.build(context(precision=precision))
        for variant in range(len(WIDTHS)):
            for module in model.modules():
                if hasattr(module, "take"):
                    module.take(variant)
            model.zero_grad()
            with Audit() as audit:
                model(tokens()).float().square().mean().backward()
            assert audit.total() == made.varied(variant).work(2, 21, VOCAB).total.executed
            idle = {n for n, p in model.named_parameters() if p.requires_grad and p.grad is None}
            assert idle == {n for n in made.varied(variant).idle() if model.get_parameter(n).requires_grad}
    assert made.work(2, 21, VOCAB) == made.varied(len(WIDTHS) - 1).work(2, 21, VOCAB)
    assert made.idle() == frozenset()


def test_activations_are_computed_again_in_the_width_that_they_had() -> None:
    """By the time of the backward pass another width may have been taken."""
    models = [nested().treated(Treatment(checkpointing=each)).build(context()) for each in (False, True)]
    for model in models:
        total = torch.zeros(())
        for variant in range(len(WIDTHS)):
            with in_variant(model, variant):
                total = total + model(tokens()).square().mean()
        with in_variant(model, 0):
            total.backward()
    for (name, one), other in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        torch.testing.assert_close(other.grad, one.grad, msg=name)


def rules() -> list[str]:
    """Optimizers that make no passes of their own, which are refused with nested widths."""
    model = {"name": "transformer", "d_model": 16, "feed_forward": "nested"}
    found = []
    for name in names("optimizer"):
        try:
            Recipe.from_json({**TINY, "optimizer": name, "model": model})
        except RecipeError:
            continue
        found.append(name)
    return found


def test_optimizers_that_make_passes_of_their_own_are_refused() -> None:
    assert set(names("optimizer")) - set(rules()) <= {"gauss_newton", "mars", "sophia_g"}
    with pytest.raises(RecipeError, match=r"gauss_newton makes passes of its own, whose price .* use adamw, muon"):
        Recipe.from_json({**TINY, "optimizer": "gauss_newton"})


@pytest.mark.parametrize("name", rules())
def test_an_unused_tail_keeps_weights_and_state_to_the_bit(name: str) -> None:
    model = nested(layers=1).build(context())
    groups = tuple(parameter_groups(model))
    rule = training_rule(get("optimizer", name)().build(context(groups=groups, horizon=8)))  # type: ignore[attr-defined]
    tail = {n: p for n, p in model.named_parameters() if n in nested(layers=1).varied(0).idle()}
    states: Any = getattr(rule, "optimizer", rule)

    class Steps:
        """The problem, as far as these rules ask."""

        def backward(self) -> Any:
            model.zero_grad()
            model(tokens()).square().mean().backward()

    def held() -> dict[str, Any]:
        own = {n: copy.deepcopy(dict(states.state.get(p, {}))) for n, p in tail.items()}
        return {"weights": {n: p.detach().clone() for n, p in tail.items()}, "state": own}

    for _ in range(6):  # some rules only watch at first
        rule.step(Steps())  # type: ignore[arg-type]
    before, first = held(), model.get_parameter("blocks.0.feed_forward.segments.0.up.weight").detach().clone()
    with in_variant(model, 0):
        for _ in range(2):
            rule.step(Steps())  # type: ignore[arg-type]
    after = held()
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert not torch.equal(first, model.get_parameter("blocks.0.feed_forward.segments.0.up.weight"))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"objective": "nested"},
        {"optimizer": "muon", "budget": {"steps": 7}},
        {"optimizer": {"name": "soap", "precondition_frequency": 2}, "budget": {"steps": 11}},
        {"parametrization": {"name": "nm", "n": 1, "m": 8, "structure": "stepwise"}, "budget": {"steps": 9}},
    ],
    ids=str,
)
def test_a_run_is_billed_to_the_integer(changes: dict[str, Any], tmp_path: Path) -> None:
    recipe = Recipe.from_json({**TINY, **changes})
    done = train(recipe, tmp_path, audit=True)
    cost, steps = step_cost(recipe), int(recipe.budget.limit)
    assert done.ledger["train"]["flops"] == cost.phases(steps)["train"].flops
    each = sum(cost.work_at(t, steps).total.flops for t in range(steps))
    assert done.ledger["train"]["flops"] == each
    assert done.ledger["optimizer"]["hardware_flops"] == cost.phases(steps)["optimizer"].executed
    plain = {**TINY["model"], "feed_forward": {"name": "swiglu", "hidden": 40}}
    if "objective" not in changes:
        assert cost.run(steps).flops < step_cost(Recipe.from_json({**TINY, **changes, "model": plain})).run(steps).flops


def test_the_joint_loss_is_the_mean_over_the_widths() -> None:
    made = nested()
    model = made.build(context())
    ids = tokens(3, 10)
    batch = TokenBatch(ids[:, :-1], ids[:, 1:], text_bytes=20)
    joint = NestedLossPart().build(context(models={"policy": model})).loss(batch)
    alone = []
    for variant in range(len(WIDTHS)):
        with in_variant(model, variant):
            alone.append(NextToken(model).loss(batch).total)
    torch.testing.assert_close(joint.total, torch.stack(alone).mean())
    assert [float(joint.terms[f"variant {i}"]) for i in range(3)] == [float(loss.detach()) for loss in alone]
    with Audit() as audit:
        NestedLossPart().build(context(models={"policy": model})).loss(batch).total.backward()
    assert audit.total() == NestedLossPart().work(made, 3, 9, VOCAB).total.executed
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"widths": [64, 32]}, r"feed_forward\.widths: \[64, 32\] do not nest.*use \[32, 64\]"),
        ({"widths": [32, 32, 64]}, r"widths: \[32, 32, 64\] do not nest.*use \[32, 64\]"),
        ({"unit": {"name": "swiglu", "hidden": 32}}, r"unit\.hidden: the widths say it"),
        ({"unit": {"name": "gelu", "bias": True}}, r"unit\.bias: each segment would add its own"),
        ({"unit": "nested"}, r"unit: nested has no hidden units that could be nested; use swiglu"),
    ],
)
def test_widths_that_do_not_nest_are_refused(changes: dict[str, Any], problem: str) -> None:
    model = {**TINY["model"], "feed_forward": {"name": "nested", **changes}}
    with pytest.raises(RecipeError, match=problem):
        Recipe.from_json({**TINY, "model": model})


def test_layers_of_unequal_numbers_of_widths_are_refused() -> None:
    lists = [{"name": "nested", "widths": [8, 16]}, {"name": "nested", "widths": [8, 16, 32]}]
    with pytest.raises(RecipeError, match=r"layers have \[2, 3\] widths, one of which a step draws for all"):
        Recipe.from_json({**TINY, "model": {**TINY["model"], "feed_forward": lists}})
    Recipe.from_json({**TINY, "model": {**TINY["model"], "feed_forward": [lists[0], "swiglu"]}})


def test_the_joint_loss_needs_several_widths() -> None:
    with pytest.raises(RecipeError, match=r"nested needs a model of several widths; use model.feed_forward=nested"):
        Recipe.from_json({**TINY, "objective": "nested", "model": {"name": "transformer", "d_model": 16}})

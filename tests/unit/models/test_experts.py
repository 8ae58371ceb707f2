"""A mixture of experts: what it computes, what it costs, and how its load evens out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from isoflop.core.contracts import Treatment
from isoflop.core.errors import RecipeError
from isoflop.core.recipe import Recipe
from isoflop.core.rng import Rng
from isoflop.ledger.audit import Audit
from isoflop.ledger.budgets import step_cost
from isoflop.models.feed_forwards.experts import ExpertLayer, ExpertsPart, loads
from isoflop.models.feed_forwards.swiglu import SwiGlu
from isoflop.models.layers import initialise
from isoflop.train.run import train
from transformer_toys import VOCAB, context, part

TINY: dict[str, Any] = {
    "source": {"name": "hmm", "text_bytes": 20_000, "heldout_bytes": 2000},
    "model": {"name": "transformer", "d_model": 16, "feed_forward": {"name": "experts", "experts": 4, "hidden": 8}},
    "budget": {"steps": 6},
    "train": {"batch": 2, "length": 16, "evaluations": 1},
}


def layer(experts: int = 6, chosen: int = 2, rate: float = 0.001) -> ExpertLayer:
    made = ExpertLayer(32, 16, experts, chosen, rate)
    initialise(made, Rng(3), 1.0)
    return made


def vectors(count: int = 40) -> Tensor:
    return torch.randn(2, count // 2, 32, generator=torch.Generator().manual_seed(1))


def dense(made: ExpertLayer, x: Tensor) -> Tensor:
    """Every expert on every vector, the weights of those that are not chosen 0."""
    affinities = torch.sigmoid(F.linear(x, made.router.weight))
    chosen = (affinities + made.bias).topk(made.chosen, -1).indices
    weights = torch.zeros_like(affinities).scatter(-1, chosen, affinities.gather(-1, chosen))
    weights = weights / weights.sum(-1, keepdim=True)
    each = [expert(x, expert.products(torch.float32)) for expert in made.experts]  # type: ignore[operator]
    return sum(weights[..., i, None] * out for i, out in enumerate(each))  # type: ignore[return-value]


@pytest.mark.parametrize("chosen", [1, 2, 6])
def test_it_is_the_dense_sum_with_the_chosen_weights(chosen: int) -> None:
    """With all chosen it is the sum of all experts, each by its affinity."""
    made, x = layer(chosen=chosen), vectors().requires_grad_()
    made.bias.copy_(torch.linspace(-0.3, 0.3, 6))
    found, expected = made(x, made.products(torch.float32)), dense(made, x)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    wanted = [x, *made.parameters()]
    ours, theirs = (torch.autograd.grad(out.square().sum(), wanted) for out in (found, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_one_expert_is_a_plain_layer() -> None:
    made, x = layer(experts=1, chosen=1), vectors()
    alone = made.experts[0]
    assert isinstance(alone, SwiGlu)
    torch.testing.assert_close(made(x, made.products(torch.float32)), alone(x, alone.products(torch.float32)))


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("freeze", [(), ("embedding", "norm", "*.mixer.*", "*.gate.weight", "*.router.weight")])
def test_work_is_that_of_the_active_experts_whatever_the_load(checkpointing: bool, freeze: tuple[str, ...]) -> None:
    fields = {"name": "experts", "experts": 5, "chosen": 2, "hidden": 12}
    made = part(feed_forward=fields).treated(Treatment(checkpointing=checkpointing, freeze=freeze))
    tokens = torch.randint(0, VOCAB, (2, 21), generator=torch.Generator().manual_seed(0))
    for lopsided in (0.0, 100.0):
        model = made.build(context())
        for block in model.blocks:
            block.feed_forward.bias[:2] = lopsided  # two experts get everything, three get nothing
        with Audit() as audit:
            model(tokens).square().mean().backward()
        assert audit.total() == made.work(2, 21, VOCAB).total.executed
        assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
        model.eval()
        with Audit() as quiet, torch.no_grad():
            model(tokens)
        assert quiet.total() == made.work(2, 21, VOCAB).forward.executed
    plain = part(feed_forward={"name": "swiglu", "hidden": 24}).work(2, 21, VOCAB).forward.flops
    router = 2 * 2 * 21 * 2 * 32 * 5
    assert made.work(2, 21, VOCAB).forward.flops == plain + router


def test_biases_even_out_the_load() -> None:
    made = layer(experts=4, chosen=1, rate=0.02)
    with torch.no_grad():
        made.router.weight[0] *= 4  # which one direction of the vectors prefers
    x, shares = vectors(200), []
    x = x + 0.5 * made.router.weight[0].detach() / made.router.weight[0].norm()
    for step in range(60):
        made.at(step, 60)
        made(x, made.products(torch.float32))
        shares.append(float(made.load.max() / made.load.double().mean()))
    assert shares[0] > 1.8
    assert shares[-1] < 1.3
    assert ExpertLayer(32, 16, 4, 1, rate=0.0).bias.abs().max() == 0


def test_loads_are_the_shares_of_the_choices() -> None:
    model = part(feed_forward={"name": "experts", "experts": 4, "hidden": 8}).build(context())
    tokens = torch.randint(0, VOCAB, (2, 21), generator=torch.Generator().manual_seed(0))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = loads(model, tokens)
    assert list(found) == ["blocks.0.feed_forward", "blocks.1.feed_forward"]
    model(tokens)  # which counts, in training
    for block, share in zip(model.blocks, found.values(), strict=True):
        torch.testing.assert_close(share, block.feed_forward.load / (2 * 2 * 21), check_dtype=False)
        block.feed_forward.load.zero_()
        block.feed_forward.bias[3] = -9.0
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items() if "bias" not in name)
    assert all(float(share[3]) == 0 for share in loads(model, tokens).values())


def test_a_load_is_settled_once_and_only_in_training() -> None:
    made, x = layer(), vectors()
    made.at(0, 3)
    made(x, made.products(torch.float32))
    again = layer()
    again.load_state_dict(made.state_dict())
    again.at(0, 3)  # as after a checkpoint was loaded
    assert torch.equal(again.load, made.load)
    for each in (made, again):
        each.at(1, 3)
        assert int(each.load.sum()) == 0
    assert torch.equal(made.bias, again.bias)
    assert float(made.bias.abs().max()) == pytest.approx(0.001)
    made.eval()(x, made.products(torch.float32))
    with torch.no_grad():
        made.train()(x, made.products(torch.float32))
    assert int(made.load.sum()) == 0
    fresh = layer()
    fresh.load_state_dict(again.state_dict())
    fresh.at(0, 9)  # a new run that starts from these weights counts from 0
    assert torch.equal(fresh.bias, again.bias)


def test_a_run_is_billed_to_the_integer_and_goes_on_to_the_bit(tmp_path: Path) -> None:
    recipe = Recipe.from_json(TINY)
    done = train(recipe, tmp_path, audit=True)
    assert done.ledger["train"]["hardware_flops"] == step_cost(recipe).phases(6)["train"].executed
    biases = [t for n, t in tensors_of(done).items() if n.endswith("feed_forward.bias")]
    assert len(biases) == 2
    assert all(float(bias.abs().max()) > 0 for bias in biases)


def tensors_of(run: Any) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    found = run.checkpoint()
    return load_file(found[1] / "model.safetensors")


def test_more_experts_than_there_are_cannot_be_chosen() -> None:
    model = {"name": "transformer", "d_model": 16, "feed_forward": {"name": "experts", "experts": 4, "chosen": 5}}
    with pytest.raises(RecipeError, match=r"feed_forward\.chosen: 5 experts cannot be chosen of 4; use 4 at most"):
        Recipe.from_json({**TINY, "model": model})


def test_default_experts_are_as_wide_as_a_plain_layer() -> None:
    assert ExpertsPart().inner(48) * 2 == 128


def test_each_evaluation_records_the_load_of_the_step_before(tmp_path: Path) -> None:
    run = train(Recipe.from_json({**TINY, "train": {**TINY["train"], "evaluations": 2}}), tmp_path)
    told = [record["weights"] for record in run.metrics("evaluation")]
    assert len(told) >= 2
    for facts in told:
        assert list(facts) == ["blocks.0.feed_forward", "blocks.1.feed_forward"]
        for shares in facts.values():
            assert list(shares) == [f"expert {number}" for number in range(4)]
            assert sum(shares.values()) == pytest.approx(1.0)
            counts = [share * 2 * 16 * 2 for share in shares.values()]
            assert counts == pytest.approx([round(count) for count in counts]), "shares of one step's choices"


def test_before_the_first_step_there_is_no_load() -> None:
    assert layer().told_of_use() == {}

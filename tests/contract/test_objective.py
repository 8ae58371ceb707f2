"""What every part of the slot objective must do."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from isoflop.core.context import Context
from isoflop.core.contracts import (
    Draws,
    Likelihood,
    Linearizing,
    Loss,
    Objective,
    Predicts,
    Resampling,
    Stateful,
    TokenBatch,
    Treatment,
)
from isoflop.core.cost import Cost
from isoflop.core.registry import names
from isoflop.core.rng import Rng
from isoflop.core.roles import parameter_groups
from isoflop.ledger.audit import Audit
from isoflop.optim.linearization import forward_mode
from objective_toys import MODELS, objective_of
from transformer_toys import VOCAB, context, part

PARTS = names("objective")


def batch_of(rows: int = 4, length: int = 9, masked: bool = False) -> TokenBatch:
    ids = torch.randint(0, VOCAB - 2, (rows, length + 1), generator=torch.Generator().manual_seed(1))
    mask = torch.arange(rows * length).view(rows, length) % 4 != 0 if masked else None
    return TokenBatch(ids[:, :-1], ids[:, 1:], text_bytes=100, mask=mask, draws=Draws(Rng(3)))


def rows_of(batch: TokenBatch, rows: slice) -> TokenBatch:
    mask = None if batch.mask is None else batch.mask[rows]
    return TokenBatch(batch.inputs[rows], batch.targets[rows], 50, mask, draws=Draws(Rng(3), first=rows.start))


def fresh(name: str) -> Context:
    """A policy for an objective, and under every other name a frozen model of the same vocabulary and other weights."""
    others = {
        name: part().build(context(rng=Rng(number))).requires_grad_(False) for number, name in enumerate(MODELS, 7)
    }
    policy = part().treated(Treatment(owned=objective_of(name).owned)).build(context())
    return context(models={"policy": policy, **others}, groups=tuple(parameter_groups(policy)))


def moved(policy: Any) -> None:
    """Take a model away from where it was, which an objective may remember."""
    noise = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in policy.parameters():
            p += 0.02 * torch.randn(p.shape, generator=noise)


@functools.cache
def kept(owner: str) -> Context:
    """One context for all objectives that own nothing, and one for each that does."""
    return fresh(owner)


@pytest.fixture
def ctx(request: pytest.FixtureRequest) -> Context:
    name = request.node.callspec.params["name"]
    return kept(name if objective_of(name).owned is not None else "next_token")


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", PARTS)
def test_loss_is_a_sum_over_its_units(name: str, masked: bool) -> None:
    chosen = objective_of(name)
    assert chosen.card.summary
    own = fresh(name)
    objective, batch = chosen.build(own), batch_of(masked=masked)
    moved(own.policy)
    assert isinstance(objective, Objective)
    whole = objective.loss(batch)
    assert isinstance(whole, Loss)
    assert whole.total.shape == ()
    assert whole.total.requires_grad
    assert all(not term.requires_grad for term in whole.terms.values())
    halves = [objective.loss(rows_of(batch, rows)) for rows in (slice(0, 2), slice(2, 4))]
    torch.testing.assert_close(sum(half.total for half in halves), whole.total)


@pytest.mark.parametrize("name", PARTS)
def test_loss_without_gradient_is_the_same_number(name: str, ctx: Context) -> None:
    objective = objective_of(name).build(ctx)
    with torch.no_grad():
        quiet = objective.loss(batch_of()).total
    assert not quiet.requires_grad
    torch.testing.assert_close(quiet, objective.loss(batch_of()).total.detach())


@pytest.mark.parametrize("name", [name for name in PARTS if objective_of(name).pattern is None])
def test_masked_targets_do_not_matter(name: str, ctx: Context) -> None:
    batch = batch_of(masked=True)
    assert batch.mask is not None
    other = TokenBatch(batch.inputs, batch.targets.where(batch.mask, torch.tensor(0)), 100, batch.mask)
    losses = [objective_of(name).build(ctx).loss(b).total for b in (batch, other)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("name", PARTS)
def test_capabilities_are_as_declared(name: str, ctx: Context) -> None:
    chosen = objective_of(name)
    live = chosen.build(ctx)
    for capability in (Likelihood, Linearizing, Predicts, Resampling, Stateful):
        assert isinstance(live, capability) == (capability in chosen.abilities), capability


@pytest.mark.parametrize("name", [name for name in PARTS if Likelihood in objective_of(name).abilities])
def test_a_likelihood_says_what_it_cost(name: str, ctx: Context) -> None:
    live, batch = objective_of(name).build(ctx), batch_of()
    assert isinstance(live, Likelihood)
    with torch.no_grad(), Audit() as audit:
        found = live.nll(batch)
    assert found.total.shape == ()
    assert float(found.total) > 0
    assert audit.total() == sum(cost.executed for cost in found.spent.values()) > 0


@pytest.mark.parametrize("name", [name for name in PARTS if Predicts in objective_of(name).abilities])
def test_one_that_predicts_gives_its_likeliest_targets(name: str, ctx: Context) -> None:
    live, batch = objective_of(name).build(ctx), batch_of()
    assert isinstance(live, Predicts)
    with Audit() as audit:
        guess = live.predict(batch)
    assert audit.total() == sum(cost.executed for cost in guess.spent.values()) > 0
    assert guess.ids.shape == batch.targets.shape
    other = TokenBatch(batch.inputs, torch.zeros_like(batch.targets), 100, draws=batch.draws)
    assert torch.equal(live.predict(other).ids, guess.ids), "the targets were looked at"
    best = live.loss(TokenBatch(batch.inputs, guess.ids, 100)).total
    for token in range(VOCAB):
        at = torch.zeros_like(guess.ids)
        at[1, 4] = 1
        worse = live.loss(TokenBatch(batch.inputs, guess.ids.where(at == 0, torch.tensor(token)), 100)).total
        assert worse >= best - 1e-4


@pytest.mark.parametrize("name", PARTS)
def test_work_equals_the_audit(name: str, ctx: Context) -> None:
    objective, batch = objective_of(name), batch_of()
    assert set(objective.uses) <= set(MODELS)
    with Audit() as audit:
        loss = objective.build(ctx).loss(batch)
        loss.total.backward()
    beside = sum(cost.executed for cost in loss.spent.values())
    assert audit.total() == objective.work(part(), *batch.inputs.shape, VOCAB).total.executed + beside


@pytest.mark.parametrize("name", PARTS)
def test_a_loss_spends_beside_the_policy_what_was_planned(name: str, ctx: Context) -> None:
    objective, batch = objective_of(name), batch_of()
    models = {other: SimpleNamespace(model=part(), vocab_size=VOCAB) for other in MODELS}
    rows, length = batch.inputs.shape
    recipe = SimpleNamespace(
        models=models, train=SimpleNamespace(batch=rows, length=length), vocab_size=VOCAB, policy=part()
    )
    live = objective.build(ctx.having(length=length))
    once, charges = objective.once(recipe), objective.charges(recipe)
    assert live.loss(batch).spent == {
        phase: once.get(phase, Cost()) + charges.get(phase, Cost()) for phase in {**once, **charges}
    }
    assert live.loss(batch).spent == charges
    assert all(other.grad is None for name in MODELS for other in ctx.models[name].parameters())


@pytest.mark.parametrize("name", PARTS)
def test_a_small_step_down_the_gradient_lowers_the_loss(name: str) -> None:
    own = fresh(name)
    objective, batch = objective_of(name).build(own), batch_of()
    moved(own.policy)
    parameters = list(own.policy.parameters())
    loss = objective.loss(batch).total / batch.tokens
    grads = torch.autograd.grad(loss, parameters)
    squared = sum(float(g.square().sum()) for g in grads)
    rate = 1e-3 / squared**0.5
    with torch.no_grad():
        for p, g in zip(parameters, grads, strict=True):
            p -= rate * g
        after = objective.loss(batch).total / batch.tokens
    assert float(loss.detach() - after) == pytest.approx(rate * squared, rel=0.05)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", [name for name in PARTS if Linearizing in objective_of(name).abilities])
def test_a_linearizing_one_is_its_loss_of_the_outputs(name: str, masked: bool, ctx: Context) -> None:
    objective, batch = objective_of(name).build(ctx), batch_of(masked=masked)
    assert isinstance(objective, Linearizing)
    outputs, loss = objective.linearize(batch)
    parameters = {name: p.detach() for name, p in ctx.policy.named_parameters()}
    slope = torch.func.grad(lambda p: loss(outputs(p)))(parameters)
    whole = objective.loss(batch).total
    torch.testing.assert_close(loss(outputs(parameters)), whole.detach())
    expected = torch.autograd.grad(whole, list(ctx.policy.parameters()))
    for name, gradient in zip(parameters, expected, strict=True):
        torch.testing.assert_close(slope[name], gradient, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in PARTS if Linearizing in objective_of(name).abilities])
def test_a_linearizing_one_has_forward_mode_derivatives(name: str, ctx: Context) -> None:
    outputs, loss = objective_of(name).build(ctx).linearize(batch_of())  # type: ignore[attr-defined]
    at = {name: p.detach() for name, p in ctx.policy.named_parameters()}
    along = {name: torch.randn(p.shape, generator=torch.Generator().manual_seed(3)) for name, p in at.items()}
    with forward_mode():
        found = torch.func.jvp(lambda p: loss(outputs(p)), (at,), (along,))[1]  # type: ignore[misc]
    slope = torch.func.grad(lambda p: loss(outputs(p)))(at)
    torch.testing.assert_close(found, sum((slope[name] * along[name]).sum() for name in at), rtol=1e-4, atol=1e-4)

"""Penalties against forgetting: their values and gradients, once a step however it is split, and their bill."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from isoflop.core.contracts import Draws, TokenBatch
from isoflop.core.errors import DataError, RecipeError
from isoflop.core.recipe import Recipe
from isoflop.core.rng import Rng
from isoflop.core.roles import parameter_groups
from isoflop.core.slots import resolve
from isoflop.ledger.budgets import step_cost
from isoflop.objectives.losses.ewc import EWC
from isoflop.objectives.losses.l2_to_start import L2ToStart
from isoflop.objectives.losses.next_token import NextToken
from isoflop.objectives.losses.weighted import Weighted
from isoflop.objectives.pull import Pull
from isoflop.optim.averaging.sfa import SFA
from isoflop.store.run import Run
from isoflop.train.problem import StepProblem
from isoflop.train.restore import trained
from isoflop.train.run import train
from killing import rewind
from transformer_toys import VOCAB, context, part

Tiny = Callable[..., Path]
STRENGTH = 0.3


def model() -> Any:
    return part(mixer={"heads": 2}).build(context())


def rows(number: int, count: int) -> TokenBatch:
    """A batch in which every row has another number of targets that count."""
    ids = torch.randint(0, VOCAB, (count, 9), generator=torch.Generator().manual_seed(number))
    mask = torch.arange(8) < 2 + (number + torch.arange(count))[:, None] % 6
    return TokenBatch(ids[:, :-1], ids[:, 1:], 8, mask, draws=Draws(Rng(3), number))


def split(batch: TokenBatch, parts: int) -> list[TokenBatch]:
    size = len(batch.inputs) // parts
    assert batch.mask is not None
    cuts = [slice(i * size, (i + 1) * size) for i in range(parts)]
    return [TokenBatch(batch.inputs[c], batch.targets[c], 2, batch.mask[c]) for c in cuts]


def moved(policy: Any) -> None:
    draw = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for p in policy.parameters():
            p += 0.05 * torch.randn(p.shape, generator=draw)


def test_it_is_half_the_squared_distance_once_a_step_however_the_step_is_split() -> None:
    policy = model()
    groups = parameter_groups(policy)
    penalty = L2ToStart(Pull(groups), STRENGTH)
    objective = Weighted([NextToken(policy), penalty], [1.0, 1.0], ["next_token", "l2_to_start"])
    start = [p.detach().clone() for p in policy.parameters()]
    moved(policy)
    distance = sum(float((p - s).detach().square().sum()) for p, s in zip(policy.parameters(), start, strict=True))
    ctx = context(models={"policy": policy}, groups=tuple(groups))
    gradients, batch = {}, rows(1, 4)
    for parts in (1, 2, 4):
        outcome = StepProblem(objective, ctx, split(batch, parts)).backward()
        assert outcome.terms["l2_to_start"] == pytest.approx(STRENGTH / 2 * distance, rel=1e-5)
        assert outcome.loss == pytest.approx(sum(outcome.terms.values()), rel=1e-6)
        gradients[parts] = [p.grad.clone() for p in policy.parameters()]
    policy.zero_grad()
    (NextToken(policy).loss(batch).total / batch.units).backward()
    for plain, p, s, *found in zip(policy.parameters(), policy.parameters(), start, *gradients.values(), strict=True):
        for gradient in found:
            torch.testing.assert_close(gradient, plain.grad + STRENGTH * (p - s).detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 5])
def test_sgd_with_it_is_sgd_whose_weights_are_merged_with_the_start_each_step(steps: int) -> None:
    """(1 - b) (p - r g) + b p_0 = p - (1 - b) r g - b (p - p_0): SGD at the rate (1 - b) r, pulled with b over it."""
    beta, lr = 0.02, 0.1
    pulled, merged = model(), model()
    merged.load_state_dict(pulled.state_dict())
    groups = parameter_groups(pulled)
    strength = beta / ((1 - beta) * lr)
    objective = Weighted([NextToken(pulled), L2ToStart(Pull(groups), strength)], [1.0, 1.0], ["a", "b"])
    ctx = context(models={"policy": pulled}, groups=tuple(groups))
    other = context(models={"policy": merged}, groups=tuple(parameter_groups(merged)))
    ours = torch.optim.SGD(pulled.parameters(), lr=(1 - beta) * lr)
    theirs = torch.optim.SGD(merged.parameters(), lr=lr)
    average = SFA(list(merged.parameters()), period=1, beta=beta)
    began = [p.detach().clone() for p in pulled.parameters()]
    for step in range(steps):
        StepProblem(objective, ctx, [rows(step, 4)]).backward()
        ours.step()
        StepProblem(NextToken(merged), other, [rows(step, 4)]).backward()
        theirs.step()
        average.update(step)
    for a, b, s in zip(pulled.parameters(), merged.parameters(), began, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
        assert not torch.equal(a, s)


def test_to_first_order_the_rates_need_no_correction() -> None:
    """As the method's authors state it: strength = beta / lr at equal rates; what is left is beta lr g, a step."""
    beta, lr = 1e-5, 0.01
    pulled, merged = model(), model()
    merged.load_state_dict(pulled.state_dict())
    groups = parameter_groups(pulled)
    objective = Weighted([NextToken(pulled), L2ToStart(Pull(groups), beta / lr)], [1.0, 1.0], ["a", "b"])
    ctx = context(models={"policy": pulled}, groups=tuple(groups))
    other = context(models={"policy": merged}, groups=tuple(parameter_groups(merged)))
    average = SFA(list(merged.parameters()), period=1, beta=beta)
    rules = [torch.optim.SGD(policy.parameters(), lr=lr) for policy in (pulled, merged)]
    for step in range(5):
        StepProblem(objective, ctx, [rows(step, 4)]).backward()
        StepProblem(NextToken(merged), other, [rows(step, 4)]).backward()
        for rule in rules:
            rule.step()
        average.update(step)
    for a, b in zip(pulled.parameters(), merged.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


OLD = 'source={name="hmm", text_bytes=20000}'


def small() -> Any:
    """A model of 5 ids, small enough to enumerate what it may say."""
    chosen = part(d_model=8, layers=1, mixer={"heads": 2})
    return chosen.build(context(vocab_size=5))


def window() -> TokenBatch:
    ids = torch.tensor([[0, 3, 1, 4, 2, 2, 1]])
    return TokenBatch(ids[:, :-1], ids[:, 1:], 6, torch.tensor([[True] * 4 + [False, True]]))


def enumerated(policy: Any) -> list[torch.Tensor]:
    """The Fisher information of one target: every id that might follow, by its probability."""
    params, batch = list(policy.parameters()), window()
    sums = [torch.zeros_like(p) for p in params]
    assert batch.mask is not None
    for t in batch.mask[0].nonzero().flatten().tolist():
        for v in range(5):
            score = torch.log_softmax(policy(batch.inputs)[0, t], -1)[v]
            gradients = torch.autograd.grad(score, params)
            for total, g in zip(sums, gradients, strict=True):
                total += float(score.detach().exp()) * g.square()
    return [total / batch.units for total in sums]


def ewc(policy: Any, count: int, **fields: float) -> EWC:
    return EWC(Pull(parameter_groups(policy)), policy, itertools.repeat(window()), Rng(1), count, **fields)


def test_the_fisher_information_is_the_enumerated_one() -> None:
    policy = small()
    exact = dict(zip((name for name, _ in policy.named_parameters()), enumerated(policy), strict=True))
    live = ewc(policy, 700)
    found, _ = live.fisher()
    for name, estimate in zip(live.pull.names, found, strict=True):
        assert float(estimate.sum()) == pytest.approx(float(exact[name].sum()), rel=0.1), name
        assert torch.corrcoef(torch.stack([estimate.flatten(), exact[name].flatten()]))[0, 1] > 0.95, name


def test_of_one_weight_the_penalty_is_the_divergence_from_the_start() -> None:
    policy = small()
    live = ewc(policy, 1, strength=1.0)
    known = dict(zip((name for name, _ in policy.named_parameters()), enumerated(policy), strict=True))
    live.factors = [known[name] for name in live.pull.names]
    batch = window()
    assert batch.mask is not None
    with torch.no_grad():
        start = torch.log_softmax(policy(batch.inputs).double(), -1)
        for p in policy.parameters():
            p.view(-1)[3] += 0.01
            now = torch.log_softmax(policy(batch.inputs).double(), -1)
            divergence = float(((start.exp() * (start - now)).sum(-1) * batch.mask).sum())
            assert float(live.loss(batch).total) == pytest.approx(divergence, rel=0.1, abs=1e-7)
            p.view(-1)[3] -= 0.01


def test_it_is_estimated_once_and_kept() -> None:
    policy = small()
    live = ewc(policy, 2)
    assert live.state_dict() == {}
    first = live.loss(window())
    assert set(first.spent) == {"scoring"}
    moved(policy)
    assert not live.loss(window()).spent
    other = ewc(policy, 2)
    other.pull.start = live.pull.start
    other.load_state_dict(live.state_dict())
    again = other.loss(window())
    assert not again.spent
    assert torch.equal(again.total, live.loss(window()).total)


def test_windows_that_predict_nothing_are_no_old_text() -> None:
    policy, seen = small(), window()
    prompt = TokenBatch(seen.inputs, seen.targets, 0, torch.zeros(1, 6, dtype=torch.bool))
    live = EWC(Pull(parameter_groups(policy)), policy, itertools.repeat(prompt), Rng(1), 2)
    with pytest.raises(DataError, match="none of its first 2 windows predicts anything"):
        live.loss(seen)
    mixed = EWC(live.pull, policy, iter([prompt, seen]), Rng(1), 2)
    assert float(mixed.fisher()[0][0].sum()) > 0


PENALTIES = ['{name="l2_to_start", strength=0.1}', f'{{name="ewc", windows=5, {OLD}, strength=0.1}}']


@pytest.fixture
def first(tiny: Tiny, tmp_path: Path) -> Run:
    return train(Recipe.load(tiny("budget.steps=3")), tmp_path / "runs", name="a")


def weighted(penalty: str) -> str:
    return f'objective={{name="weighted", terms=[{{objective="next_token"}}, {{objective={penalty}}}]}}'


@pytest.mark.parametrize("penalty", PENALTIES)
def test_a_run_is_charged_exactly_what_was_planned(penalty: str, first: Run, tiny: Tiny, tmp_path: Path) -> None:
    chosen = ("train.accumulate=2", "budget.steps=4", f"start={first.path}", weighted(penalty))
    recipe = Recipe.load(tiny(), *chosen)
    run = train(recipe, tmp_path / "runs", audit=True)  # refuses to go on if the first steps are off by one FLOP
    for phase, cost in step_cost(recipe).phases(4).items():
        charged = run.ledger.get(phase, dict.fromkeys(("flops", "hardware_flops", "elementwise", "moved"), 0))
        planned = {"flops": cost.flops, "hardware_flops": cost.executed, "elementwise": cost.elementwise}
        assert {axis: charged[axis] for axis in planned} == planned, phase
    plain = recipe.with_("objective=next_token")
    assert step_cost(recipe).run(1).elementwise > step_cost(plain).run(1).elementwise
    limit = step_cost(recipe).run(3).flops
    assert train(recipe.with_(f"budget={{flops={limit}}}"), tmp_path / "runs").result["step"] == 3


@pytest.mark.parametrize("penalty", PENALTIES)
def test_a_run_goes_on_to_the_same_bytes(penalty: str, first: Run, tiny: Tiny, tmp_path: Path) -> None:
    recipe = Recipe.load(tiny("budget.steps=4", "train.checkpoints=2"), f"start={first.path}", weighted(penalty))
    run = train(recipe, tmp_path / "runs", name="whole")
    known, ledger = run.result["weights_sha256"], {phase: axes["flops"] for phase, axes in run.ledger.items()}
    rewind(run, 4)
    again = train(recipe, tmp_path / "runs", name="whole")
    assert again.result["weights_sha256"] == known
    assert {phase: axes["flops"] for phase, axes in again.ledger.items()} == ledger
    plain = train(recipe.with_("objective=next_token"), tmp_path / "runs", name="plain")
    assert plain.result["weights_sha256"] != known


@pytest.mark.parametrize("penalty", PENALTIES)
def test_it_holds_the_weights_back(penalty: str, first: Run, tiny: Tiny, tmp_path: Path) -> None:
    begun = torch.cat([t.flatten() for t in weights_of(first)])
    ends = []
    for objective in (weighted(penalty.replace("0.1", "1000.0")), "objective=next_token"):
        recipe = Recipe.load(tiny("budget.steps=12"), f"start={first.path}", objective)
        ends.append(torch.cat([t.flatten() for t in weights_of(train(recipe, tmp_path / "runs"))]))
    assert (ends[0] - begun).norm() < 0.7 * (ends[1] - begun).norm()


def weights_of(run: Run) -> list[torch.Tensor]:
    return list(trained(run).model.state_dict().values())


@pytest.mark.parametrize("penalty", PENALTIES)
def test_without_a_start_it_is_refused_by_name(penalty: str, tiny: Tiny) -> None:
    with pytest.raises(RecipeError, match="pulls to the weights that a run starts from, and there are none"):
        Recipe.load(tiny(), weighted(penalty))
    with pytest.raises(RecipeError, match=r"bits_per_byte needs objective to be Likelihood, which .* is not"):
        Recipe.load(tiny(), f"objective={penalty}")


def test_text_and_ids_are_not_mixed() -> None:
    chosen: Any = resolve("objective", {"name": "ewc", "source": "hmm"})
    recipe = SimpleNamespace(start="a run", source=SimpleNamespace(vocab_size=None))
    assert chosen.check(recipe) == []
    recipe.source.vocab_size = 53
    assert "both need one vocabulary" in chosen.check(recipe)[0]

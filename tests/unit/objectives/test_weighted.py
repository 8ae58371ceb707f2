"""A weighted sum of objectives: its losses, its gradient, its random numbers, its bill, and what it cannot do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from isoflop.core.contracts import Draws, Likelihood, Loss, ObjectivePart, TokenBatch
from isoflop.core.errors import RecipeError
from isoflop.core.recipe import Recipe
from isoflop.core.rng import Rng
from isoflop.core.slots import resolve
from isoflop.ledger.budgets import step_cost
from isoflop.objectives.losses.weighted import Weighted
from isoflop.train.run import train
from transformer_toys import VOCAB, context, part

TINY = (
    'source={name="hmm", text_bytes=20000, heldout_bytes=1000}',
    "tokenizer=bytes",
    "model={name='transformer', d_model=16, layers=1}",
    "train={length=16, batch=2, accumulate=2, evaluations=2, checkpoints=2}",
    "schedule=constant",
    "budget={steps=4}",
)
MASKED = '{objective={name="masked", samples=2}, weight=0.5}'
BOTH = f'objective={{name="weighted", terms=[{{objective="next_token"}}, {MASKED}]}}'


def part_of(*terms: Any) -> ObjectivePart:
    made: Any = resolve("objective", {"name": "weighted", "terms": list(terms)})
    return made  # type: ignore[no-any-return]


def batch_of() -> TokenBatch:
    ids = torch.randint(0, VOCAB - 1, (4, 10), generator=torch.Generator().manual_seed(1))
    return TokenBatch(ids[:, :-1], ids[:, 1:], text_bytes=36, draws=Draws(Rng(3)))


@pytest.fixture(scope="module")
def ctx() -> Any:
    return context(models={"policy": part().build(context())})


def test_it_is_the_weighted_sum_and_so_is_its_gradient(ctx: Any) -> None:
    parameters = list(ctx.policy.parameters())
    live = part_of({"objective": "next_token", "weight": 2.0}, {"objective": "masked", "weight": 0.25}).build(ctx)
    found = live.loss(batch_of())
    gradient = torch.autograd.grad(found.total, parameters)
    first, second = (found.terms[name] for name in ("next_token", "masked"))
    torch.testing.assert_close(found.total.detach(), 2 * first + second / 4)
    alone: Any = resolve("objective", "next_token")
    total = alone.build(ctx).loss(batch_of()).total
    assert torch.equal(total.detach(), first)
    hard = torch.autograd.grad(total, parameters)
    masked: Any = resolve("objective", "masked")
    batch = batch_of()
    assert batch.draws is not None
    other = batch.drawing(replace(batch.draws, root=batch.draws.root("objective 1")))
    soft = torch.autograd.grad(masked.build(ctx).loss(other).total, parameters)
    for whole, a, b in zip(gradient, hard, soft, strict=True):
        torch.testing.assert_close(whole, 2 * a + b / 4, rtol=1e-4, atol=1e-5)


def test_of_one_objective_it_is_that_objective(ctx: Any) -> None:
    for name in ("next_token", "masked"):
        alone: Any = resolve("objective", name)
        found = part_of({"objective": name}).build(ctx).loss(batch_of())
        assert torch.equal(found.total, alone.build(ctx).loss(batch_of()).total)


def test_two_of_a_kind_are_told_apart_and_draw_apart(ctx: Any) -> None:
    live = part_of({"objective": "next_token"}, {"objective": "masked"}).build(ctx)
    assert isinstance(live, Weighted)
    twice = Weighted([live.objectives[1]] * 2, [1.0, 1.0], ["masked", "masked 2"]).loss(batch_of())
    assert twice.terms["masked"] != twice.terms["masked 2"]
    names = part_of({"objective": "next_token"}, {"objective": "next_token"}).names()  # type: ignore[attr-defined]
    assert names == ["next_token", "next_token 2"]


def test_the_terms_and_the_state_of_each_are_kept_by_name() -> None:
    class Counts:
        def __init__(self) -> None:
            self.calls = 0

        def loss(self, batch: Any) -> Loss:
            self.calls += 1
            return Loss(torch.ones(()), {"inner": torch.tensor(3.0)})

        def state_dict(self) -> dict[str, Any]:
            return {"calls": self.calls}

        def load_state_dict(self, state: dict[str, Any], /) -> None:
            self.calls = state["calls"]

    live = Weighted([Counts(), Counts()], [1.0, 2.0], ["a", "b"])
    assert {name: float(term) for name, term in live.loss(batch_of()).terms.items()} == {
        "a": 1,
        "a.inner": 3,
        "b": 1,
        "b.inner": 3,
    }
    other = Weighted([Counts(), Counts()], [1.0, 2.0], ["a", "b"])
    other.load_state_dict(live.state_dict())
    assert other.state_dict() == {"a": {"calls": 1}, "b": {"calls": 1}}
    assert not isinstance(live, Likelihood)


def test_a_run_is_charged_each_objective_to_the_operation_and_logs_each(tmp_path: Path) -> None:
    recipe = Recipe.load("small", *TINY, BOTH)
    run = train(recipe, tmp_path, audit=True)
    for phase, cost in step_cost(recipe).phases(4).items():
        charged = run.ledger.get(phase, {"flops": 0, "hardware_flops": 0})
        assert (charged["flops"], charged["hardware_flops"]) == (cost.flops, cost.executed), phase
    record = run.metrics("step")[0]
    assert record["loss"] == pytest.approx(record["terms"]["next_token"] + record["terms"]["masked"] / 2)
    assert not run.metrics("evaluation")[-1]["bound"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("optimizer=sophia_g", "sophia_g needs objective to be Resampling, which weighted is not"),
        ("optimizer=gauss_newton", "gauss_newton needs objective to be Linearizing, which weighted is not"),
        (
            f'objective={{name="weighted", terms=[{MASKED}, {{objective="masked"}}]}}',
            "masked and masked add token ids each",
        ),
        (
            f'objective={{name="weighted", terms=[{MASKED}, {{objective="next_token"}}]}}',
            "accuracy needs objective to be Predicts, which weighted is not",
        ),
        ('objective={name="weighted", terms=[{objective="distill"}]}', "models.teacher: is missing"),
        ('objective={name="weighted", terms=[{objective="distil"}]}', "did you mean distill?"),
        ('objective={name="weighted", terms=[{objective="next_token", weight=0}]}', "terms.0.weight"),
        ('objective={name="weighted", terms=[]}', "objective.terms"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(change: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words.replace("?", r"\?")):
        Recipe.load("small", *TINY, BOTH, 'metrics=["accuracy"]', change)


def test_every_pattern_is_asked_of_the_mixer() -> None:
    assert [p and p.name for p in Recipe.load("small", *TINY, BOTH).objective.patterns] == [None, "full"]


def test_the_hash_of_a_single_objective_does_not_know_of_sums() -> None:
    one = Recipe.load("small", *TINY)
    assert one.to_json()["objective"] == {"name": "next_token"}
    assert Recipe.from_toml(Recipe.load("small", *TINY, BOTH).to_toml()).hash == Recipe.load("small", *TINY, BOTH).hash

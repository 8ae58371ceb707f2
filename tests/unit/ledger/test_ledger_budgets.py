"""Budgets: the most whole steps that fit, never more; and what a step of a recipe costs."""

from __future__ import annotations

import itertools
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoflop.core.contracts import (
    AveragingPart,
    MetricPart,
    ModelPart,
    ObjectivePart,
    OptimizerPart,
    Passes,
    SchedulePart,
    SourcePart,
    TokenizerPart,
)
from isoflop.core.cost import Cost, Work
from isoflop.core.errors import BudgetError
from isoflop.core.recipe import Budget, Recipe, Train
from isoflop.core.roles import Shape
from isoflop.ledger.budgets import IDLE_STEPS, Marks, StepCost, step_cost, steps_at, steps_within

LARGE = st.integers(1, 2**49)


def same(flops: int, tokens: int = 1) -> StepCost:
    """Steps that all cost the same."""
    work = Work(Cost(flops=flops, executed=7 * flops))
    return StepCost(work, {}, 1, tokens, lambda steps: Cost(), lambda steps: Passes())


@given(st.floats(1, 1e14), LARGE)
def test_flops(limit, each):
    budget = Budget(flops=limit)
    if each > limit:
        with pytest.raises(BudgetError):
            steps_within(budget, same(each))
    else:
        steps = steps_within(budget, same(each))
        assert steps * each <= limit < (steps + 1) * each


@given(LARGE, LARGE)
def test_tokens_and_steps(limit, each):
    if each <= limit:
        steps = steps_within(Budget(tokens=limit), same(1, each))
        assert steps * each <= limit < (steps + 1) * each
    assert steps_within(Budget(steps=each), same(1)) == each


@given(st.integers(1, 10**9), st.integers(1, 100), st.integers(0, 1000), st.integers(1, 9))
def test_flops_of_updates_that_differ(limit, each, rare, every):
    """A budget counts what an optimizer spends in each step, not its mean."""
    updates = lambda steps: Cost(flops=steps // every * rare)  # noqa: E731
    cost = StepCost(Work(Cost(flops=each)), {}, 1, 1, updates, lambda steps: Passes())
    if limit < cost.run(1).flops:
        with pytest.raises(BudgetError):
            steps_within(Budget(flops=limit), cost)
    else:
        steps = steps_within(Budget(flops=limit), cost)
        assert cost.run(steps).flops <= limit < cost.run(steps + 1).flops
        first = [cost.update(t).flops for t in range(min(steps, 50))]
        assert sum(first) == min(steps, 50) // every * rare


def test_a_budget_beyond_any_run_is_refused():
    with pytest.raises(BudgetError, match=r"1e\+40 flops are more than any run can spend"):
        steps_within(Budget(flops=1e40), same(10))


@given(st.lists(st.integers(0, 50), min_size=1, max_size=30), st.integers(1, 500))
def test_text_bytes(sizes, limit):
    stream = itertools.chain(sizes, itertools.repeat(13))
    budget = Budget(text_bytes=limit)
    sums = list(itertools.accumulate(itertools.chain(sizes, [13] * 100)))
    if sums[0] > limit:
        with pytest.raises(BudgetError):
            steps_within(budget, same(1), stream)
    else:
        steps = steps_within(budget, same(1), stream)
        assert sums[steps - 1] <= limit < sums[steps]


def test_text_that_ends_ends_the_run():
    assert steps_within(Budget(text_bytes=100), same(1), [10, 20]) == 2


@pytest.mark.parametrize("text", [None, [], itertools.repeat(0)])
def test_text_that_bounds_nothing(text):
    with pytest.raises(BudgetError, match=r"budget\.text_bytes"):
        steps_within(Budget(text_bytes=100), same(1), text)


def test_a_few_steps_without_text_are_fine():
    assert (
        steps_within(Budget(text_bytes=10), same(1), itertools.chain([0] * (IDLE_STEPS - 1), itertools.repeat(10)))
        == IDLE_STEPS
    )


def test_a_thousand_steps_without_text_are_taken_for_a_stream_that_has_none():
    with pytest.raises(BudgetError, match="spends nothing"):
        steps_within(Budget(text_bytes=10), same(1), itertools.chain([0] * IDLE_STEPS, itertools.repeat(10)))


def test_too_small_a_budget_names_both_amounts():
    with pytest.raises(BudgetError, match="2,000 flops, the limit is 1,999") as caught:
        steps_within(Budget(flops=1999.9), same(2000))
    assert caught.value.exit_code == 5
    with pytest.raises(BudgetError, match="spends nothing"):
        steps_within(Budget(flops=1.0), same(0))


def test_seconds_have_no_horizon():
    assert steps_within(Budget(seconds=10.0), same(10**9)) == 0
    assert not any(step in Marks(0, 4) for step in range(3))


@given(st.integers(1, 10**6), st.integers(1, 50))
def test_marks(horizon, count):
    near = {horizon * i // count + d for i in range(count + 1) for d in (-1, 0, 1)}
    steps = sorted(step for step in near | set(range(min(100, horizon) + 1)) if step in Marks(horizon, count))
    assert steps[-1] == horizon
    assert len(steps) == min(count, horizon)
    assert all(a < b for a, b in itertools.pairwise((0, *steps)))
    assert all(abs(step - horizon * (i + 1) / len(steps)) < 1 for i, step in enumerate(steps))


@given(st.integers(0, 60), st.integers(1, 80))
def test_marks_are_those_of_the_list_written_out(horizon, count):
    every = min(count, horizon)
    listed = {horizon * i // every for i in range(1, every + 1)}
    assert {step for step in range(-1, horizon + 2) if step in Marks(horizon, count)} == listed


def test_astronomic_numbers_of_marks_take_no_time():
    assert 10**18 in Marks(10**18, 10**18 - 1)
    assert 7 in Marks(10**18, 10**18)


def test_a_budget_in_bytes_that_no_text_can_spend_is_refused():
    endless = itertools.repeat(100)
    with pytest.raises(BudgetError, match="more than any run can spend"):
        steps_within(Budget(text_bytes=2**62), same(1), endless)
    assert steps_at(Budget(text_bytes=1050), 100) == 10
    assert [steps_at(Budget(text_bytes=limit), 100) for limit in (100, 199, 200)] == [1, 1, 2]
    refused = ((2**62, 1, "more than any run"), (99, 100, "not one step fits"), (99, 0, "spends nothing"))
    for limit, each, message in refused:
        with pytest.raises(BudgetError, match=message):
            steps_at(Budget(text_bytes=limit), each)


# ---------------------------------------------------------------- a recipe of toy parts, which no registry knows


class Source(SourcePart):
    vocab_size: ClassVar[int] = 50

    def build(self, ctx):
        raise AssertionError("a cost must not build anything")


class Tokenizer(TokenizerPart):
    vocabulary: ClassVar[int] = 99
    build = Source.build


class Model(ModelPart):
    build = Source.build

    def work(self, batch, length, vocab_size, pattern=None):
        forward = batch * length * vocab_size
        return Work(Cost(forward, 2 * forward), Cost(2 * forward, 4 * forward), Cost(0, forward))

    def shapes(self, vocab_size):
        return [Shape("w", "hidden", (vocab_size, 4))]


class Objective(ObjectivePart):
    build = Source.build


class Optimizer(OptimizerPart):
    build = Source.build

    def cost(self, shapes):
        return Cost(elementwise=10 * shapes[0].numel, flops=7, executed=7)

    def state_bytes(self, shapes):
        return 0


class Schedule(SchedulePart):
    def factor(self, t, horizon):
        return 1.0


class Averaging(AveragingPart):
    build = Source.build

    def cost(self, shapes):
        return Cost(elementwise=3 * shapes[0].numel)


class Metric(MetricPart):
    build = Source.build


class LooksTwice(Optimizer):
    def passes_of(self, accumulate):
        return lambda steps: Passes(forward=steps // 2 * 3 * accumulate, backward=steps * accumulate, losses=steps)


def recipe(averaging=None, optimizer=None, objective=None) -> Recipe:
    return Recipe(
        source=Source(),
        tokenizer=Tokenizer(),
        model=Model(),
        objective=objective or Objective(),
        optimizer=optimizer or Optimizer(),
        schedule=Schedule(),
        averaging=averaging,
        metrics=(Metric(),),
        budget=Budget(flops=1e6),
        train=Train(batch=2, length=3, accumulate=5),
    )


def test_step_cost():
    forward = 2 * 3 * 50 * 5
    plain = step_cost(recipe())
    assert (plain.tokens, plain.accumulate) == (30, 5)
    one = {"train": Cost(3 * forward, 6 * forward), "recompute": Cost(0, forward), "optimizer": Cost(7, 7, 10 * 200)}
    assert plain.phases(1) == one
    assert plain.phases(9) == {phase: cost * 9 for phase, cost in one.items()}
    with_average = step_cost(recipe(Averaging()))
    assert with_average.updates(9) == Cost(7, 7, 13 * 200) * 9
    assert with_average.run(1) == Cost(3 * forward + 7, 7 * forward + 7, 13 * 200)
    assert steps_within(recipe().budget, with_average) == 10**6 // (3 * forward + 7)


def test_passes_that_differ_from_step_to_step_and_what_a_loss_costs_besides_are_counted_exactly():
    class Taught(Objective):
        def charges(self, recipe):
            return {"teacher": Cost(flops=11)}

        def once(self, recipe):
            return {"teacher": Cost(flops=5), "scoring": Cost(flops=3)}

    forward = 2 * 3 * 50
    twice = step_cost(recipe(optimizer=LooksTwice(), objective=Taught()))
    found = [twice.phases(steps) for steps in range(4)]
    for steps, phases in enumerate(found):
        forwards, backwards = 5 * steps + steps // 2 * 15, 10 * steps
        assert phases["train"].flops == forward * (forwards + 2 * backwards)
        assert phases["recompute"].executed == forward * backwards
        assert phases["teacher"].flops == 11 * (5 * steps + steps) + 5 * (steps > 0)
        assert phases.get("scoring", Cost()).flops == 3 * (steps > 0)
        assert twice.run(steps) == sum(phases.values(), Cost())

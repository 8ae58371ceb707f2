"""Budgets: the most whole steps that fit, never more; and what a step of a recipe costs."""

from __future__ import annotations

import itertools
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoflop.core.cost import Cost, Work
from isoflop.core.errors import BudgetError
from isoflop.core.protocols import (
    AveragingPart,
    MetricPart,
    ModelPart,
    ObjectivePart,
    OptimizerPart,
    SchedulePart,
    SourcePart,
    TokenizerPart,
)
from isoflop.core.recipe import Budget, Recipe, Train
from isoflop.core.roles import Shape
from isoflop.ledger.budgets import IDLE_STEPS, StepCost, marks, step_cost, steps_within

LARGE = st.integers(1, 2**70)


@given(st.floats(1, 1e30), LARGE)
def test_flops(limit, each):
    budget = Budget(flops=limit)
    if each > limit:
        with pytest.raises(BudgetError):
            steps_within(budget, each, 1)
    else:
        steps = steps_within(budget, Cost(model=each, hardware=7 * each), 1)
        assert steps * each <= limit < (steps + 1) * each


@given(LARGE, LARGE)
def test_tokens_and_steps(limit, each):
    if each <= limit:
        steps = steps_within(Budget(tokens=limit), 1, each)
        assert steps * each <= limit < (steps + 1) * each
    assert steps_within(Budget(steps=limit), 1, each) == limit


@given(st.lists(st.integers(0, 50), min_size=1, max_size=30), st.integers(1, 500))
def test_text_bytes(sizes, limit):
    stream = itertools.chain(sizes, itertools.repeat(13))
    budget = Budget(text_bytes=limit)
    sums = list(itertools.accumulate(itertools.chain(sizes, [13] * 100)))
    if sums[0] > limit:
        with pytest.raises(BudgetError):
            steps_within(budget, 1, 1, stream)
    else:
        steps = steps_within(budget, 1, 1, stream)
        assert sums[steps - 1] <= limit < sums[steps]


def test_text_that_ends_ends_the_run():
    assert steps_within(Budget(text_bytes=100), 1, 1, [10, 20]) == 2


@pytest.mark.parametrize("text", [None, [], itertools.repeat(0)])
def test_text_that_bounds_nothing(text):
    with pytest.raises(BudgetError, match=r"budget\.text_bytes"):
        steps_within(Budget(text_bytes=100), 1, 1, text)


def test_a_few_steps_without_text_are_fine():
    assert (
        steps_within(Budget(text_bytes=10), 1, 1, itertools.chain([0] * (IDLE_STEPS - 1), itertools.repeat(10)))
        == IDLE_STEPS
    )


def test_too_small_a_budget_names_both_amounts():
    with pytest.raises(BudgetError, match="2,000 flops, the limit is 1,999") as caught:
        steps_within(Budget(flops=1999.9), 2000, 1)
    assert caught.value.exit_code == 5
    with pytest.raises(BudgetError, match="spends nothing"):
        steps_within(Budget(flops=1.0), 0, 1)


def test_seconds_have_no_horizon():
    assert steps_within(Budget(seconds=10.0), 10**9, 1) == 0
    assert marks(0, 4) == ()


@given(st.integers(1, 10**6), st.integers(1, 50))
def test_marks(horizon, count):
    steps = marks(horizon, count)
    assert steps[-1] == horizon
    assert len(steps) == min(count, horizon)
    assert all(a < b for a, b in itertools.pairwise((0, *steps)))
    assert all(abs(step - horizon * (i + 1) / len(steps)) < 1 for i, step in enumerate(steps))


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

    def work(self, batch, length, vocab_size):
        forward = batch * length * vocab_size
        return Work(Cost(forward, 2 * forward), Cost(2 * forward, 4 * forward), Cost(0, forward))

    def shapes(self, vocab_size):
        return [Shape("w", "hidden", (vocab_size, 4))]


class Objective(ObjectivePart):
    build = Source.build


class Optimizer(OptimizerPart):
    build = Source.build

    def cost(self, shapes):
        return Cost(elementwise=10 * shapes[0].numel, model=7, hardware=7)

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
    def passes(self, accumulate):
        return 1.5, 1.0


def recipe(averaging=None, optimizer=None) -> Recipe:
    return Recipe(
        source=Source(),
        tokenizer=Tokenizer(),
        model=Model(),
        objective=Objective(),
        optimizer=optimizer or Optimizer(),
        schedule=Schedule(),
        averaging=averaging,
        metrics=(Metric(),),
        budget=Budget(flops=1e6),
        train=Train(batch=2, length=3, accumulate=5),
    )


def test_step_cost():
    forward = 2 * 3 * 50 * 5
    assert step_cost(recipe()) == StepCost(
        train=Cost(3 * forward, 6 * forward),
        recompute=Cost(0, forward),
        optimizer=Cost(7, 7, 10 * 200),
        tokens=30,
    )
    with_average = step_cost(recipe(Averaging()))
    assert with_average.optimizer == Cost(7, 7, 13 * 200)
    assert with_average.total == Cost(3 * forward + 7, 7 * forward + 7, 13 * 200)
    twice = step_cost(recipe(optimizer=LooksTwice()))
    assert twice.train == Cost(round(2.5 * forward) + 4 * forward, 5 * forward + 8 * forward)
    assert twice.recompute == Cost(0, 2 * forward)
    assert sum(with_average.phases.values(), Cost()) == with_average.total
    assert steps_within(recipe().budget, with_average.total, with_average.tokens) == 10**6 // (3 * forward + 7)

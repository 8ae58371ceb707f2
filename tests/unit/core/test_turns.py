"""Variants that take turns: each once a round, counted without walking."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from isoflop.core.rng import Rng
from isoflop.core.turns import Turns


@given(st.integers(1, 7), st.integers(0, 60), st.integers(0, 2**20))
def test_counts_are_those_of_the_steps(variants: int, steps: int, seed: int) -> None:
    turns = Turns(Rng(seed)("variant"), variants)
    walked = Counter(turns.at(step) for step in range(steps))
    assert turns.counts(steps) == tuple(walked[variant] for variant in range(variants))
    first = steps // variants * variants
    assert sorted(turns.at(step) for step in range(first, first + variants)) == list(range(variants))


def test_a_budget_may_ask_for_more_steps_than_any_run_has() -> None:
    assert sum(Turns(Rng(0), 3).counts(2**50 + 1)) == 2**50 + 1


def test_orders_differ_from_round_to_round_and_from_seed_to_seed() -> None:
    orders = [tuple(Turns(Rng(seed), 4).at(step) for step in range(40)) for seed in (0, 1)]
    assert orders[0] != orders[1]
    assert len({orders[0][start : start + 4] for start in range(0, 40, 4)}) > 3

"""What every part of the slot schedule must do."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoflop.core.contracts import SchedulePart
from isoflop.core.registry import get, names

SCHEDULES = names("schedule")


def schedule(name: str, **fields: Any) -> SchedulePart:
    cls = get("schedule", name)
    assert issubclass(cls, SchedulePart)
    return cls(**fields)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_part_describes_itself(name: str) -> None:
    part = schedule(name)
    assert part.card.summary
    assert part.card.equation
    assert isinstance(part.needs_horizon, bool)
    assert part.build(None) is part  # type: ignore[arg-type]


@pytest.mark.parametrize("name", SCHEDULES)
@settings(max_examples=60, deadline=None)
@given(horizon=st.integers(1, 3000), place=st.floats(0, 1))
def test_every_step_has_a_finite_rate_between_zero_and_one(name: str, horizon: int, place: float) -> None:
    factor = schedule(name).factor(min(int(place * horizon), horizon - 1), horizon)
    assert math.isfinite(factor)
    assert 0 < factor <= 1 + 1e-12


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_peak_is_reached(name: str) -> None:
    part = schedule(name)
    assert max(part.factor(t, 400) for t in range(400)) == pytest.approx(1, abs=1e-2)


@pytest.mark.parametrize("name", SCHEDULES)
def test_only_those_that_say_so_depend_on_the_horizon(name: str) -> None:
    part = schedule(name)
    same = all(part.factor(t, 100) == part.factor(t, 1000) for t in range(100))
    assert same == (not part.needs_horizon)


@pytest.mark.parametrize("name", SCHEDULES)
def test_it_never_jumps(name: str) -> None:
    part = schedule(name)
    values = [part.factor(t, 1000) for t in range(1000)]
    assert max(abs(a - b) for a, b in pairwise(values)) < 0.15


DEFAULTS: dict[str, dict[int, float]] = {
    "constant": {0: 1, 199: 1},
    "cosine": {0: 1 / 11, 9: 10 / 11, 10: 1, 105: 0.55, 200: 0.1},
    "inverse_sqrt": {0: 1, 100: math.sqrt(0.5), 300: 0.5},
    "linear": {0: 1 / 11, 10: 1, 105: 0.5, 200: 0},
    "trapezoid": {0: 1, 120: 1, 160: 0.5, 200: 0},
    "warmup": {0: 1 / 11, 9: 10 / 11, 10: 1, 199: 1},
    "wsd": {0: 1 / 11, 10: 1, 160: 1, 180: 0.5, 200: 0},
}
"""Schedule -> step -> factor of its defaults, in a run of 200 steps."""


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_defaults_are_those_that_are_documented(name: str) -> None:
    part = schedule(name)
    assert {t: part.factor(t, 200) for t in DEFAULTS[name]} == pytest.approx(DEFAULTS[name])

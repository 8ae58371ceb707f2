"""A scale says which way is better, and a bound never claims more than it knows."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from isoflop.core.scale import Scale

values = st.floats(-1e6, 1e6)
falling, rising = Scale("bits per byte"), Scale("accuracy", higher_is_better=True)


def test_a_value_is_printed_with_its_error_and_a_bound_as_one() -> None:
    assert falling.text(1.23456) == "1.2346"
    assert falling.text(1.23456, stderr=0.0123) == "1.2346 +- 0.0123"
    assert falling.text(1.23451, bound=True) == "<= 1.2346"
    assert rising.text(0.43219, bound=True, digits=3) == ">= 0.432"
    assert falling.text(math.inf, bound=True) == "<= inf"


@given(value=values, digits=st.integers(1, 6))
def test_a_bound_is_never_printed_tighter_than_it_is(value: float, digits: int) -> None:
    slack = 1e-11 * max(1.0, abs(value))
    assert float(falling.text(value, bound=True, digits=digits).removeprefix("<= ")) >= value - slack
    assert float(rising.text(value, bound=True, digits=digits).removeprefix(">= ")) <= value + slack


@given(a=values, b=values)
def test_the_better_of_two_costs_less(a: float, b: float) -> None:
    assert (falling.cost(a) < falling.cost(b)) == (a < b)
    assert (rising.cost(a) < rising.cost(b)) == (a > b)

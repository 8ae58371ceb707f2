"""The shapes that schedules are made of: warm-up and decay, as pure functions without torch."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo

from ..core.slots import STORED

Unit = Annotated[float, Field(ge=0, le=1)]
Fraction = Annotated[float, Field(ge=0)]
"""Below 1 a fraction of the horizon, from 1 on a number of steps."""


def _more_than_one_step(value: float, info: ValidationInfo) -> float:
    if value == 1 and info.context != STORED:
        raise ValueError(
            "1 is one step, in which nothing can decay, and not the whole run; give a share below 1 (0.999 is nearly "
            "the whole run), a number of steps from 2 on, or 0 for no decay"
        )
    return value


Decay = Annotated[Fraction, AfterValidator(_more_than_one_step)]
"""As ``Fraction``, of a decay: 1 would be a step where 0.99 is nearly the whole run."""

Shape = Literal["linear", "sqrt", "one_minus_sqrt", "square", "exponential", "cosine", "mirrored_cosine"]


def length(amount: float, horizon: int) -> int:
    """Steps that ``amount`` stands for: a fraction of the horizon if below 1, else a number of steps."""
    return round(amount * horizon) if amount < 1 else round(amount)


def no_share(part: str, recipe: Any, *fields: str) -> list[str]:
    """The complaint of a part whose ``fields`` are shares of a run to which a budget in seconds gives no length."""
    if recipe.budget.seconds is None:
        return []
    return [f"{part}.{name}: is a share of a run, but budget.seconds gives it no length; give steps" for name in fields]


def warm(t: int, steps: int, start: float | None) -> float:
    """Linear from ``start`` at t = 0 to 1 at t = ``steps``; None starts at the first of ``steps + 1`` equal stairs."""
    if t >= steps:
        return 1.0
    low = 1 / (steps + 1) if start is None else start
    return low + (1 - low) * t / steps


def decay(x: float, shape: Shape, final: float) -> float:
    """From 1 at x = 0 to ``final`` at x = 1; beyond, it stays there.

    ``exponential`` is ``final ** x`` and needs final > 0. ``mirrored_cosine`` falls fastest at both ends: the line plus
    the line minus the cosine.
    """
    if x >= 1:
        return final
    cosine = (1 + math.cos(math.pi * x)) / 2
    falls: dict[str, float] = {
        "linear": 1 - x,
        "sqrt": math.sqrt(1 - x),
        "one_minus_sqrt": 1 - math.sqrt(x),
        "square": 1 - x * x,
        "cosine": cosine,
        "mirrored_cosine": 2 * (1 - x) - cosine,
    }
    if shape == "exponential":
        return float(final**x)
    return final + (1 - final) * falls[shape]

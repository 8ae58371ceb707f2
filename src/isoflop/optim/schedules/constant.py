"""Warm-up, then a constant rate: needs no horizon, so a run may be lengthened or branched."""

from __future__ import annotations

from typing import ClassVar

from pydantic import NonNegativeInt

from ...core.contracts import SchedulePart
from ...core.registry import Card, part
from ..warmup_and_decay import Unit, warm


@part
class Constant(SchedulePart):
    """A constant rate after a linear warm-up.

    For runs that may be lengthened or branched: nothing depends on the horizon. The noise that a constant rate leaves
    in the weights is taken out by an average of them, or by a decay on a branch.

    Example:
        >>> schedule = Constant(warmup=10)
        >>> [round(schedule.factor(t, horizon=100), 3) for t in (0, 50, 99)]
        [0.091, 1.0, 1.0]
    """

    card = Card(
        summary="a constant rate after a linear warm-up; pair it with an average of the weights",
        equation="factor = 1 for t >= warmup",
        cost="none",
    )
    needs_horizon: ClassVar[bool] = False

    warmup: NonNegativeInt = 0
    """Steps of linear warm-up."""
    warmup_start: Unit | None = None
    """Factor at step 0; absent: 1 / (warmup + 1)."""

    def factor(self, t: int, horizon: int) -> float:
        return warm(t, self.warmup, self.warmup_start)

"""Warm-up, then 1 / sqrt(t) with an offset: needs no horizon (Zhai et al. 2022, arXiv 2106.04560; anytime training)."""

from __future__ import annotations

from typing import ClassVar

from pydantic import NonNegativeInt, PositiveInt

from ...core.contracts import SchedulePart
from ...core.registry import Card, part
from ..warmup_and_decay import Unit, warm


@part
class InverseSqrt(SchedulePart):
    """sqrt(offset / (t - warmup + offset)) after a linear warm-up.

    For runs whose length is not known and that shall settle nevertheless: it falls for ever, ever more slowly. Pair it
    with an average of the weights.

    Example:
        >>> schedule = InverseSqrt(offset=25)
        >>> [round(schedule.factor(t, horizon=100), 3) for t in (0, 50, 99)]
        [1.0, 0.577, 0.449]
    """

    card = Card(
        summary="a rate that falls as one over the root of time, for ever; pair it with an average of the weights",
        paper="Zhai et al. 2022, arXiv 2106.04560; Vaswani et al. 2017, arXiv 1706.03762 (offset = warmup)",
        equation="factor = sqrt(offset / (t - warmup + offset)) for t >= warmup",
        cost="none",
    )
    needs_horizon: ClassVar[bool] = False

    warmup: NonNegativeInt = 0
    """Steps of linear warm-up."""
    warmup_start: Unit | None = None
    """Factor at step 0; absent: 1 / (warmup + 1)."""
    offset: PositiveInt = 100
    """Steps after the warm-up until the rate has fallen to 1 / sqrt(2)."""

    def factor(self, t: int, horizon: int) -> float:
        if t < self.warmup:
            return warm(t, self.warmup, self.warmup_start)
        return float((self.offset / (t - self.warmup + self.offset)) ** 0.5)

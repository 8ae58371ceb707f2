"""A linear warm-up over a fraction of the run, then a constant rate."""

from __future__ import annotations

from ...core.contracts import SchedulePart
from ...core.registry import Card, part
from ..warmup_and_decay import Fraction, Unit, length, warm


@part
class Warmup(SchedulePart):
    """A constant rate after a linear warm-up that scales with the run.

    For studies of the batch size, in which runs of many lengths warm up alike and an average of the weights takes the
    decay's place. ``constant`` counts its warm-up in steps and needs no horizon.

    Example:
        >>> schedule = Warmup(warmup=0.25)
        >>> [round(schedule.factor(t, horizon=100), 3) for t in (0, 50, 99)]
        [0.038, 1.0, 1.0]
    """

    card = Card(
        summary="a constant rate after a linear warm-up over a fraction of the run",
        defaults="for critical batch sizes a quarter of the compute-optimal steps",
        paper="Zhang et al. 2024, arXiv 2410.21676",
        equation="factor = min(1, (t + 1) / (warmup + 1))",
        cost="none",
    )

    warmup: Fraction = 0.05
    """Linear warm-up: a fraction of the horizon, or steps from 1 on."""
    warmup_start: Unit | None = None
    """Factor at step 0; absent: 1 / (warm-up steps + 1)."""

    def factor(self, t: int, horizon: int) -> float:
        return warm(t, length(self.warmup, horizon), self.warmup_start)

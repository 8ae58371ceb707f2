"""Warm-up, then a straight line down to ``final`` (Defazio et al. 2023, arXiv 2310.07831)."""

from __future__ import annotations

from ...core.contracts import SchedulePart
from ...core.registry import Card, part
from ..warmup_and_decay import Fraction, Unit, decay, length, warm


@part
class Linear(SchedulePart):
    """A straight line from 1 to ``final`` after a linear warm-up.

    What the theory of the last iterate asks for; in its authors' experiments as good as a cosine or better. The length
    of the run must be known.

    Example:
        >>> schedule = Linear(warmup=10)
        >>> [round(schedule.factor(t, horizon=100), 3) for t in (0, 50, 99)]
        [0.091, 0.556, 0.011]
    """

    card = Card(
        summary="a straight line down after a linear warm-up; must never be cut short",
        paper="Defazio et al. 2023, arXiv 2310.07831",
        equation="factor = final + (1 - final) (1 - x), x = (t - warmup) / (horizon - warmup)",
        defaults="decay to 0",
        cost="none",
    )

    warmup: Fraction = 0.05
    """Linear warm-up: a fraction of the horizon, or steps from 1 on."""
    warmup_start: Unit | None = None
    """Factor at step 0; absent: 1 / (warm-up steps + 1)."""
    final: Unit = 0.0
    """Factor at the horizon, which is the step after the last."""

    def factor(self, t: int, horizon: int) -> float:
        start = length(self.warmup, horizon)
        if t < start:
            return warm(t, start, self.warmup_start)
        return decay((t - start) / max(horizon - start, 1), "linear", self.final)

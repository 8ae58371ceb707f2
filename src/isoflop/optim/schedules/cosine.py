"""Warm-up, then half a cosine (Loshchilov and Hutter 2017, arXiv 1608.03983, one period)."""

from __future__ import annotations

from ...core.contracts import SchedulePart
from ...core.registry import Card, part
from ..warmup_and_decay import Fraction, Unit, decay, length, warm


@part
class Cosine(SchedulePart):
    """Half a cosine from 1 to ``final`` after a linear warm-up.

    The usual schedule of language models, and the baseline's here. The length of the run must be known: a run that is
    cut, or goes on after the horizon, is worse than one that was planned so.

    Example:
        >>> schedule = Cosine(warmup=10)
        >>> [round(schedule.factor(t, horizon=100), 3) for t in (0, 50, 99)]
        [0.091, 0.628, 0.1]
    """

    card = Card(
        summary="half a cosine after a linear warm-up; must never be cut short",
        paper="Loshchilov and Hutter 2017, arXiv 1608.03983",
        equation="factor = final + (1 - final) (1 + cos(pi x)) / 2, x = (t - warmup) / (horizon - warmup)",
        defaults="language models decay to a tenth",
        cost="none",
    )

    warmup: Fraction = 0.05
    """Linear warm-up: a fraction of the horizon, or steps from 1 on."""
    warmup_start: Unit | None = None
    """Factor at step 0; absent: 1 / (warm-up steps + 1)."""
    final: Unit = 0.1
    """Factor at the horizon, which is the step after the last."""

    def factor(self, t: int, horizon: int) -> float:
        start = length(self.warmup, horizon)
        if t < start:
            return warm(t, start, self.warmup_start)
        return decay((t - start) / max(horizon - start, 1), "cosine", self.final)

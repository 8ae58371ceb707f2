"""A line up, a constant rate, a line down (Xing et al. 2018; in speed runs: Jordan et al. 2024)."""

from __future__ import annotations

from ...core.contracts import SchedulePart
from ...core.registry import Card, part
from ..warmup_and_decay import Decay, Fraction, Unit, decay, length, warm


@part
class Trapezoid(SchedulePart):
    """Linear warm-up, a constant rate, linear decay to zero or ``final`` over a large last part.

    As WSD with a longer decay: for short runs, where most of the gain comes while the rate falls.

    Example:
        >>> schedule = Trapezoid()
        >>> [round(schedule.factor(t, horizon=100), 3) for t in (0, 50, 99)]
        [1.0, 1.0, 0.025]
    """

    card = Card(
        summary="a line up, a constant rate and a long line down",
        paper="Xing et al. 2018, arXiv 1802.08770; Haegele et al. 2024, arXiv 2405.18392",
        equation="factor = min(1, (t + 1) / (warmup + 1), final + (1 - final) (horizon - t) / decay)",
        defaults="speed runs: no warm-up, decay over the last 40-60 %",
        cost="none",
    )

    warmup: Fraction = 0.0
    """Linear warm-up: a fraction of the horizon, or steps from 1 on."""
    decay: Decay = 0.4
    """Linear decay at the end: a fraction of the horizon, or steps from 2 on."""
    final: Unit = 0.0
    """Factor at the horizon, which is the step after the last."""

    def factor(self, t: int, horizon: int) -> float:
        fall = length(self.decay, horizon)
        down = decay((t - horizon + fall) / fall, "linear", self.final) if t > horizon - fall else 1.0
        return min(warm(t, length(self.warmup, horizon), None), down)

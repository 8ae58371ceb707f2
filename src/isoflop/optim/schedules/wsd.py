"""Warm-up, stable, decay (Hu et al. 2024, arXiv 2404.06395; shapes: Haegele et al. 2024, arXiv 2405.18392)."""

from __future__ import annotations

from pydantic import model_validator

from ...core.contracts import SchedulePart
from ...core.registry import Card, part
from ..warmup_and_decay import Decay, Fraction, Shape, Unit, decay, length, warm


@part
class WSD(SchedulePart):
    """Warm-up, a constant rate, and a decay over the last part of the run.

    One long run at a constant rate serves many budgets: each takes a branch of it and decays over its own last part.
    In its authors' experiments it matches a cosine of the same length.

    Example:
        >>> schedule = WSD(decay=0.2)
        >>> [round(schedule.factor(t, horizon=100), 3) for t in (0, 50, 99)]
        [0.167, 1.0, 0.05]
    """

    card = Card(
        summary="a constant rate with a warm-up and a short decay at the end",
        paper="Hu et al. 2024, arXiv 2404.06395; shapes: Haegele et al. 2024, arXiv 2405.18392",
        equation="factor = 1 until horizon - decay, then shape(x) from 1 to final, x = (t - horizon + decay) / decay",
        defaults="decay over the last 10-20 % to 0, shape 1 - sqrt(x) or linear",
        cost="none",
    )

    warmup: Fraction = 0.05
    """Linear warm-up: a fraction of the horizon, or steps from 1 on."""
    warmup_start: Unit | None = None
    """Factor at step 0; absent: 1 / (warm-up steps + 1)."""
    decay: Decay = 0.2
    """Decay at the end: a fraction of the horizon, or steps from 2 on."""
    shape: Shape = "linear"
    """How it decays."""
    final: Unit = 0.0
    """Factor at the horizon, which is the step after the last."""

    @model_validator(mode="after")
    def _possible(self) -> WSD:
        if self.shape == "exponential" and self.final == 0:
            raise ValueError("an exponential decay never reaches final=0; give final > 0, e.g. 0.01")
        return self

    def factor(self, t: int, horizon: int) -> float:
        rise, fall = length(self.warmup, horizon), length(self.decay, horizon)
        down = decay((t - horizon + fall) / fall, self.shape, self.final) if t > horizon - fall else 1.0
        return min(warm(t, rise, self.warmup_start), down)

"""Warm-up of a momentum's decay on the scale of its half-life (Pagliardini et al. 2024, arXiv 2409.03137, app. A.1)."""

from __future__ import annotations

import math


def warm_beta(t: int, steps: int | None, start: float, end: float) -> float:
    """The decay at step ``t`` (from 1): its half-life grows linearly from ``start``'s to ``end``'s over ``steps``."""
    if not steps or t >= steps:
        return end
    share = t / steps
    half_life = (1 - share) * _half_life(start) + share * _half_life(end)
    return float(0.5 ** (1 / (half_life + 1)))


def _half_life(beta: float) -> float:
    return math.log(0.5) / math.log(beta + 1e-8) - 1  # the authors' guard against log 0

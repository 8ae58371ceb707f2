"""What a page shows of a plan: written by ``laws``, read by ``report``. JSON has no infinity: an open end is null."""

from __future__ import annotations

from typing import Any

from ..core.documents import Frozen
from .fits import Row, StoredCurve


class StoredPlan(Frozen):
    """A plan with what it stands on.

    Example:
        >>> row = {"compute": 6e18, "N": 1e8, "D": 1e10, "loss": 3.0}
        >>> StoredPlan(law="chinchilla", level=0.9, answers=[], points=[row], frontier=[], slices=[], runs=[]).level
        0.9
    """

    law: str
    level: float
    answers: list[dict[str, Any]]
    """Questions with figures, assumption and where they end, as ``isoflop plan --json`` prints them."""
    points: list[Row]
    """The fitted rows: compute, N, D, loss."""
    frontier: list[Row]
    """The best run at each budget: compute, N, D, loss, low, high."""
    slices: list[StoredCurve]
    """Loss against size at equal compute, the plan's budget last."""
    runs: list[dict[str, str | float | None]]
    """The chosen run first, then its neighbours: name, compute, N, D, loss, low, high."""

"""Weights of 4 to 8 bits in floating point, trained by the straight-through gradient."""

from __future__ import annotations

from typing import Any

from pydantic import PositiveInt

from ...core.registry import Card, part
from ...core.rng import Rng
from ..grids import Float, Grid, floats
from ..rounding import Rounded
from ..weights import Share, WeightPart, needs_horizon


@part
class FloatingPart(WeightPart):
    """Quantisation-aware training in FP4, FP6 or FP8, with one scale of full precision a row or block.

    Use it as ``integer`` where the weights will be served as small floats: their points lie denser near zero, where
    most weights are. For scales that are powers of two see ``mx``.

    Example:
        >>> FloatingPart(format="fp4_e2m1", block=16).begin
        0.0
    """

    format: Float = "fp4_e2m1"
    """Bits and fields of a weight."""
    begin: Share = 0.0
    """Share of the run after which weights are rounded in training; needs a budget with a horizon."""
    block: PositiveInt | None = None
    """Weights of a row that share a scale; none: the whole row."""
    card = Card(
        summary="Weights rounded to small floats with one scale a row; straight-through gradient",
        paper="formats: OCP MX v1.0; straight-through: Bengio et al. 2013, arXiv 1308.3432",
        equation="W' = s round(W / s), s = max |W_row| / largest element; dL/dW = dL/dW'",
        differs="weights only; activations stay as they are",
        cost="elementwise work on each weight, once a micro-batch; products in the usual precision",
    )
    operations = 10

    @property
    def bits_in_use(self) -> float:
        return floats(self.format).bits

    def check(self, recipe: Any) -> list[str]:
        return needs_horizon(recipe, {"begin": self.begin})

    def build(self, rows: int, columns: int, rng: Rng) -> Rounded:
        return Rounded(Grid(floats(self.format), self.block), self.begin)

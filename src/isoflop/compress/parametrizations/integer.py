"""Integer weights, trained by the straight-through gradient (Bengio et al. 2013, arXiv 1308.3432)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field, PositiveInt
from torch import Tensor

from ...core.documents import Later
from ...core.registry import Card, part
from ...core.rng import Rng
from ..grids import Grid, integers
from ..rounding import Rounded
from ..weights import Share, WeightPart, needs_horizon


def quantised(weight: Tensor, bits: int, block: int | None = None) -> Tensor:
    """Each row of ``weight`` (rows, columns), or block of a row, rounded to ``bits``-bit integers times its scale.

    Integers are symmetric, -(2^(bits-1) - 1) .. 2^(bits-1) - 1, and the scale is the largest magnitude over the largest
    integer; a row of zeros stays zero. Halves are rounded to even.
    """
    return Grid(integers(bits), block).rounded(weight)


@part
class IntegerPart(WeightPart):
    """Quantisation-aware training with one scale a row, or a block of it.

    Use it to train a model that will be served with integer weights: it learns what rounding does to it.

    Example:
        >>> IntegerPart(bits=4).begin
        0.0
    """

    version: ClassVar[int] = 2

    bits: Annotated[int, Field(ge=2, le=8)] = 4
    """Bits of a weight."""
    begin: Share = 0.0
    """Share of the run after which weights are rounded in training; needs a budget with a horizon."""
    block: Annotated[PositiveInt | None, Later()] = None
    """Weights of a row that share a scale; none: the whole row."""
    card = Card(
        summary="Weights rounded to integers with one scale a row; straight-through gradient",
        paper="Jacob et al. 2017, arXiv 1712.05877; straight-through: Bengio et al. 2013, arXiv 1308.3432",
        equation="W' = s round(W / s), s = max |W_row| / (2^(bits-1) - 1); dL/dW = dL/dW'",
        differs="weights only; activations stay as they are; evaluations see rounded weights from the first one on",
        cost="elementwise work on each weight, once a micro-batch; products in the usual precision",
    )

    @property
    def bits_in_use(self) -> float:
        return self.bits

    def check(self, recipe: Any) -> list[str]:
        return needs_horizon(recipe, {"begin": self.begin})

    def build(self, rows: int, columns: int, rng: Rng) -> Rounded:
        return Rounded(Grid(integers(self.bits), self.block), self.begin)

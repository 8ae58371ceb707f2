"""The root-mean-square norm (Zhang and Sennrich 2019, arXiv 1910.07467)."""

from __future__ import annotations

from ...core.contracts import NormPart
from ...core.cost import Work
from ...core.registry import Card, part
from ...core.roles import WIDTH, Shape
from ..cost import pointwise
from ..layers import RmsNorm


@part
class RmsPart(NormPart):
    """Root-mean-square norm: the usual one of today's decoders.

    Example:
        >>> norm = RmsPart().build(2, 1e-5)
        >>> [shape.name for shape in RmsPart().shapes(2)], norm.weight.tolist()
        (['weight'], [1.0, 1.0])
    """

    card = Card(
        summary="Divides a vector by its root mean square; one gain a coordinate",
        paper="Zhang and Sennrich 2019, arXiv 1910.07467",
        equation="y = g x / sqrt(mean(x^2) + eps)",
        cost="about 5 operations a number, no products",
    )

    def build(self, width: int, eps: float) -> RmsNorm:
        return RmsNorm(width, eps)

    def shapes(self, width: int) -> list[Shape]:
        return [Shape("weight", "norm", (width,), (WIDTH,))]

    def work(self, tokens: int, width: int) -> Work:
        return pointwise(tokens * width, operations=5)

"""The root-mean-square norm whose gain is counted from 1 (Gemma: arXiv 2403.08295)."""

from __future__ import annotations

from torch import Tensor

from ...core.contracts import NormPart
from ...core.cost import Work
from ...core.registry import Card, part
from ...core.roles import WIDTH, Shape
from ..cost import pointwise
from ..layers import RmsNorm


class RmsOffsetNorm(RmsNorm):
    """Root-mean-square norm with the gain 1 + ``weight``.

    Example:
        >>> import torch
        >>> x = torch.tensor([[3.0, 4.0]])
        >>> round(RmsOffsetNorm(2, eps=0.0)(x, torch.float32).square().mean().item(), 3)
        1.0
    """

    origin = 1.0


def reference(x: Tensor, weight: Tensor, _: None, eps: float) -> Tensor:
    """The norm by its definition, over the last dimension."""
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * (1 + weight)


@part
class RmsOffsetPart(NormPart):
    """Root-mean-square norm whose gain is 1 + weight, so that what pulls weights to 0 pulls gains to 1.

    Use it where a family does (Gemma), or where gains are decayed: decay then pulls them to 1.

    Example:
        >>> RmsOffsetPart().build(2, 1e-5).weight.tolist()
        [0.0, 0.0]
    """

    card = Card(
        summary="Divides a vector by its root mean square; one gain a coordinate, counted from 1",
        paper="Zhang and Sennrich 2019, arXiv 1910.07467; in Gemma: arXiv 2403.08295",
        equation="y = (1 + w) x / sqrt(mean(x^2) + eps)",
        cost="about 5 operations a number, no products",
    )

    def build(self, width: int, eps: float) -> RmsOffsetNorm:
        return RmsOffsetNorm(width, eps)

    def shapes(self, width: int) -> list[Shape]:
        return [Shape("weight", "norm", (width,), (WIDTH,))]

    def work(self, tokens: int, width: int) -> Work:
        return pointwise(tokens * width, operations=5)

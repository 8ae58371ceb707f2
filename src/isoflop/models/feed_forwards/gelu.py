"""GELU (Hendrycks and Gimpel 2016, arXiv 1606.08415), in its tanh form."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from ...core.context import Context
from ...core.registry import Card, part
from ..plain import PlainFeedForward, PlainPart


class Gelu(PlainFeedForward):
    """down(gelu(up x)) of (batch, length, width) vectors."""

    def activate(self, x: Tensor) -> Tensor:
        return F.gelu(x, approximate="tanh")


@part
class GeluPart(PlainPart):
    """Feed-forward with a GELU."""

    card = Card(
        summary="A plain feed-forward with a GELU, as in GPT-2",
        paper="Hendrycks and Gimpel 2016, arXiv 1606.08415",
        equation="W_down gelu(W_up x)",
        differs="the tanh approximation",
        cost="2 products of width x hidden",
    )

    def build(self, width: int, ctx: Context) -> Gelu:
        return Gelu(width, self.inner(width))

"""Squared ReLU (So et al. 2021, Primer, arXiv 2109.08668)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from ...core.context import Context
from ...core.registry import Card, part
from ..plain import PlainFeedForward, PlainPart


class SquaredRelu(PlainFeedForward):
    """down(relu(up x)^2) of (batch, length, width) vectors.

    Example:
        >>> import torch
        >>> layer = SquaredRelu(32, 64)
        >>> layer(torch.zeros(2, 5, 32), layer.products(torch.float32)).shape
        torch.Size([2, 5, 32])
    """

    def activate(self, x: Tensor) -> Tensor:
        return F.relu(x).square()


@part
class SquaredReluPart(PlainPart):
    """Feed-forward with a squared ReLU.

    Cheaper than GELU to compute, and sparse: most hidden numbers are exactly 0.

    Example:
        >>> SquaredReluPart(hidden=96).inner(32)
        96
    """

    card = Card(
        summary="A plain feed-forward with a squared ReLU",
        paper="So et al. 2021, arXiv 2109.08668",
        equation="W_down relu(W_up x)^2",
        cost="2 products of width x hidden",
    )

    def build(self, width: int, ctx: Context) -> SquaredRelu:
        return SquaredRelu(width, self.inner(width), self.bias)

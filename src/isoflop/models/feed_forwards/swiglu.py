"""SwiGLU: a unit gated by its own SiLU (Shazeer 2020, arXiv 2002.05202)."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.context import Context
from ...core.registry import Card, part
from ..gated import GatedFeedForward, GatedPart
from ..kernels import alone, fuse, gated_linear
from ..layers import Product, read_alike


class SwiGlu(GatedFeedForward):
    """down(silu(gate x) * up x) of (batch, length, width) vectors.

    Example:
        >>> layer = SwiGlu(32, 64)
        >>> layer(torch.zeros(2, 5, 32), layer.products(torch.float32)).shape
        torch.Size([2, 5, 32])
    """

    def activate(self, x: Tensor) -> Tensor:
        return F.silu(x)

    def gated(self, dtype: torch.dtype) -> Product:
        if self.gate.bias is not None or (weights := read_alike((self.gate, self.up))) is None:
            return super().gated(dtype)
        if weights[0].dtype == dtype and alone():
            return super().gated(dtype)  # the same numbers, and no copy of the weights
        return partial(gated_linear, weight=fuse(weights, dtype))


@part
class SwiGluPart(GatedPart):
    """Feed-forward gated by SiLU.

    The default: gated, at about 8/3 widths so that its three matrices have the parameters of a plain one's two.

    Example:
        >>> SwiGluPart().inner(48), [shape.name for shape in SwiGluPart().shapes(48)]
        (128, ['gate.weight', 'up.weight', 'down.weight'])
    """

    card = Card(
        summary="A gated feed-forward: three matrices, silu on the gate",
        paper="Shazeer 2020, arXiv 2002.05202",
        equation="W_down (silu(W_gate x) * W_up x)",
        cost="3 products of width x hidden",
    )

    def build(self, width: int, ctx: Context) -> SwiGlu:
        return SwiGlu(width, self.inner(width), self.bias)

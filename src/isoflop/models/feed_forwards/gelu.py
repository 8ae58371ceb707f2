"""GELU (Hendrycks and Gimpel 2016, arXiv 1606.08415): by default in its tanh form."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor
from torch.nn import functional as F

from ...core.context import Context
from ...core.documents import Later
from ...core.registry import Card, part
from ..plain import PlainFeedForward, PlainPart


class Gelu(PlainFeedForward):
    """down(gelu(up x)) of (batch, length, width) vectors.

    Example:
        >>> import torch
        >>> layer = Gelu(32, 64)
        >>> layer(torch.zeros(2, 5, 32), layer.products(torch.float32)).shape
        torch.Size([2, 5, 32])
    """

    exact = False

    def activate(self, x: Tensor) -> Tensor:
        return F.gelu(x, approximate="none" if self.exact else "tanh")


@part
class GeluPart(PlainPart):
    """Feed-forward with a GELU.

    The feed-forward of GPT-2: two matrices instead of a gated one's three, at 4 widths by default.

    Example:
        >>> GeluPart().inner(32), [shape.name for shape in GeluPart().shapes(32)]
        (128, ['up.weight', 'down.weight'])
    """

    exact: Annotated[bool, Later()] = False
    """By the error function, as in GPT-NeoX, not by its approximation with tanh, as in GPT-2."""
    card = Card(
        summary="A plain feed-forward with a GELU, as in GPT-2",
        paper="Hendrycks and Gimpel 2016, arXiv 1606.08415",
        equation="W_down gelu(W_up x)",
        differs="the tanh approximation, unless exact",
        cost="2 products of width x hidden",
    )

    def build(self, width: int, ctx: Context) -> Gelu:
        made = Gelu(width, self.inner(width), self.bias)
        made.exact = self.exact
        return made

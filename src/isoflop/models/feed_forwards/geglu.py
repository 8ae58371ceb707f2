"""GeGLU: a unit gated by its own GELU (Shazeer 2020, arXiv 2002.05202)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from ...core.context import Context
from ...core.registry import Card, part
from ..gated import GatedFeedForward, GatedPart


class GeGlu(GatedFeedForward):
    """down(gelu(gate x) * up x) of (batch, length, width) vectors.

    Example:
        >>> import torch
        >>> layer = GeGlu(32, 64)
        >>> layer(torch.zeros(2, 5, 32), layer.products(torch.float32)).shape
        torch.Size([2, 5, 32])
    """

    exact = False

    def activate(self, x: Tensor) -> Tensor:
        return F.gelu(x, approximate="none" if self.exact else "tanh")


@part
class GeGluPart(GatedPart):
    """Feed-forward gated by GELU, as in Gemma.

    Use it where a family does (Gemma); on equal terms it differs little from ``swiglu``.

    Example:
        >>> part = GeGluPart(hidden=64)
        >>> part.inner(32), [shape.name for shape in part.shapes(32)]
        (64, ['gate.weight', 'up.weight', 'down.weight'])
    """

    exact: bool = False
    """By the error function, not by its approximation with tanh."""
    card = Card(
        summary="A gated feed-forward: three matrices, gelu on the gate",
        paper="Shazeer 2020, arXiv 2002.05202; in Gemma: arXiv 2403.08295",
        equation="W_down (gelu(W_gate x) * W_up x)",
        differs="the tanh approximation, as Gemma has it, unless exact",
        cost="3 products of width x hidden",
    )

    def build(self, width: int, ctx: Context) -> GeGlu:
        made = GeGlu(width, self.inner(width), self.bias)
        made.exact = self.exact
        return made

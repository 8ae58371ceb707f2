"""GeGLU: a unit gated by its own GELU (Shazeer 2020, arXiv 2002.05202)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from ...core.context import Context
from ...core.registry import Card, part
from ..gated import GatedFeedForward, GatedPart


class GeGlu(GatedFeedForward):
    """down(gelu(gate x) * up x) of (batch, length, width) vectors."""

    exact = False

    def activate(self, x: Tensor) -> Tensor:
        return F.gelu(x, approximate="none" if self.exact else "tanh")


@part
class GeGluPart(GatedPart):
    """Feed-forward gated by GELU, as in Gemma."""

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

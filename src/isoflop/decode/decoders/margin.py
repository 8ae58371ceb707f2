"""The hidden token first whose likeliest id is furthest ahead of the second."""

from __future__ import annotations

from torch import Tensor

from ...core.registry import Card, part
from ..unmask_part import Generators, UnmaskPart


@part
class MarginPart(UnmaskPart):
    """Show those hidden tokens first whose two likeliest ids differ most in probability.

    The best order of puzzles: a place that two ids compete for waits, even if both are likely.

    Example, with ``model`` a Transformer over bytes:
        >>> from isoflop.core.rng import Rng
        >>> decoder = MarginPart(stages=((0.0, 1), (0.5, 4))).build()
        >>> len(decoder.generate(model, [[104]], 8, Rng(0))[0])
        8
    """

    card = Card(
        summary="Hidden tokens in the order of the margin between their two likeliest ids",
        paper="Kim et al. 2025, arXiv 2502.06768, section 4.1",
        equation="next is argmax_i p(x_i = v1 | shown) - p(x_i = v2 | shown)",
        cost="one pass over the whole text a call",
    )

    def scores(self, log_p: Tensor, may: Tensor, generators: Generators) -> Tensor:
        two = log_p.topk(min(2, log_p.shape[-1]), -1).values.exp()
        return two[..., 0] - two[..., 1:].sum(-1)

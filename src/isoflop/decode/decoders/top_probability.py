"""The surest hidden token first: where the likeliest id is likeliest."""

from __future__ import annotations

from torch import Tensor

from ...core.registry import Card, part
from ..unmask_part import Generators, UnmaskPart


@part
class TopProbabilityPart(UnmaskPart):
    """Show those hidden tokens first whose likeliest id has the highest probability.

    The default of public masked models; ``margin`` is better where two ids are both likely.

    Example, with ``model`` a Transformer over bytes:
        >>> from isoflop.core.rng import Rng
        >>> decoder = TopProbabilityPart(steps=2, block=4).build()
        >>> len(decoder.generate(model, [[104]], 8, Rng(0))[0])
        8
    """

    card = Card(
        summary="Hidden tokens in the order of their likeliest id's probability",
        paper="Nie et al. 2025, arXiv 2502.09992 (low-confidence remasking); Kim et al. 2025, arXiv 2502.06768 (top-K)",
        equation="next is argmax_i max_v p(x_i = v | shown)",
        differs="the order is chosen before a token is drawn, so that a temperature does not bend the law",
        cost="one pass over the whole text a call",
    )

    def scores(self, log_p: Tensor, may: Tensor, generators: Generators) -> Tensor:
        return log_p.amax(-1)

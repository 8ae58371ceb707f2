"""The hidden token first whose distribution has the least entropy."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.registry import Card, part
from ..unmask_part import Generators, UnmaskPart


@part
class EntropyPart(UnmaskPart):
    """Show those hidden tokens first whose distributions have the least entropy.

    Example, with ``model`` a Transformer over bytes:
        >>> from isoflop.core.rng import Rng
        >>> decoder = EntropyPart().build()
        >>> decoder.generate(model, [[104]], 4, Rng(0)) == decoder.generate(model, [[104]], 4, Rng(1))
        True
    """

    card = Card(
        summary="Hidden tokens in the order of their distributions' entropy, the least first",
        paper="Ye et al. 2025, arXiv 2508.15487 (Dream)",
        equation="next is argmin_i H(x_i | shown)",
        cost="one pass over the whole text a call",
    )

    def scores(self, log_p: Tensor, may: Tensor, generators: Generators) -> Tensor:
        entropy: Tensor = torch.special.entr(log_p.exp()).sum(-1)
        return -entropy

"""Perplexity under a reference model, as in CCNet (Wenzek et al. 2020)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from ...core.contracts import ScorerPart
from ...core.registry import Card, part
from ..engine.likelihoods import LossDifference, models_of


@part
class PerplexityPart(ScorerPart):
    """Minus the mean loss under a reference model: the text that it finds likely comes first.

    Example:
        >>> PerplexityPart.uses
        ('reference',)
    """

    uses: ClassVar[tuple[str, ...]] = ("reference",)
    card = Card(
        summary="Minus the mean loss per token under a reference model.",
        paper="Wenzek et al. 2020, arXiv 1911.00359",
        equation="score(x) = -L(x; reference)",
        differs="any model of ours or a Hugging Face directory instead of a 5-gram model",
        cost="a forward pass over the pool",
    )

    def build(self, texts: Mapping[str, Iterable[str]], models: Mapping[str, Any]) -> LossDifference:
        (reference,) = models_of(self.uses, models)
        return LossDifference(None, reference)

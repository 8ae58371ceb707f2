"""CoLoR-Filter (Brandfonbrener et al. 2024): what a model learns to like when it is tuned on the target."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from ...core.contracts import ScorerPart
from ...core.registry import Card, part
from ..engine.likelihoods import LossDifference, models_of


@part
class ColorFilterPart(ScorerPart):
    """Loss under a prior less loss under a conditional model, which is the prior trained on a little of the target.

    Train the prior on a sample of the pool and the conditional model from it (``start = "PRIOR"``) on target text, one
    epoch. Deduplicate and decontaminate first: copies of the target lie on top. ``isoflop data select --rule batched``
    is the paper's algorithm, the global rule its program's.

    Example:
        >>> ColorFilterPart.uses
        ('prior', 'conditional')
    """

    uses: ClassVar[tuple[str, ...]] = ("prior", "conditional")
    card = Card(
        summary="Mean loss per token under the prior less that under the conditional model.",
        paper="Brandfonbrener et al. 2024, arXiv 2406.10670",
        equation="score(x) = L(x; prior) - L(x; conditional)",
        differs="whole documents, not packed windows that blend several",
        cost="a forward pass of two models over the pool, and their training",
    )

    def build(self, texts: Mapping[str, Iterable[str]], models: Mapping[str, Any]) -> LossDifference:
        prior, conditional = models_of(self.uses, models)
        return LossDifference(prior, conditional)

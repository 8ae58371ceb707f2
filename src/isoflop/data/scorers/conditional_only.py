"""The conditional model alone: the control that shows what the prior is for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from ...core.contracts import ScorerPart
from ...core.registry import Card, part
from ..engine.likelihoods import LossDifference, models_of


@part
class ConditionalOnlyPart(ScorerPart):
    """Minus the loss under a model of the target: it prefers text that is easy for any model.

    Example:
        >>> ConditionalOnlyPart.uses
        ('conditional',)
    """

    uses: ClassVar[tuple[str, ...]] = ("conditional",)
    card = Card(
        summary="Minus the mean loss per token under a model of the target.",
        paper="Brandfonbrener et al. 2024, arXiv 2406.10670, section 4",
        equation="score(x) = -L(x; conditional)",
        differs="whole documents, not packed windows",
        cost="a forward pass over the pool, and the training of the model",
    )

    def build(self, texts: Mapping[str, Iterable[str]], models: Mapping[str, Any]) -> LossDifference:
        (conditional,) = models_of(self.uses, models)
        return LossDifference(None, conditional)

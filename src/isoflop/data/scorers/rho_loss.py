"""RHO-loss (Mindermann et al. 2022): what the learner can still learn, by a model of held-out text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from ...core.contracts import ScorerPart
from ...core.registry import Card, part
from ..engine.likelihoods import LossDifference, models_of


@part
class RhoLossPart(ScorerPart):
    """Loss under the learner less loss under a model that was trained on held-out or target text.

    The learner is a checkpoint: score again as it goes on, or once for a selection ahead of training.

    Example:
        >>> RhoLossPart.uses
        ('learner', 'holdout')
    """

    uses: ClassVar[tuple[str, ...]] = ("learner", "holdout")
    card = Card(
        summary="Mean loss per token under the learner less that under a model of held-out text.",
        paper="Mindermann et al. 2022, arXiv 2206.07137",
        equation="score(x) = L(x; learner) - L(x; holdout)",
        differs="the learner is a stored checkpoint, not the model of the running step",
        cost="a forward pass of two models over the pool, and the training of the second",
    )

    def build(self, texts: Mapping[str, Iterable[str]], models: Mapping[str, Any]) -> LossDifference:
        learner, holdout = models_of(self.uses, models)
        return LossDifference(learner, holdout)

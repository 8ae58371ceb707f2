"""Linear: the weighted mean of models; with equal weights a uniform soup (Wortsman et al. 2022, arXiv 2203.05482)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from ...core.errors import UsageError
from ...core.registry import Card, part
from ..method import Bases, Each, MergePart, combination, numbers


def linear(models: Sequence[Tensor], *, weight: Each = 1.0, normalize: bool = True) -> Tensor:
    """sum w_i x_i, divided by sum w_i.

    Args:
        models: tensors of one shape.
        weight: one number, or one a model.
        normalize: divide by the sum of the weights.

    Raises:
        UsageError: the weights sum to zero and shall be normalised.
    """
    weights = numbers(weight, len(models))
    total = sum(weights) if normalize else 1.0
    if abs(total) < 1e-12:
        raise UsageError("the weights sum to zero", fix="change a weight, or set normalize = false")
    return combination(models, weights, total)


@part
class Linear(MergePart):
    """The weighted mean of models."""

    card = Card(
        summary="the weighted mean of models; with equal weights a uniform soup, also of a run's last checkpoints",
        paper="Wortsman et al. 2022, arXiv 2203.05482",
        equation="sum w_i x_i / sum w_i",
        differs="summed in fp32 whatever the models' type, and rounded once",
        cost="2 operations an element and model",
    )
    base: ClassVar[Bases] = "none"
    each: ClassVar[frozenset[str]] = frozenset({"weight"})

    weight: Each = 1.0
    """Weight of each model."""
    normalize: bool = True
    """Divide by the sum of the weights."""

    def merge(self, base: Tensor | None, models: Sequence[Tensor], survey: Any, start: int) -> Tensor:
        return linear(models, **self.fields())

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

    Use it first: checkpoints of one run, or fine-tunings of one model (a soup), average well.

    Args:
        models: tensors of one shape.
        weight: one number, or one a model.
        normalize: divide by the sum of the weights.

    Raises:
        UsageError: the weights sum to zero and shall be normalised.

    Example:
        >>> first, second = torch.tensor([1.0, 2.0, 0.5, -1.0]), torch.tensor([-3.0, 2.0, 0.25, 1.0])
        >>> linear([first, second]).tolist()
        [-1.0, 2.0, 0.375, 0.0]
    """
    weights = numbers(weight, len(models))
    total = sum(weights) if normalize else 1.0
    if abs(total) < 1e-12:
        raise UsageError("the weights sum to zero", fix="change a weight, or set normalize = false")
    return combination(models, weights, total)


@part
class Linear(MergePart):
    """The weighted mean of models.

    The method of a merge recipe under the name ``linear``; the function of that name does the same to tensors at hand.

    Example:
        >>> from isoflop.merge.method import on_tensors
        >>> first, second = torch.tensor([1.0, 2.0, 0.5, -1.0]), torch.tensor([-3.0, 2.0, 0.25, 1.0])
        >>> torch.equal(on_tensors(Linear(), None, [first, second]), linear([first, second]))
        True
    """

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

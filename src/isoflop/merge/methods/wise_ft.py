"""WiSE-FT: between a model and its fine-tuned version (Wortsman et al. 2022, arXiv 2109.01903)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from ...core.registry import Card, part
from ..method import MergePart, combination


def wise_ft(base: Tensor, model: Tensor, *, alpha: float = 0.5) -> Tensor:
    """(1 - alpha) base + alpha model.

    Use it where fine-tuning cost robustness: between the two models there is often one better than both.

    Args:
        base: the model before fine-tuning.
        model: after it, of the base's shape.
        alpha: share of the fine-tuned model.

    Example:
        >>> base, model = torch.zeros(4), torch.tensor([1.0, 2.0, 0.5, -1.0])
        >>> wise_ft(base, model, alpha=0.5).tolist()
        [0.5, 1.0, 0.25, -0.5]
    """
    return combination([base, model], [1 - alpha, alpha])


@part
class WiseFt(MergePart):
    """Between a model and its fine-tuned version.

    The method of a merge recipe under the name ``wise_ft``; the function of that name does the same to tensors at hand.

    Example:
        >>> from isoflop.merge.method import on_tensors
        >>> base, model = torch.zeros(4), torch.tensor([1.0, 2.0, 0.5, -1.0])
        >>> torch.equal(on_tensors(WiseFt(alpha=0.5), base, [model]), wise_ft(base, model, alpha=0.5))
        True
    """

    card = Card(
        summary="a point on the line from a model to its fine-tuned version",
        paper="Wortsman et al. 2022, arXiv 2109.01903",
        equation="(1 - alpha) b + alpha x",
        defaults="alpha 0.5 where nothing is tuned",
        cost="2 operations an element and model",
    )
    models: ClassVar[tuple[int, int | None]] = (1, 1)

    alpha: float = 0.5
    """Share of the fine-tuned model."""

    def merge(self, base: Tensor | None, models: Sequence[Tensor], survey: Any, start: int) -> Tensor:
        assert base is not None
        return wise_ft(base, models[0], **self.fields())

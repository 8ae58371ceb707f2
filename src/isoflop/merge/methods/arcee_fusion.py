"""Arcee fusion: take the other model's most important changes, and leave the rest to the base."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...core.registry import Card, part
from ..method import MergePart


def arcee_fusion(base: Tensor, model: Tensor) -> Tensor:
    """The model's values where importance reaches median + 1.5 (q3 - q1) of the tensor, else the base's.

    Importance is |x - b| times the divergence KL(softmax x || softmax b) of the row.

    Use it to bring a model's few important changes into another without moving the rest. Nothing is tuned.

    Args:
        base: at least one dimension; its last one is taken for a row.
        model: of the base's shape.

    Example:
        >>> base, model = torch.zeros(4), torch.tensor([0.01, 0.02, 4.0, 0.01])
        >>> arcee_fusion(base, model).tolist()
        [0.0, 0.0, 4.0, 0.0]
    """
    importance = _importance(base, model)
    ordered = importance.reshape(-1).sort().values
    places = [int(share * (len(ordered) - 1)) for share in (0.25, 0.5, 0.75)]
    low, middle, high = (ordered[place] for place in places)
    return base + (model - base) * (importance >= middle + 1.5 * (high - low))


def _importance(base: Tensor, model: Tensor) -> Tensor:
    """|x - b| KL(softmax of x's row || softmax of b's row)."""
    p, q = (torch.softmax(x, dim=-1) + 1e-8 for x in (model, base))
    return (model - base).abs() * (p * (p / q).log()).sum(-1, keepdim=True)


@part
class ArceeFusion(MergePart):
    """Take the other model's most important changes.

    The method of a merge recipe under the name ``arcee_fusion``; the function of that name does the same to tensors at
    hand.

    Example:
        >>> from isoflop.merge.method import on_tensors
        >>> base, model = torch.zeros(4), torch.tensor([0.01, 0.02, 4.0, 0.01])
        >>> torch.equal(on_tensors(ArceeFusion(), base, [model]), arcee_fusion(base, model))
        True
    """

    card = Card(
        summary="take the other model's values where its change is important, the base's elsewhere",
        equation="x where |x - b| KL(row) >= median + 1.5 (q3 - q1), else b",
        differs="quantiles are those of the whole tensor, not of a random sample of large ones",
        cost="reads whole tensors and sorts them",
    )
    models: ClassVar[tuple[int, int | None]] = (1, 1)

    @property
    def whole(self) -> bool:
        return True

    def merge(self, base: Tensor | None, models: Sequence[Tensor], survey: Any, start: int) -> Tensor:
        assert base is not None
        if not base.numel():
            return base
        return arcee_fusion(base.reshape(base.shape or (1,)), models[0].reshape(base.shape or (1,))).reshape(base.shape)

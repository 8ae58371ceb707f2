"""RAM: what one model alone has changed is added whole, what several have changed is averaged (arXiv 2601.13572)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from ...core.registry import Card, part
from ..method import MergePart


def ram(base: Tensor, models: Sequence[Tensor], *, epsilon: float = 1e-5) -> Tensor:
    """base + the mean, at each element, of the task vectors that change it.

    Use it with models trained by reinforcement learning, whose task vectors are sparse and seldom overlap.

    Args:
        base: what the task vectors start from.
        models: tensors of the base's shape.
        epsilon: an entry up to this magnitude is no change.

    Example:
        >>> base = torch.zeros(4)
        >>> first, second = torch.tensor([1.0, 2.0, 0.5, -1.0]), torch.tensor([-3.0, 2.0, 0.25, 1.0])
        >>> ram(base, [first, second]).tolist()
        [-1.0, 2.0, 0.375, 0.0]
    """
    vectors = torch.stack([model - base for model in models])
    changed = vectors.abs() > epsilon
    return base + (vectors * changed).sum(0) / changed.sum(0).clamp(min=1)


@part
class Ram(MergePart):
    """Unique changes are added whole, shared ones averaged.

    The method of a merge recipe under the name ``ram``; the function of that name does the same to tensors at hand.

    Example:
        >>> from isoflop.merge.method import on_tensors
        >>> base = torch.zeros(4)
        >>> first, second = torch.tensor([1.0, 2.0, 0.5, -1.0]), torch.tensor([-3.0, 2.0, 0.25, 1.0])
        >>> torch.equal(on_tensors(Ram(), base, [first, second]), ram(base, [first, second]))
        True
    """

    card = Card(
        summary="what one model alone has changed is added whole, what several have changed is averaged",
        paper="Reinforced Agent Merging, arXiv 2601.13572",
        equation="b + sum d_i / #{i: |d_i| > epsilon} over the models that change the element",
        defaults="epsilon 1e-5",
        cost="5 operations an element and model",
    )

    epsilon: NonNegativeFloat = 1e-5
    """An entry up to this magnitude is no change."""

    def merge(self, base: Tensor | None, models: Sequence[Tensor], survey: Any, start: int) -> Tensor:
        assert base is not None
        return ram(base, models, **self.fields())

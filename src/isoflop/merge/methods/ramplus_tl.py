"""RAM+ within a tensor: unique changes grow with the share of a model's shared ones (arXiv 2601.13572)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from ...core.registry import Card, part
from ...core.rng import Rng
from ...store.tensors import Flat, pieces
from ..method import MergePart, held


def ramplus_tl(
    base: Tensor, models: Sequence[Tensor], *, r: float = 0.1, alpha: float = 0.2, epsilon: float = 1e-5
) -> Tensor:
    """As ``ram``, with the unique changes of model i times 1 + r min(alpha, shared_i / unique_i).

    Use it as ``ram``, where what only one model changed shall count for more.

    Args:
        base: what the task vectors start from.
        models: tensors of the base's shape.
        r: how much the ratio counts.
        alpha: its upper limit.
        epsilon: an entry up to this magnitude is no change.

    Example:
        >>> base = torch.zeros(4)
        >>> first, second = torch.tensor([1.0, 2.0, 0.5, -1.0]), torch.tensor([-3.0, 2.0, 0.25, 1.0])
        >>> [round(number, 3) for number in ramplus_tl(base, [first, second]).tolist()]
        [-1.0, 2.0, 0.375, 0.0]
    """
    flat, others = held(base, models)
    factors = _factors(flat, others, r, alpha, epsilon)
    return _merged(base.reshape(-1), [model.reshape(-1) for model in models], factors, epsilon).reshape(base.shape)


def _factors(base: Flat, models: Sequence[Flat], r: float, alpha: float, epsilon: float) -> Tensor:
    unique = torch.zeros(len(models))
    shared = torch.zeros(len(models))
    for start, stop in pieces(base.numel):
        origin = base.piece(start, stop)
        changed = torch.stack([(model.piece(start, stop) - origin).abs() > epsilon for model in models])
        alone = changed.sum(0) == 1
        unique += (changed & alone).sum(1)
        shared += (changed & ~alone).sum(1)
    return 1 + r * (shared / unique.clamp(min=max(epsilon, 1e-12))).clamp(0, alpha)


def _merged(base: Tensor, models: Sequence[Tensor], factors: Tensor, epsilon: float) -> Tensor:
    vectors = torch.stack([model - base for model in models])
    changed = vectors.abs() > epsilon
    count = changed.sum(0)
    weight = torch.where(count == 1, factors.to(base.dtype)[:, None], 1 / count.clamp(min=1).to(base.dtype))
    return base + (vectors * changed * weight).sum(0)


@part
class RamplusTl(MergePart):
    """RAM with stronger unique changes.

    The method of a merge recipe under the name ``ramplus_tl``; the function of that name does the same to tensors at
    hand.

    Example:
        >>> from isoflop.merge.method import on_tensors
        >>> base = torch.zeros(4)
        >>> first, second = torch.tensor([1.0, 2.0, 0.5, -1.0]), torch.tensor([-3.0, 2.0, 0.25, 1.0])
        >>> torch.equal(on_tensors(RamplusTl(), base, [first, second]), ramplus_tl(base, [first, second]))
        True
    """

    card = Card(
        summary="as ram, and a model's unique changes grow with the share of its shared ones",
        paper="Reinforced Agent Merging, arXiv 2601.13572",
        equation="unique changes times 1 + r min(alpha, #shared_i / #unique_i)",
        defaults="r 0.1, alpha 0.2, epsilon 1e-5",
        differs="the ratio is that of the tensor, not of the whole model",
        cost="a reading for the counts, then 6 operations an element and model",
    )

    r: float = 0.1
    """How much the ratio counts."""
    alpha: NonNegativeFloat = 0.2
    """Upper limit of the ratio."""
    epsilon: NonNegativeFloat = 1e-5
    """An entry up to this magnitude is no change."""

    def survey(self, base: Flat | None, models: Sequence[Flat], rng: Rng, overview: Any) -> Tensor:
        assert base is not None
        return _factors(base, models, self.r, self.alpha, self.epsilon)

    def merge(self, base: Tensor | None, models: Sequence[Tensor], survey: Any, start: int) -> Tensor:
        assert base is not None
        return _merged(base, models, survey, self.epsilon)

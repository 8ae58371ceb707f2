"""Neon: away from a model that was fine-tuned on its own samples (Alemohammad et al. 2025)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from ...core.registry import Card, part
from ..method import MergePart, combination


def neon(base: Tensor, model: Tensor, *, w: float = 0.5) -> Tensor:
    """(1 + w) base - w model: negative extrapolation.

    Use it to step away from what a model became by training on its own samples.

    Args:
        base: the model that made the samples.
        model: the base after a short fine-tuning on them, of the base's shape.
        w: how far; above 0.

    Example:
        >>> base, model = torch.zeros(4), torch.tensor([1.0, 2.0, 0.5, -1.0])
        >>> neon(base, model, w=0.5).tolist()
        [-0.5, -1.0, -0.25, 0.5]
    """
    return combination([base, model], [1 + w, -w])


@part
class Neon(MergePart):
    """Away from a model that was fine-tuned on its own samples.

    The method of a merge recipe under the name ``neon``; the function of that name does the same to tensors at hand.

    Example:
        >>> from isoflop.merge.method import on_tensors
        >>> base, model = torch.zeros(4), torch.tensor([1.0, 2.0, 0.5, -1.0])
        >>> torch.equal(on_tensors(Neon(w=0.5), base, [model]), neon(base, model, w=0.5))
        True
    """

    card = Card(
        summary="extrapolate away from a model that was fine-tuned on its own samples",
        paper="Alemohammad et al. 2025 (Neon: negative extrapolation from self-training)",
        equation="(1 + w) b - w x",
        defaults="w scanned from 0.1 to 3; the samples come from the usual, mode-seeking sampler",
        cost="2 operations an element and model",
    )
    models: ClassVar[tuple[int, int | None]] = (1, 1)
    search: ClassVar[dict[str, tuple[float, ...]]] = {"w": (0.1, 0.2, 0.5, 1.0, 2.0, 3.0)}

    w: float = 0.5
    """How far to go beyond the base."""

    def merge(self, base: Tensor | None, models: Sequence[Tensor], survey: Any, start: int) -> Tensor:
        assert base is not None
        return neon(base, models[0], **self.fields())

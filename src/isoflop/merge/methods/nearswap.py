"""NearSwap: take the other model where it lies near the base."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import NonNegativeFloat
from torch import Tensor

from ...core.registry import Card, part
from ..method import MergePart


def nearswap(base: Tensor, model: Tensor, *, t: float) -> Tensor:
    """w model + (1 - w) base with w = min(1, t / |base - model|): near values are swapped, far ones hardly move.

    Use it to give a model another one's details without its larger differences.

    Args:
        base: where far values stay.
        model: where near values go; of the base's shape.
        t: distance up to which a value is swapped whole.

    Example:
        >>> base, model = torch.zeros(4), torch.tensor([1.0, 2.0, 0.5, -1.0])
        >>> nearswap(base, model, t=0.5).tolist()
        [0.5, 0.5, 0.5, -0.5]
    """
    weight = (t / (base - model).abs().clamp(min=1e-6)).clamp(0, 1)
    return weight * model + (1 - weight) * base


@part
class Nearswap(MergePart):
    """Take the other model where it lies near the base.

    The method of a merge recipe under the name ``nearswap``; the function of that name does the same to tensors at
    hand.

    Example:
        >>> from isoflop.merge.method import on_tensors
        >>> base, model = torch.zeros(4), torch.tensor([1.0, 2.0, 0.5, -1.0])
        >>> torch.equal(on_tensors(Nearswap(t=0.5), base, [model]), nearswap(base, model, t=0.5))
        True
    """

    card = Card(
        summary="take the other model's values where they lie within t of the base's, move others by t",
        equation="w x + (1 - w) b, w = min(1, t / |x - b|)",
        cost="7 operations an element",
    )
    models: ClassVar[tuple[int, int | None]] = (1, 1)

    t: NonNegativeFloat
    """Distance up to which a value is swapped whole."""

    def merge(self, base: Tensor | None, models: Sequence[Tensor], survey: Any, start: int) -> Tensor:
        assert base is not None
        return nearswap(base, models[0], **self.fields())

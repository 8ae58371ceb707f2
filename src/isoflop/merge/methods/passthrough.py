"""Passthrough: a model's own tensors, to stack layers of several models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from ...core.registry import Card, part
from ..method import Bases, Each, MergePart, numbers


def passthrough(model: Tensor, *, scale: Each = 1.0) -> Tensor:
    """The tensor itself, times ``scale``.

    Use it to stack layers of several models, unchanged, or to scale a tensor.

    Args:
        model: the tensor.
        scale: a factor.

    Example:
        >>> model = torch.tensor([1.0, 2.0, 0.5, -1.0])
        >>> passthrough(model).tolist()
        [1.0, 2.0, 0.5, -1.0]
    """
    factor = numbers(scale, 1, "scale")[0]
    return model if factor == 1 else model * factor


@part
class Passthrough(MergePart):
    """A model's own tensors, to stack layers of several models.

    The method of a merge recipe under the name ``passthrough``; the function of that name does the same to tensors at
    hand.

    Example:
        >>> from isoflop.merge.method import on_tensors
        >>> model = torch.tensor([1.0, 2.0, 0.5, -1.0])
        >>> torch.equal(on_tensors(Passthrough(), None, [model]), passthrough(model))
        True
    """

    card = Card(
        summary="a model's own tensors: slices of several models are stacked to a deeper one",
        equation="x",
        cost="one reading",
    )
    base: ClassVar[Bases] = "none"
    models: ClassVar[tuple[int, int | None]] = (1, 1)
    each: ClassVar[frozenset[str]] = frozenset({"scale"})

    scale: Each = 1.0
    """A factor, e.g. 0 for the matrices that write into the residual stream."""

    def merge(self, base: Tensor | None, models: Sequence[Tensor], survey: Any, start: int) -> Tensor:
        return passthrough(models[0], **self.fields())

"""NuSLERP: spherical interpolation of two models by weights, or of their task vectors, whole or along rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...core.registry import Card, part
from ..method import Bases, Each, MergePart, numbers


def nuslerp(
    models: Sequence[Tensor],
    base: Tensor | None = None,
    *,
    weight: Each = 1.0,
    flatten: bool = True,
    row_wise: bool = False,
) -> Tensor:
    """Along the arc from the first model to the second, at t = w_2 / (w_1 + w_2).

    Where the two are parallel it is a straight line.

    Args:
        models: two tensors of one shape.
        base: the arc is that of the task vectors model - base; None: of the models themselves.
        weight: one number for both, or one a model; if they sum to 0, t = 0.5.
        flatten: one angle for the whole tensor; otherwise one for each vector along a dimension.
        row_wise: that dimension is the first instead of the last.
    """
    first, second = numbers(weight, 2)
    t = 0.5 if abs(first + second) < 1e-6 else second / (first + second)
    ends = [model.to(torch.promote_types(model.dtype, torch.float32)) for model in models]
    if base is not None:
        ends = [end - base for end in ends]
    dim = None if flatten else (0 if row_wise else -1)
    path = _arc(ends[0], ends[1], t, dim)
    return (path if base is None else base + path).to(models[0].dtype)


def _arc(a: Tensor, b: Tensor, t: float, dim: int | None) -> Tensor:
    def length(x: Tensor) -> Tensor:
        found: Tensor = torch.linalg.vector_norm(x, dim=dim, keepdim=True, dtype=torch.float64).clamp(min=1e-7)
        return found

    product = torch.sum(a.double() * b.double(), dim=dim, keepdim=True) if dim is not None else None
    if product is None:
        product = torch.dot(a.double().reshape(-1), b.double().reshape(-1)).reshape([1] * a.dim())
    cosine = (product / (length(a) * length(b))).clamp(-1, 1)
    straight = 1 - cosine.square() <= 1e-16
    angle = torch.acos(torch.where(straight, 0.0, cosine))
    of_a = torch.where(straight, 1 - t, torch.sin((1 - t) * angle) / torch.sin(angle)).to(a.dtype)
    of_b = torch.where(straight, t, torch.sin(t * angle) / torch.sin(angle)).to(a.dtype)
    return of_a * a + of_b * b


@part
class Nuslerp(MergePart):
    """Spherical interpolation by weights, also of task vectors and along rows."""

    card = Card(
        summary="along the arc between two models or their task vectors, whole or by rows or columns",
        equation="b + (sin((1-t) a) d1 + sin(t a) d2) / sin a, t = w2 / (w1 + w2)",
        defaults="the whole tensor flattened",
        differs="angles in float64",
        cost="reads whole tensors",
    )
    base: ClassVar[Bases] = "optional"
    models: ClassVar[tuple[int, int | None]] = (2, 2)
    each: ClassVar[frozenset[str]] = frozenset({"weight"})

    weight: Each = 1.0
    """Weight of each model."""
    flatten: bool = True
    """One angle for the whole tensor."""
    row_wise: bool = False
    """If not flattened: one angle for each vector along the first dimension instead of the last."""

    @property
    def whole(self) -> bool:
        return True

    def merge(self, base: Tensor | None, models: Sequence[Tensor], survey: Any, start: int) -> Tensor:
        return nuslerp(models, base, **self.fields())

"""NuSLERP: spherical interpolation of two models by weights, or of their task vectors, whole or along rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...core.registry import Card, part
from ...core.rng import Rng
from ...store.tensors import Flat, HeldTensor
from ..method import Bases, Each, MergePart, gram, numbers


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

    Use it as ``slerp`` where models have weights, or where task vectors shall be turned instead of models.

    Args:
        models: two tensors of one shape.
        base: the arc is that of the task vectors model - base; None: of the models themselves.
        weight: one number for both, or one a model; if they sum to 0, t = 0.5.
        flatten: one angle for the whole tensor; otherwise one for each vector along a dimension.
        row_wise: that dimension is the first instead of the last.

    Example:
        >>> first, second = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
        >>> [round(number, 3) for number in nuslerp([first, second]).tolist()]
        [0.707, 0.707]
    """
    if flatten:
        flats, origin = [HeldTensor(model) for model in models], None if base is None else HeldTensor(base)
        coefficients = _coefficients(flats, origin, weight)
    else:
        first, second = models if base is None else (model - base for model in models)
        dim = 0 if row_wise else -1
        lengths = [torch.linalg.vector_norm(x, dim=dim, keepdim=True, dtype=torch.float64) for x in (first, second)]
        product = torch.sum(first.double() * second.double(), dim=dim, keepdim=True)
        coefficients = _arc(product, lengths[0], lengths[1], _share(weight))
    return _apply(base, models, coefficients)


def _share(weight: Each) -> float:
    """t, the share of the way to the second model."""
    first, second = numbers(weight, 2)
    return 0.5 if abs(first + second) < 1e-6 else second / (first + second)


def _arc(product: Tensor, one: Tensor, two: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """Coefficients of two vectors at share t of their arc, from inner product and lengths; straight if parallel."""
    cosine = (product / (one.clamp(min=1e-7) * two.clamp(min=1e-7))).clamp(-1, 1)
    straight = 1 - cosine.square() <= 1e-16
    angle = torch.acos(torch.where(straight, 0.0, cosine))
    of_one = torch.where(straight, 1 - t, torch.sin((1 - t) * angle) / torch.sin(angle))
    of_two = torch.where(straight, t, torch.sin(t * angle) / torch.sin(angle))
    return of_one, of_two


def _coefficients(models: Sequence[Flat], base: Flat | None, weight: Each) -> tuple[Tensor, Tensor]:
    products = gram(models, base)
    lengths = products.diagonal().sqrt()
    return _arc(products[0, 1], lengths[0], lengths[1], _share(weight))


def _apply(base: Tensor | None, models: Sequence[Tensor], coefficients: tuple[Tensor, Tensor]) -> Tensor:
    dtype = torch.promote_types(models[0].dtype, torch.float32)
    first, second = (model.to(dtype) if base is None else (model - base).to(dtype) for model in models)
    path = coefficients[0].to(dtype) * first + coefficients[1].to(dtype) * second
    return (path if base is None else base + path).to(models[0].dtype)


@part
class Nuslerp(MergePart):
    """Spherical interpolation by weights, also of task vectors and along rows.

    The method of a merge recipe under the name ``nuslerp``; the function of that name does the same to tensors at hand.

    Example:
        >>> from isoflop.merge.method import on_tensors
        >>> first, second = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
        >>> torch.equal(on_tensors(Nuslerp(), None, [first, second]), nuslerp([first, second]))
        True
    """

    card = Card(
        summary="along the arc between two models or their task vectors, whole or by rows or columns",
        equation="b + (sin((1-t) a) d1 + sin(t a) d2) / sin a, t = w2 / (w1 + w2)",
        defaults="the whole tensor flattened",
        differs="angles in float64",
        cost="a reading for the angle, then 2 operations an element and model; by rows it reads whole tensors",
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
        return not self.flatten

    def survey(self, base: Flat | None, models: Sequence[Flat], rng: Rng, overview: Any) -> Any:
        return _coefficients(models, base, self.weight) if self.flatten else None

    def merge(self, base: Tensor | None, models: Sequence[Tensor], survey: Any, start: int) -> Tensor:
        return nuslerp(models, base, **self.fields()) if survey is None else _apply(base, models, survey)

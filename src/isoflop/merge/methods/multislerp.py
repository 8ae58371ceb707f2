"""Multi-SLERP: the weighted mean of directions, at the weighted mean of lengths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...core.errors import UsageError
from ...core.registry import Card, part
from ...core.rng import Rng
from ...store.tensors import Flat, HeldTensor
from ..method import Bases, Each, MergePart, combination, gram, numbers


def multislerp(
    models: Sequence[Tensor], base: Tensor | None = None, *, weight: Each = 1.0, normalize: bool = True
) -> Tensor:
    """|x| m / |m| with m = sum w_i x_i / |x_i| and |x| = sum w_i |x_i|: the exponential map at the mean direction.

    Use it with several models as ``slerp`` with two.

    Args:
        models: tensors of one shape.
        base: the origin of the sphere; None: zero.
        weight: one number, or one a model.
        normalize: divide the weights by their sum.

    Raises:
        UsageError: the directions cancel, or the weights sum to zero.

    Example:
        >>> first, second = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
        >>> [round(number, 3) for number in multislerp([first, second]).tolist()]
        [0.707, 0.707]
    """
    origin = None if base is None else HeldTensor(base)
    return _apply(base, models, _coefficients([HeldTensor(model) for model in models], origin, weight, normalize))


def _coefficients(models: Sequence[Flat], base: Flat | None, weight: Each, normalize: bool) -> list[float]:
    weights = torch.tensor(numbers(weight, len(models)), dtype=torch.float64)
    if len(models) == 1:
        return [1.0]
    if normalize:
        if abs(float(weights.sum())) < 1e-12:
            raise UsageError("the weights sum to zero", fix="change a weight, or set normalize = false")
        weights = weights / weights.sum()
    products = gram(models, base)
    lengths = products.diagonal().sqrt()
    along = weights / lengths.clamp(min=1e-8)
    mean = float((along @ products @ along).clamp(min=0).sqrt())
    if not bool(lengths.any()):
        return [0.0] * len(models)  # all lie in the origin
    if mean < 1e-8:
        if len(models) == 2:
            return [float(w) for w in weights]  # opposite directions: a straight line through the origin
        raise UsageError("the models' directions cancel", fix="change the weights")
    return [float(c) for c in along * float(weights @ lengths) / mean]


def _apply(base: Tensor | None, models: Sequence[Tensor], coefficients: Sequence[float]) -> Tensor:
    if base is None:
        return combination(models, coefficients)
    return base + combination([model - base for model in models], coefficients)


@part
class Multislerp(MergePart):
    """The weighted mean of directions at the mean of lengths.

    The method of a merge recipe under the name ``multislerp``; the function of that name does the same to tensors at
    hand.

    Example:
        >>> from isoflop.merge.method import on_tensors
        >>> first, second = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
        >>> torch.equal(on_tensors(Multislerp(), None, [first, second]), multislerp([first, second]))
        True
    """

    card = Card(
        summary="the weighted mean of several models' directions, at the weighted mean of their lengths",
        equation="(sum w_i |x_i|) m / |m|, m = sum w_i x_i / |x_i|",
        differs="one step of the exponential map at the mean has no tangential part left: the closed form is computed",
        cost="a reading for the inner products, then 2 operations an element and model",
    )
    base: ClassVar[Bases] = "optional"
    each: ClassVar[frozenset[str]] = frozenset({"weight"})

    weight: Each = 1.0
    """Weight of each model."""
    normalize: bool = True
    """Divide the weights by their sum."""

    def survey(self, base: Flat | None, models: Sequence[Flat], rng: Rng, overview: Any) -> list[float]:
        return _coefficients(models, base, self.weight, self.normalize)

    def merge(self, base: Tensor | None, models: Sequence[Tensor], survey: Any, start: int) -> Tensor:
        return _apply(base, models, survey)

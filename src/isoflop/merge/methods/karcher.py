"""Karcher mean: the point of the sphere with the least squared arc length to all models' directions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from ...core.errors import UsageError
from ...core.registry import Card, part
from ...core.rng import Rng
from ...store.tensors import Flat, HeldTensor
from ..method import Bases, Each, MergePart, combination, gram, numbers


def karcher(models: Sequence[Tensor], *, weight: Each = 1.0, max_iter: int = 10, tol: float = 1e-5) -> Tensor:
    """The weighted Riemannian mean of the directions, times the weighted mean of the lengths.

    Use it with more than two models whose weights differ in direction rather than in length.

    Args:
        models: tensors of one shape.
        weight: one number, or one a model; divided by their sum.
        max_iter: steps at most.
        tol: a step shorter than this ends the search.

    Raises:
        UsageError: the weights sum to zero.

    Example:
        >>> first, second = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
        >>> [round(number, 3) for number in karcher([first, second]).tolist()]
        [0.707, 0.707]
    """
    return combination(models, _coefficients([HeldTensor(model) for model in models], weight, max_iter, tol))


def _coefficients(models: Sequence[Flat], weight: Each, max_iter: int, tol: float) -> list[float]:
    """The mean is a combination of the models, so the search needs their inner products alone."""
    weights = torch.tensor(numbers(weight, len(models)), dtype=torch.float64)
    if abs(float(weights.sum())) < 1e-12:
        raise UsageError("the weights sum to zero", fix="change a weight")
    if len(models) == 1:
        return [1.0]
    weights = weights / weights.sum()
    products = gram(models)
    lengths = products.diagonal().sqrt()
    there = lengths > tol
    if not bool(there.any()):
        return [0.0] * len(models)
    units = products[there][:, there] / torch.outer(lengths[there], lengths[there])
    shares = weights[there] / weights[there].sum()
    mean = _mean(units, shares, max_iter, tol)
    found = torch.zeros(len(models), dtype=torch.float64)
    found[there] = mean / lengths[there] * float(weights @ lengths)
    return [float(c) for c in found]


def _mean(units: Tensor, shares: Tensor, max_iter: int, tol: float) -> Tensor:
    """Coefficients of the mean in unit vectors with inner products ``units`` (k, k) and weights ``shares`` (k,)."""

    def length(c: Tensor) -> float:
        return math.sqrt(max(0.0, float(c @ units @ c)))

    mean = shares / length(shares) if length(shares) >= tol else torch.eye(len(shares), dtype=torch.float64)[0]
    for _ in range(max_iter):
        step = torch.zeros_like(mean)
        for number, share in enumerate(shares.tolist()):
            cosine = max(-1.0, min(1.0, float(units[number] @ mean)))
            angle = math.acos(cosine)
            if angle >= tol:
                towards = -cosine * mean
                towards[number] += 1
                step += share * angle / math.sin(angle) * towards
        size = length(step)
        if size < tol:
            break
        mean = math.cos(size) * mean + math.sin(size) / size * step
        mean = mean / length(mean)
    return mean


@part
class Karcher(MergePart):
    """The Riemannian mean of directions.

    The method of a merge recipe under the name ``karcher``; the function of that name does the same to tensors at hand.

    Example:
        >>> from isoflop.merge.method import on_tensors
        >>> first, second = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
        >>> torch.equal(on_tensors(Karcher(), None, [first, second]), karcher([first, second]))
        True
    """

    card = Card(
        summary="the point of the sphere with the least squared arc length to all models' directions",
        paper="Karcher 1977; for merging arXiv 2603.04972",
        equation="argmin_m sum w_i angle(m, x_i)^2, times sum w_i |x_i|",
        defaults="at most 10 steps, tolerance 1e-5",
        differs="iterated on the inner products in float64; weights are possible",
        cost="a reading for the inner products, then 2 operations an element and model",
    )
    base: ClassVar[Bases] = "none"
    each: ClassVar[frozenset[str]] = frozenset({"weight"})

    weight: Each = 1.0
    """Weight of each model."""
    max_iter: PositiveInt = 10
    """Steps at most."""
    tol: PositiveFloat = 1e-5
    """A step shorter than this ends the search."""

    def survey(self, base: Flat | None, models: Sequence[Flat], rng: Rng, overview: Any) -> list[float]:
        return _coefficients(models, self.weight, self.max_iter, self.tol)

    def merge(self, base: Tensor | None, models: Sequence[Tensor], survey: Any, start: int) -> Tensor:
        return combination(models, survey)

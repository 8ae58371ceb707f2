"""The arithmetic of task vectors that many methods share: trim, weigh, elect a sign, add, scale.

A task vector is model - base, in the type in which the merge is computed; weights are rounded to that type.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..core.rng import Rng
from ..store.tensors import Flat
from .method import deltas, uniform
from .select import ALL, NONE, Cut, largest

Mask = Callable[[Tensor, int], Tensor]
"""Task vector's piece and its start -> the piece with what is dropped set to 0, and rescaled."""


def added(
    base: Tensor, vectors: Sequence[Tensor], weights: Sequence[float], *, elect: bool, normalize: bool, scale: float
) -> Tensor:
    """base + scale * (weighted sum of task vectors), elementwise.

    Args:
        base: any shape.
        vectors: the task vectors, of the base's shape and type.
        weights: one a vector.
        elect: of each element only the vectors with the sign of the weighted sum count (0 counts with none).
        normalize: divide by the sum of the weights that count.
        scale: multiplies the sum.
    """
    ones = [torch.tensor(weight, dtype=base.dtype) for weight in weights]
    weighted = [vector * one for vector, one in zip(vectors, ones, strict=True)]
    total = _sum(weighted)
    divisor: Tensor | float = float(_sum(ones)) if ones else 0.0
    if elect:
        positive = total >= 0
        agree = [agrees(vector, positive) for vector in weighted]
        total = _sum([vector * agreed for vector, agreed in zip(weighted, agree, strict=True)])
        if normalize:
            divisor = _sum([one * agreed for one, agreed in zip(ones, agree, strict=True)])
            divisor = divisor.masked_fill_(divisor == 0, 1)
    elif abs(float(divisor)) < 1e-8:
        divisor = 1.0
    if normalize:
        total = total / divisor
    return base + (total if scale == 1 else total * scale)


def agrees(vector: Tensor, positive: Tensor) -> Tensor:
    """Where a vector has the elected sign; 0 has none. (``torch.where`` on booleans takes several times as long.)"""
    return ((vector > 0) == positive) & (vector != 0)


def _sum(terms: Sequence[Tensor]) -> Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def largest_share(base: Flat, model: Flat, density: float) -> Cut:
    """Keeps the share ``density`` of a task vector's entries that are largest in magnitude: at least one, if any."""
    if density >= 1:
        return ALL
    if density <= 0:
        return NONE
    return largest(
        ((at, vector.abs()) for at, vector in deltas(base, model)), base.numel, max(1, int(density * base.numel))
    )


def without_outliers(base: Flat, model: Flat, density: float, gamma: float) -> tuple[Cut, Cut]:
    """Keeps the share ``density`` of entries below the share ``gamma`` of largest ones: (kept, of these dropped).

    Where fewer than ``density`` lie below, fewer of the largest are dropped.
    """
    if density >= 1:
        return ALL, NONE
    numel = base.numel
    kept = int(density * numel)
    top = min(int(gamma * numel), numel - kept)

    def cut(count: int) -> Cut:
        magnitudes = ((at, vector.abs()) for at, vector in deltas(base, model))
        return largest(magnitudes, numel, count, last_first=True)

    return cut(top + kept), cut(top)


def trimmed(vector: Tensor, cut: Cut, start: int) -> Tensor:
    """A piece of a task vector in which only what the cut keeps is left."""
    return vector if cut is ALL else vector * cut.keeps(vector.abs().float(), start)


def dropped(rng: Rng, number: int, density: float, vector: Tensor, start: int) -> Tensor:
    """A piece of task vector ``number`` in which each entry is kept with probability ``density``."""
    if density >= 1:
        return vector
    return vector * (uniform(rng, number, start, start + vector.numel()).reshape(vector.shape) < density)


def l1_ratio(before: float, after: float) -> float:
    """By what a masked vector is multiplied to have its L1 norm again; 1 where there is nothing to scale."""
    return before / after if before >= 1e-7 and after >= 1e-7 else 1.0

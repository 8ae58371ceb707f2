"""Which weights of a matrix a mask keeps: the largest of each group, or of all; and how masks grow over a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ..core.errors import UsageError

Axis = Literal["row", "column"]
Structure = Literal["fixed", "stepwise", "geometric", "densify"]


def group_mask(weight: Tensor, n: int, m: int, axis: Axis = "row") -> Tensor:
    """Mask (bool) of the ``n`` largest magnitudes of each ``m`` consecutive weights; of equal ones the first are kept.

    Args:
        weight: (rows, columns).
        n: kept of each group.
        m: weights of a group.
        axis: whether groups lie along rows or down columns.

    Raises:
        UsageError: ``m`` does not divide the axis, or n is not in 1..m.

    Example:
        >>> group_mask(torch.tensor([[1.0, -3.0, 2.0, 2.0]]), 2, 4).tolist()
        [[False, True, True, False]]
    """
    if not 1 <= n <= m:
        raise UsageError(f"{n} of {m} weights cannot be kept", where="N:M", fix="keep 1 to M of M")
    if axis == "column":
        return group_mask(weight.t(), n, m).t()
    if weight.shape[-1] % m:
        raise UsageError(f"groups of {m} do not divide {weight.shape[-1]} weights", where="N:M", fix="use another M")
    groups = weight.detach().abs().reshape(-1, m)
    kept = torch.sort(groups, dim=1, descending=True, stable=True).indices[:, :n]
    mask = torch.zeros(groups.shape, dtype=torch.bool, device=weight.device).scatter_(1, kept, True)
    return mask.view(weight.shape)


def largest_mask(weight: Tensor, kept: int) -> Tensor:
    """Mask (bool) of the ``kept`` largest magnitudes of a tensor; of equal ones the first are kept."""
    flat = weight.detach().abs().flatten()
    order = torch.sort(flat, descending=True, stable=True).indices[:kept]
    return torch.zeros(flat.shape, dtype=torch.bool, device=weight.device).scatter_(0, order, True).view(weight.shape)


def patterns(structure: Structure, n: int, m: int) -> list[tuple[int, int]]:
    """The patterns N:M that a structure goes through, the last N:M itself.

    ``stepwise``: (M-1):M, then M/2, M/4 ... of M. ``geometric``: 8N:8M, 4N:4M, 2N:2M. ``densify``: N of 8M, 4M, 2M.

    Example:
        >>> patterns("stepwise", 1, 8)
        [(7, 8), (4, 8), (2, 8), (1, 8)]
    """
    if structure == "fixed":
        return [(n, m)]
    if structure == "geometric":
        return [(n * k, m * k) for k in (8, 4, 2, 1)]
    if structure == "densify":
        return [(n, m * k) for k in (8, 4, 2, 1)]
    halves = [m >> k for k in range(1, m.bit_length()) if m >> k > n]
    return [(kept, m) for kept in ([m - 1] if n < m - 1 else []) + halves + [n] if kept]


def timetable(structure: Structure, n: int, m: int, total: int, dense: int, tune: int) -> dict[int, tuple[int, int]]:
    """First step (or epoch) of each pattern, all equally long between ``dense`` first and ``tune`` last steps.

    Example:
        >>> timetable("stepwise", 1, 8, total=100, dense=0, tune=0)
        {0: (7, 8), 25: (4, 8), 50: (2, 8), 75: (1, 8)}
    """
    found = patterns(structure, n, m)
    length = total - dense - tune
    return {dense + i * length // len(found): pattern for i, pattern in enumerate(found)}


def decayed(weight: Tensor, mask: Tensor, factor: float) -> Tensor:
    """Kept weights, and the others ``factor`` times as large."""
    return torch.where(mask, weight, weight * factor)


def decay(form: Literal["linear", "exponential"], rate: float, steps: int) -> float:
    """What is left of a pruned weight after so many steps: max(0, 1 - rate steps), or exp(-rate steps)."""
    return max(0.0, 1 - rate * steps) if form == "linear" else math.exp(-rate * steps)


def budget_masks(weights: Sequence[Tensor], densities: float | Sequence[float]) -> list[Tensor]:
    """Masks (bool) of the largest magnitudes.

    Args:
        weights: matrices.
        densities: one number: of all together, wherever they lie; one a matrix: of each.
    """
    if isinstance(densities, float | int):
        every = torch.cat([w.detach().flatten() for w in weights])
        joint = largest_mask(every, kept_of(every.numel(), float(densities)))
        parts = torch.split(joint, [w.numel() for w in weights])
        return [mask.view(w.shape) for mask, w in zip(parts, weights, strict=True)]
    return [largest_mask(w, kept_of(w.numel(), d)) for w, d in zip(weights, densities, strict=True)]


def kept_of(numel: int, density: float) -> int:
    """How many of ``numel`` weights a density keeps: at most so many, but for a rounding of the density itself."""
    return math.floor(numel * density + 1e-6)

"""Newton-Schulz iteration: a matrix with its singular values pushed towards 1 (Jordan et al. 2024, Muon)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

QUINTIC = (3.4445, -4.7750, 2.0315)
"""Muon's coefficients: steep at zero, so that 5 steps put singular values within about 0.7-1.2, not at 1."""

Coefficients = Sequence[float | Sequence[float]]
"""(a, b, c) for every step, or one triple a step (Polar Express and its like)."""


def orthogonalise(
    g: Tensor,
    steps: int = 5,
    coefficients: Coefficients = QUINTIC,
    dtype: torch.dtype = torch.bfloat16,
    eps: float = 1e-7,
) -> Tensor:
    """X <- a X + (b A + c A A) X with A = X X', ``steps`` times from X = g / (|g|_F + eps).

    Args:
        g: (..., m, n); leading dimensions are a batch. dtype: of the iteration; the result has it too.

    Products a step and matrix, m <= n: 4 m^2 n + 2 m^3 FLOPs.
    """
    triples = per_step(coefficients, steps)
    x: Tensor = g.to(dtype)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True) + eps)
    flat = x if x.ndim == 2 else x.reshape(-1, *x.shape[-2:])
    multiply_add = torch.addmm if x.ndim == 2 else torch.baddbmm
    for a, b, c in triples:
        gram = flat @ flat.mT
        flat = multiply_add(flat, multiply_add(gram, gram, gram, beta=b, alpha=c), flat, beta=a)
    flat = flat.reshape(x.shape)
    return flat.mT if tall else flat


def per_step(coefficients: Coefficients, steps: int) -> list[tuple[float, float, float]]:
    """One (a, b, c) a step; the last is repeated. Anything else is a ValueError."""
    rows: list[Any] = [coefficients] if isinstance(coefficients[0], int | float) else list(coefficients)
    if any(len(row) != 3 for row in rows):
        raise ValueError("Newton-Schulz coefficients are triples (a, b, c)")
    triples = [(float(row[0]), float(row[1]), float(row[2])) for row in rows]
    return (triples + triples[-1:] * steps)[:steps]

"""Newton-Schulz iteration: a matrix with its singular values pushed towards 1 (Jordan et al. 2024, Muon)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..core.cost import Cost
from ..ledger.formulas import newton_schulz

QUINTIC = (3.4445, -4.7750, 2.0315)
"""Muon's coefficients: steep at zero, so that 5 steps put singular values within about 0.7-1.2, not at 1."""

Coefficients = Sequence[float | Sequence[float]]
"""(a, b, c) for every step, or one triple a step (Polar Express and its like)."""


HALVES = 256
"""Smaller sides from which symmetric products are computed by halves: 3/4 of their work."""


@torch.no_grad()
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

    A and A A are symmetric; ``iteration_cost`` says what is computed of them.
    """
    triples = per_step(coefficients, steps)
    if g.numel() == 0:
        return g.to(dtype)
    if dtype == torch.float16:  # whose range a gradient's scale may leave
        g = g / (torch.linalg.vector_norm(g, dim=(-2, -1), keepdim=True) + eps)
    x: Tensor = g.to(dtype)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    eps = max(eps, torch.finfo(dtype).tiny)  # an eps that the dtype rounds to zero would not save a zero matrix
    x = x / (torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True) + eps)
    if x.ndim == 2:
        x = _iterate(x.contiguous(), triples)
    else:
        stack = x.reshape(-1, *x.shape[-2:])
        for a, b, c in triples:
            gram = stack @ stack.mT
            stack = torch.baddbmm(stack, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), stack, beta=a)
        x = stack.reshape(x.shape)
    return x.mT if tall else x


def _iterate(x: Tensor, triples: Sequence[tuple[float, float, float]]) -> Tensor:
    for a, b, c in triples:
        gram = _gram(x)
        x = torch.addmm(x, _gram(gram).mul_(c).add_(gram, alpha=b), x, beta=a)
    return x


def _gram(x: Tensor) -> Tensor:
    """x x'; of a large one the block below the diagonal is copied."""
    if len(x) < HALVES:
        return x @ x.T
    half = len(x) // 2
    product = x.new_empty(len(x), len(x))
    torch.mm(x[:half], x.T, out=product[:half])
    torch.mm(x[half:], x[half:].T, out=product[half:, half:])
    product[half:, :half] = product[:half, half:].T
    return product


def iteration_cost(shape: Sequence[int], steps: int = 5) -> Cost:
    """Cost of orthogonalising one matrix of ``shape``: model FLOPs in full, hardware FLOPs as computed."""
    m, n = min(shape), max(shape)
    full = newton_schulz(m, n, steps)
    if m < HALVES:
        return full
    saved = (m // 2) * (m - m // 2) * 2 * (n + m) * steps
    return Cost(full.model, full.hardware - saved, full.elementwise, full.moved)


def per_step(coefficients: Coefficients, steps: int) -> list[tuple[float, float, float]]:
    """One (a, b, c) a step; the last is repeated. Anything else is a ValueError."""
    rows: list[Any] = [coefficients] if isinstance(coefficients[0], int | float) else list(coefficients)
    if any(len(row) != 3 for row in rows):
        raise ValueError("Newton-Schulz coefficients are triples (a, b, c)")
    triples = [(float(row[0]), float(row[1]), float(row[2])) for row in rows]
    return (triples + triples[-1:] * steps)[:steps]

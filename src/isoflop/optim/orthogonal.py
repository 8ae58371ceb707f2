"""Newton-Schulz iteration: a matrix with its singular values pushed towards 1 (Jordan et al. 2024, Muon)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..core.cost import Cost
from ..ledger.formulas import newton_schulz

QUINTIC = (3.4445, -4.7750, 2.0315)
"""Muon's coefficients: steep at zero, so that 5 steps put singular values within about 0.7-1.2, not at 1."""

Coefficients = Sequence[float | Sequence[float]]
"""(a, b, c) for every step, or one triple a step (Polar Express and its like)."""

Triples = Sequence[tuple[float, float, float]]

HALVES = 256
"""Smaller sides from which ``orthogonalise`` computes symmetric products by halves: 3/4 of their work."""

HALVES_OF_ALL = 320
"""The same of ``orthogonalise_all``, whose whole products are faster (benchmarks/results/muon_step.json)."""

ALIKE = 1 << 16
"""Scalars of a matrix up to which those of one shape are iterated as a stack: there a product's call costs as much as
its arithmetic. Stacks of larger ones leave the cache (benchmarks/results/muon_step.json)."""


@torch.no_grad()
def orthogonalise(
    g: Tensor,
    steps: int = 5,
    coefficients: Coefficients = QUINTIC,
    dtype: torch.dtype = torch.bfloat16,
    eps: float = 1e-7,
) -> Tensor:
    """X <- a X + (b A + c A A) X with A = X X', ``steps`` times from X = g / (|g|_F + eps).

    A and A A are symmetric; ``iteration_cost`` says what is computed of them.

    Args:
        g: (..., m, n); leading dimensions are a batch.
        steps: how many.
        coefficients: (a, b, c), or one triple a step.
        dtype: of the iteration; the result has it too.
        eps: keeps a matrix of zeros finite.
    """
    triples = per_step(coefficients, steps)
    if g.numel() == 0:
        return g.to(dtype)
    x = _lying(g, dtype, eps)
    if x.ndim == 2:
        x = _by_halves(x.contiguous(), triples)
    else:
        x = _by_wholes(x.reshape(-1, *x.shape[-2:]), triples).reshape(x.shape)
    return x.mT if g.shape[-2] > g.shape[-1] else x


@torch.no_grad()
def orthogonalise_all(
    matrices: Sequence[Tensor], steps: int, coefficients: Coefficients, dtype: torch.dtype, eps: float
) -> list[Tensor]:
    """Every matrix as by ``orthogonalise``, but for rounding; small ones of one shape, or of its transpose, at once.

    Args:
        matrices: each (m, n), none empty.
        steps: iterations, as of ``orthogonalise``.
        coefficients: of the polynomial of each iteration.
        dtype: of the products.
        eps: what a norm is kept away from 0 by.

    Returns:
        One matrix each, in the order and the shapes given, in ``dtype``.
    """
    triples = per_step(coefficients, steps)
    stacks = defaultdict[tuple[int, int, torch.device], list[int]](list)
    found: list[Tensor] = list(matrices)
    for i, g in enumerate(matrices):
        m, n = sorted(g.shape)
        if m * n <= ALIKE:
            stacks[m, n, g.device].append(i)
        else:
            x = _lying(g, dtype, eps)
            found[i] = _by_wholes(x, triples) if m < HALVES_OF_ALL else _by_halves(x.contiguous(), triples)
    for chosen in stacks.values():
        lying = [matrices[i] if len(matrices[i]) <= matrices[i].shape[1] else matrices[i].mT for i in chosen]
        stack = lying[0] if len(chosen) == 1 else torch.stack(lying)
        done = _by_wholes(_lying(stack, dtype, eps), triples)
        for i, x in zip(chosen, [done] if len(chosen) == 1 else done, strict=True):
            found[i] = x
    return [x.mT if len(g) > g.shape[1] else x for g, x in zip(matrices, found, strict=True)]


def _lying(g: Tensor, dtype: torch.dtype, eps: float) -> Tensor:
    """g / (|g|_F + eps) in ``dtype``, transposed if it has more rows than columns."""
    if dtype == torch.float16:  # whose range a gradient's scale may leave
        g = g / (torch.linalg.vector_norm(g, dim=(-2, -1), keepdim=True) + eps)
    x: Tensor = g.to(dtype)
    if x.shape[-2] > x.shape[-1]:
        x = x.mT
    eps = max(eps, torch.finfo(dtype).tiny)  # an eps that the dtype rounds to zero would not save a zero matrix
    norm = torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True).add_(eps)
    return x / norm if dtype == g.dtype else x.div_(norm)


def _by_wholes(x: Tensor, triples: Triples) -> Tensor:
    """The iteration of a matrix or a stack of them, three products a step."""
    product: Callable[..., Tensor] = torch.addmm if x.ndim == 2 else torch.baddbmm
    for a, b, c in triples:
        gram = x @ x.mT
        x = product(x, product(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def _by_halves(x: Tensor, triples: Triples) -> Tensor:
    """The iteration of one matrix, of whose symmetric products large ones are computed by halves."""
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


def iteration_cost(shape: Sequence[int], steps: int = 5, halves: int = HALVES) -> Cost:
    """Cost of orthogonalising one matrix: model FLOPs in full, hardware FLOPs as computed.

    Args:
        shape: (m, n) of the matrix.
        steps: Newton-Schulz iterations.
        halves: smaller sides from which it is computed by halves: HALVES or HALVES_OF_ALL.
    """
    m, n = min(shape), max(shape)
    full = newton_schulz(m, n, steps)
    if m < halves:
        return full
    saved = (m // 2) * (m - m // 2) * 2 * (n + m) * steps
    return Cost(full.flops, full.executed - saved, full.elementwise, full.moved)


def per_step(coefficients: Coefficients, steps: int) -> Triples:
    """One (a, b, c) a step; the last is repeated. Anything else is a ValueError."""
    given: list[Any] = list(coefficients)
    rows = [given] if given and all(isinstance(number, int | float) for number in given) else given
    if not rows or any(not isinstance(row, Sequence) or len(row) != 3 for row in rows):
        raise ValueError("Newton-Schulz coefficients are triples (a, b, c)")
    triples = [(float(row[0]), float(row[1]), float(row[2])) for row in rows]
    return (triples + triples[-1:] * steps)[:steps]

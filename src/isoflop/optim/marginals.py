"""A second moment kept as its averages over all but one dimension (Shazeer and Stern 2018, arXiv 1804.04235)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def means(squares: Tensor, d: int) -> Tensor:
    """Means over all dimensions but ``d``; of a vector or scalar over everything. 1-D."""
    if squares.ndim < 2:
        return squares.mean().view(1)
    return squares.mean(dim=[k for k in range(squares.ndim) if k != d])


def rank1(factors: Sequence[Tensor]) -> Tensor:
    """Outer product of the factors over their common mean to the power len - 1."""
    product = factors[0].clone()
    for factor in factors[1:]:
        product = product.unsqueeze(-1) * factor
    return product.div_(factors[0].mean() ** (len(factors) - 1))

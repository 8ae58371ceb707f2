"""A second moment kept as its averages over all but one dimension (Shazeer and Stern 2018, arXiv 1804.04235)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def mean_squares(x: Tensor, d: int) -> Tensor:
    """Means of x^2 over all dimensions but ``d``; of a vector or scalar over everything. 1-D."""
    over = [k for k in range(x.ndim) if k != d] if x.ndim > 1 else None
    if d:  # over rows, a norm is several times slower than a mean (seen on a CPU, no timing was kept)
        return x.square().mean(over)
    found: Tensor = torch.linalg.vector_norm(x, dim=over).square_().view(-1)
    return found.div_(max(1, x.numel() // max(1, len(found))))


def rank1_root(factors: Sequence[Tensor]) -> Tensor:
    """Square root of the outer product of the factors over their common mean to the power len - 1; 0 where that is 0.

    Every division is by the root of the mean alone: the mean's higher powers leave fp32's range.
    """
    mean = factors[0].mean().sqrt_()
    mean = torch.where(mean > 0, mean, 1.0)
    product = factors[0].sqrt()
    for factor in factors[1:]:
        product = product.div_(mean).unsqueeze(-1) * factor.sqrt()
    return product

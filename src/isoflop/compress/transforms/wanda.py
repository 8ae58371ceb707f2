"""Wanda (Sun et al. 2023, arXiv 2306.11695): the weights whose products are small, not those that are small, go."""

from __future__ import annotations

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from ...core.registry import Card, part
from ..calibrated import CalibratedPart
from ..sparsity import group_mask, kept_of, largest_mask
from ..transform import KEPT_BITS


@part
class WandaPart(CalibratedPart):
    """Sets weights to zero by |w| times the 2-norm of what it is multiplied with: a share of each row, or of each M.

    ``sparsify`` is the same without looking, by |w| alone.

    Example:
        >>> import torch
        >>> weight, gram = torch.tensor([[1.0, -2.0]]), torch.diag(torch.tensor([9.0, 1.0]))
        >>> WandaPart(n=1, m=2).solved(weight, gram).tolist()
        [[1.0, -0.0]]
    """

    n: PositiveInt = 2
    """Weights that are kept of each group; of equal ones the first."""
    m: PositiveInt = 4
    """Weights of a group; it divides the columns."""
    sparsity: float | None = Field(None, gt=0, lt=1)
    """Share of zeros in each row, wherever they lie, instead of groups."""
    card = Card(
        summary="Sets weights to zero by their size times that of their inputs, row by row or by groups",
        paper="Sun et al. 2023, arXiv 2306.11695",
        equation="W' = W mask, mask the largest |W_ij| ||x_j||_2 of a row or group",
        defaults="128 windows of 2,048 tokens",
        cost="two forward passes over the windows",
    )

    def solved(self, weight: Tensor, gram: Tensor) -> Tensor:
        scores = scores_of(weight, gram)
        if self.sparsity is None:
            return weight * group_mask(scores, self.n, self.m)
        kept = kept_of(weight.shape[1], 1 - self.sparsity)
        return weight * torch.stack([largest_mask(row, kept) for row in scores])

    def bits(self, weight: Tensor) -> float:
        return KEPT_BITS * weight.numel()


def scores_of(weight: Tensor, gram: Tensor) -> Tensor:
    """|W_ij| ||x_j||_2, float64 (rows, columns).

    Args:
        weight: (rows, columns).
        gram: (columns, columns), the sum of x x' over its inputs.

    Example:
        >>> scores_of(torch.tensor([[1.0, -2.0]]), torch.diag(torch.tensor([9.0, 1.0]))).tolist()
        [[3.0, 2.0]]
    """
    return weight.double().abs() * gram.diagonal().double().sqrt()

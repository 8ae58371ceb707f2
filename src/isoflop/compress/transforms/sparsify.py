"""Zeros for the smallest weights: N of each M, or a share of each matrix."""

from __future__ import annotations

from pydantic import Field, PositiveInt
from torch import Tensor

from ...core.registry import Card, part
from ..sparsity import budget_masks, group_mask
from ..transform import KEPT_BITS, WeightTransformPart


@part
class SparsifyPart(WeightTransformPart):
    """Sets the smallest weights to zero: a share of each matrix, or all but N of each M of a row.

    Example:
        >>> import torch
        >>> SparsifyPart(n=1, m=2).apply("w", torch.tensor([[1.0, -2.0]])).tolist()
        [[0.0, -2.0]]
    """

    n: PositiveInt = 2
    """Weights that are kept of each group, the largest; of equal ones the first."""
    m: PositiveInt = 4
    """Weights of a group; it divides the columns."""
    sparsity: float | None = Field(None, gt=0, lt=1)
    """Share of zeros in each matrix, wherever they lie, instead of groups."""
    card = Card(
        summary="Sets the smallest weights to zero, by matrix or by groups",
        equation="W' = W mask, mask the largest |W|",
        cost="a sort of each matrix; no data",
    )

    def apply(self, name: str, weight: Tensor) -> Tensor:
        if self.sparsity is None:
            return weight * group_mask(weight, self.n, self.m)
        (mask,) = budget_masks([weight], [1 - self.sparsity])
        return weight * mask

    def bits(self, weight: Tensor) -> float:
        return KEPT_BITS * weight.numel()  # zeros are stored until a packed format leaves them out

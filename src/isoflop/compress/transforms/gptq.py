"""GPTQ (Frantar et al. 2022, arXiv 2210.17323): round column by column, and let the columns left make up for it."""

from __future__ import annotations

import torch
from pydantic import PositiveFloat
from torch import Tensor

from ...core.cost import Cost
from ...core.errors import NumericsError
from ...core.registry import Card, part
from ...ledger import formulas
from ..calibrated import RoundingPart
from ..grids import Grid

LAZY = 128
"""Columns whose errors are passed on together."""


def gptq(weight: Tensor, gram: Tensor, grid: Grid, damping: float = 0.01) -> Tensor:
    """A matrix on a grid whose products differ little from the matrix's own.

    Column by column, in their order: round column i, then add to each later column j the error (w - q) / U_ii times
    -U_ij, with U the upper Cholesky factor of the inverse of the damped ``gram``. A block's scale is that of the
    weights as they are when its turn comes.

    Args:
        weight: (rows, columns).
        gram: (columns, columns), the sum of x x' over its inputs.
        grid: of integers.
        damping: share of the mean diagonal that is added to it.

    Raises:
        NumericsError: ``gram`` is not finite.

    Example:
        >>> from isoflop.compress.grids import integers
        >>> weight, x = torch.tensor([[7.0, 3.4, 3.4]]), torch.ones(5, 3)
        >>> gptq(weight, x.t() @ x, Grid(integers(4))).tolist(), Grid(integers(4)).rounded(weight).tolist()
        ([[7.0, 3.0, 4.0]], [[7.0, 3.0, 3.0]])
    """
    left, factor = weight.double().clone(), _factor(gram.double(), damping)
    left[:, gram.diagonal() == 0] = 0  # nothing ever comes there
    made, width = torch.zeros_like(left), left.shape[1]
    block = min(grid.block or width, width)
    for start in range(0, width, block):
        stop = min(start + block, width)
        scale = grid.scales(left[:, None, start:stop])[:, 0, 0]
        for first in range(start, stop, LAZY):
            last = min(first + LAZY, stop)
            errors = torch.zeros_like(left[:, first:last])
            for i in range(first, last):
                made[:, i] = _nearest(left[:, i], scale, grid.element.largest)
                errors[:, i - first] = (left[:, i] - made[:, i]) / factor[i, i]
                left[:, i + 1 : last] -= errors[:, i - first, None] * factor[i, i + 1 : last]
            left[:, last:] -= errors @ factor[first:last, last:]
    return made.to(weight.dtype)


def _nearest(column: Tensor, scale: Tensor, largest: float) -> Tensor:
    return torch.where(scale > 0, column / scale, 0.0).round().clamp(-largest, largest) * scale


def _factor(gram: Tensor, damping: float) -> Tensor:
    """The upper Cholesky factor of the inverse of a damped Gram matrix."""
    diagonal = gram.diagonal()
    filled = gram + torch.diag(torch.where(diagonal == 0, 1.0, 0.0))
    damped = filled + torch.eye(len(gram), dtype=gram.dtype) * damping * filled.diagonal().mean()
    lower, problem = torch.linalg.cholesky_ex(damped)
    if problem or not bool(torch.isfinite(lower).all()):
        what = "what comes to a matrix is not finite, or leaves no inverse"
        raise NumericsError(what, where="gptq", fix="give a larger damping")
    factor: Tensor = torch.linalg.cholesky(torch.cholesky_inverse(lower), upper=True)
    return factor


@part
class GptqPart(RoundingPart):
    """Rounds to integers so that what comes out of each matrix changes little on the run's own text.

    What ``round`` loses at 4 bits and fewer it mostly wins back; it needs text, and minutes where that needs none.

    Example:
        >>> import torch
        >>> weight = torch.tensor([[7.0, 3.2]])
        >>> GptqPart(block=2).solved(weight, torch.eye(2)).tolist()  # inputs that have nothing to do with each other
        [[7.0, 3.0]]
    """

    damping: PositiveFloat = 0.01
    """Share of the mean of the inputs' squares that is added to each."""
    card = Card(
        summary="Rounds column by column, the columns that are left making up for each one's error",
        paper="Frantar et al. 2022, arXiv 2210.17323",
        equation="w_j -= (w_i - q_i) U_ij / U_ii for j > i, U'U = (X X' + damping)^-1",
        defaults="128 windows of 2,048 tokens, blocks of 128 or whole rows, asymmetric grids",
        differs="grids are symmetric and columns keep their order",
        cost="two forward passes over the windows; 3 columns^3 + rows columns^2 FLOPs a matrix, about",
    )

    def solved(self, weight: Tensor, gram: Tensor) -> Tensor:
        return gptq(weight, gram, self.grid, self.damping)

    def cost(self, rows: int, columns: int) -> Cost:
        twice = 2 * formulas.cholesky(columns) + formulas.cholesky_inverse(columns)
        return twice + formulas.products(rows * columns * columns, 2 * rows * columns)

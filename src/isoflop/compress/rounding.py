"""The weights of a grid, trained by the straight-through gradient."""

from __future__ import annotations

import math

from torch import Tensor

from .grids import Grid
from .weights import WeightForm, straight_through


class Rounded(WeightForm):
    """Rounded weights; their gradient goes to the weights as if nothing had been rounded.

    Args:
        grid: what they are rounded to.
        begin: share of the horizon after which they are rounded in training; in use they always are.

    Example:
        >>> import torch
        >>> from isoflop.compress.grids import integers
        >>> Rounded(Grid(integers(4))).finalize(torch.tensor([[7.0, 3.2]])).tolist()
        [[7.0, 3.0]]
    """

    def __init__(self, grid: Grid, begin: float = 0.0) -> None:
        super().__init__()
        self.grid, self.begin, self.rounds = grid, begin, begin == 0

    def at(self, step: int, horizon: int) -> None:
        """Round from step ceil(begin * horizon) on; without a horizon from the start."""
        self.rounds = step >= math.ceil(self.begin * horizon)

    def trained(self, weight: Tensor) -> Tensor:
        return straight_through(weight, self.grid.rounded(weight)) if self.rounds else weight

    def finalize(self, weight: Tensor) -> Tensor:
        return self.grid.rounded(weight)

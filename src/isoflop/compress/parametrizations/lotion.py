"""LOTION: the loss smoothed by unbiased rounding, to second order (Kwun et al. 2025, arXiv 2510.08757)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from ...core.contracts import Curvature
from ...core.registry import Card, part
from ...core.rng import Rng
from ..grids import Float, Grid, floats, integers, variance
from ..weights import WeightForm, WeightPart


class Smoothed(WeightForm):
    """Plain weights in training, rounded ones in use, and the penalty that makes the first like the second.

    The penalty is weight / 2 sum_i g_i (u_i - w_i)(w_i - l_i), with u_i and l_i the grid's points around w_i and g_i
    the loss's curvature. g is constant to its gradient, the scales are not.

    Args:
        grid: what weights are rounded to.
        weight: of the penalty.

    Example:
        >>> smoothed = Smoothed(Grid(integers(4)), 2.0)
        >>> smoothed.take_curvature(lambda: torch.ones(1, 2))
        >>> smoothed.own_gradient(torch.tensor([[7.0, 3.25]])).tolist()[0][1]
        0.5
    """

    def __init__(self, grid: Grid, weight: float) -> None:
        super().__init__()
        self.grid, self.weight = grid, weight
        self._curvature: Callable[[], Tensor | None] = lambda: None

    def take_curvature(self, curvature: Callable[[], Tensor | None]) -> None:
        self._curvature = curvature

    def own_gradient(self, weight: Tensor) -> Tensor | None:
        curvature = self._curvature()
        if curvature is None:
            return None
        return penalty_gradient(weight, curvature.view(weight.shape), self.grid, self.weight)

    def trained(self, weight: Tensor) -> Tensor:
        return weight

    def finalize(self, weight: Tensor) -> Tensor:
        return self.grid.rounded(weight)


def penalty(weight: Tensor, curvature: Tensor, grid: Grid, factor: float = 1.0) -> Tensor:
    """factor / 2 sum g (u - w)(w - l): what unbiased rounding adds to a quadratic loss of curvature g, on average."""
    return factor / 2 * (curvature * variance(weight, grid)).sum()


def penalty_gradient(weight: Tensor, curvature: Tensor, grid: Grid, factor: float = 1.0) -> Tensor:
    """The penalty's gradient, (rows, columns)."""
    with torch.enable_grad():
        point = weight.detach().requires_grad_()
        (found,) = torch.autograd.grad(penalty(point, curvature.detach(), grid, factor), point)
    return found


@part
class LotionPart(WeightPart):
    """Training for rounding without rounding: a penalty that grows with each weight's distance from the grid.

    Unlike the straight-through gradient it is the gradient of something: of the loss's mean under random rounding, to
    second order. It needs an optimizer that estimates curvature.

    Example:
        >>> LotionPart(bits=4).grid.element.largest
        7.0
    """

    bits: PositiveInt = 4
    """Bits of a weight, an integer of 2 to 8 bits."""
    format: Float | None = None
    """Small floats instead of integers."""
    block: PositiveInt | None = None
    """Weights of a row that share a scale; none: the whole row."""
    weight: PositiveFloat = 1.0
    """Of the penalty. The optimizer's curvature is that of a step's mean loss, so that larger batches want more."""
    card = Card(
        summary="The loss's mean under random rounding, by its curvature: plain weights and a penalty off the grid",
        paper="Kwun et al. 2025, arXiv 2510.08757",
        equation="L(w) + weight / 2 sum_i g_i (u_i - w_i)(w_i - l_i), g the second moment of the gradient",
        differs="the scales' own gradient is kept; g is the optimizer's second moment, corrected for its start",
        cost="elementwise work on each weight, once a step",
    )
    search: ClassVar[dict[str, tuple[float, ...]]] = {"weight": (1.0, 10.0, 100.0, 1000.0, 10000.0)}
    needs = {"optimizer": frozenset({Curvature})}
    operations = 0

    @property
    def grid(self) -> Grid:
        """What weights are rounded to."""
        return Grid(integers(self.bits) if self.format is None else floats(self.format), self.block)

    @property
    def bits_in_use(self) -> float:
        return self.grid.element.bits

    def check(self, recipe: Any) -> list[str]:
        return [] if 2 <= self.bits <= 8 else ["parametrization.bits: should be 2 to 8"]

    def build(self, rows: int, columns: int, rng: Rng) -> Smoothed:
        return Smoothed(self.grid, self.weight)

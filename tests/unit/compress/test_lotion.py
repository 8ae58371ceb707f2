"""LOTION's penalty is what unbiased rounding adds to a quadratic loss, to the last digit; straight-through has none."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from isoflop.compress.grids import Grid, floats, integers, variance
from isoflop.compress.parametrizations.lotion import LotionPart, Smoothed, penalty, penalty_gradient
from isoflop.compress.rounding import Rounded
from isoflop.core.errors import RecipeError
from isoflop.core.recipe import Recipe

GRIDS = [Grid(integers(4)), Grid(integers(3), 3), Grid(floats("fp4_e2m1")), Grid(floats("fp8_e4m3"), 4)]


def quadratic(seed: int, size: int = 6) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A Hessian, its minimum and a weight, float64."""
    draw = torch.Generator().manual_seed(seed)
    a, centre, w = (torch.randn(n, size, generator=draw, dtype=torch.float64) for n in (size, 1, 1))
    return a @ a.T, centre, w


def loss(hessian: torch.Tensor, centre: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    off = (w - centre).flatten()
    return off @ hessian @ off / 2


def mean_over_roundings(hessian: torch.Tensor, centre: torch.Tensor, w: torch.Tensor, grid: Grid) -> float:
    """Every combination of neighbours, with its probability."""
    _, lower, upper = (t.flatten()[: w.numel()] for t in grid.neighbours(w))
    flat, total = w.flatten(), 0.0
    chance = torch.where(upper > lower, (flat - lower) / (upper - lower), 0.0)
    for choice in itertools.product([0, 1], repeat=w.numel()):
        up = torch.tensor(choice, dtype=torch.bool)
        probability = torch.where(up, chance, 1 - chance).prod()
        total += float(probability * loss(hessian, centre, torch.where(up, upper, lower)[None]))
    return total


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_the_penalty_is_the_mean_over_all_roundings(grid: Grid, seed: int) -> None:
    hessian, centre, w = quadratic(seed)
    curvature = hessian.diagonal()[None]
    smoothed = float(loss(hessian, centre, w) + penalty(w, curvature, grid))
    assert smoothed == pytest.approx(mean_over_roundings(hessian, centre, w, grid), rel=1e-10)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_the_gradient_is_that_of_finite_differences_scales_included(grid: Grid) -> None:
    _, _, w = quadratic(7, 9)
    curvature = torch.rand(w.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found, step = penalty_gradient(w, curvature, grid, 3.0), 1e-6
    for i in range(w.numel()):
        moved = torch.zeros_like(w)
        moved[0, i] = step
        slope = (penalty(w + moved, curvature, grid, 3.0) - penalty(w - moved, curvature, grid, 3.0)) / (2 * step)
        size = float(w[0, i].abs())
        if size < float(w.abs().max()):  # the largest lies on the grid, at a kink
            assert float(found[0, i]) == pytest.approx(float(slope), abs=1e-6)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_on_the_grid_there_is_no_penalty(grid: Grid) -> None:
    w = grid.rounded(torch.randn(3, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    again = grid.rounded(w)
    torch.testing.assert_close(again, w, rtol=1e-12, atol=0)
    assert float(variance(again, grid).abs().max()) < 1e-12 * float(w.square().max())
    assert not variance(torch.zeros(2, 4), grid).any()


def test_straight_through_of_random_rounding_lacks_the_term() -> None:
    """Its mean gradient is that of the plain loss: rounding adds noise, and no pull towards the grid."""
    hessian, centre, w = quadratic(3)
    grid = Grid(integers(3))
    curvature = hessian.diagonal()[None]
    _, lower, upper = (t.flatten()[: w.numel()] for t in grid.neighbours(w))
    chance = torch.where(upper > lower, (w.flatten() - lower) / (upper - lower), 0.0)
    mean = torch.zeros(w.numel(), dtype=torch.float64)
    for choice in itertools.product([0, 1], repeat=w.numel()):
        up = torch.tensor(choice, dtype=torch.bool)
        at = torch.where(up, upper, lower)
        mean += torch.where(up, chance, 1 - chance).prod() * (hessian @ (at - centre.flatten()))
    plain = hessian @ (w - centre).flatten()
    torch.testing.assert_close(mean, plain)
    assert float(penalty_gradient(w, curvature, grid).abs().max()) > 0.01 * float(plain.abs().max())


def test_the_weights_are_plain_in_training_and_rounded_in_use() -> None:
    smoothed, w = LotionPart(bits=4).build(1, 8, None), torch.randn(1, 8)  # type: ignore[arg-type]
    assert smoothed.effective(w) is w
    assert torch.equal(smoothed.eval().effective(w), Rounded(Grid(integers(4))).finalize(w))
    assert Smoothed(Grid(integers(4)), 1.0).own_gradient(w) is None, "no curvature yet"


def test_it_needs_an_optimizer_that_knows_curvature() -> None:
    tiny: Any = ("model={name='transformer', d_model=16, layers=1}", "budget={steps=4}")
    Recipe.load("small", *tiny, "parametrization=lotion")
    with pytest.raises(RecipeError, match="lotion needs optimizer to be Curvature, which lion is not"):
        Recipe.load("small", *tiny, "parametrization=lotion", "optimizer=lion")
    with pytest.raises(RecipeError, match="Curvature"):
        Recipe.load("small", *tiny, 'parametrization=["nm", "lotion"]', "optimizer=lion")

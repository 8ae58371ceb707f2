"""Integer weights, trained by the straight-through gradient (Bengio et al. 2013, arXiv 1308.3432)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.contracts import ParametrizationPart
from ...core.cost import Cost, Work
from ...core.registry import Card, part
from ...core.rng import Rng
from ...core.roles import Shape
from ...ledger import formulas


def quantised(weight: Tensor, bits: int) -> Tensor:
    """Each row of ``weight`` (rows, columns) rounded to ``bits``-bit integers times the row's scale, in fp32.

    Integers are symmetric, -(2^(bits-1) - 1) .. 2^(bits-1) - 1, and the scale is the row's largest magnitude over the
    largest integer; a row of zeros stays zero. Halves are rounded to even.
    """
    top = 2 ** (bits - 1) - 1
    scale = weight.abs().amax(1, keepdim=True) / top
    rounded: Tensor = torch.where(scale > 0, (weight / scale).round(), 0.0) * scale
    return rounded


class Integer(nn.Module):
    """Products with the rounded weight; its gradient goes to the weight as if nothing had been rounded.

    Args:
        bits: of each weight.
        begin: share of the horizon after which weights are rounded; before it they are plain.

    Example:
        >>> rounded = Integer(bits=4, begin=0.0).finalize(torch.tensor([[7.0, 3.2]]))
        >>> rounded.tolist()
        [[7.0, 3.0]]
    """

    def __init__(self, bits: int, begin: float) -> None:
        super().__init__()
        self.bits, self.begin, self.rounds = bits, begin, begin == 0

    def at(self, step: int, horizon: int) -> None:
        """Round from step ceil(begin * horizon) on; without a horizon from the start."""
        self.rounds = step >= math.ceil(self.begin * horizon)

    def product(self, weight: Tensor, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        if self.rounds:
            weight = weight + (quantised(weight.detach(), self.bits) - weight.detach())
        cast = weight.to(dtype)
        return lambda x: F.linear(x, cast)

    def finalize(self, weight: Tensor) -> Tensor:
        return quantised(weight, self.bits)


@part
class IntegerPart(ParametrizationPart):
    """Quantisation-aware training with one scale a row.

    Use it to train a model that will be served with integer weights: it learns what rounding does to it.

    Example:
        >>> IntegerPart(bits=4).begin
        0.0
    """

    bits: Annotated[int, Field(ge=2, le=8)] = 4
    """Bits of a weight."""
    begin: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the run after which weights are rounded; needs a budget with a horizon."""
    card = Card(
        summary="Weights rounded to integers with one scale a row; straight-through gradient",
        paper="Jacob et al. 2017, arXiv 1712.05877; straight-through: Bengio et al. 2013, arXiv 1308.3432",
        equation="W' = s round(W / s), s = max |W_row| / (2^(bits-1) - 1); dL/dW = dL/dW'",
        differs="weights only; activations stay as they are",
        cost="elementwise work on each weight, once a micro-batch; products in the usual precision",
    )

    def check(self, recipe: Any) -> list[str]:
        if self.begin and recipe.budget.seconds is not None:
            return ["parametrization.begin: is a share of the run, whose length a budget in seconds leaves open; use 0"]
        return []

    def build(self, rows: int, columns: int, rng: Rng) -> Integer:
        return Integer(self.bits, self.begin)

    def shapes(self, rows: int, columns: int) -> list[Shape]:
        return []

    def work(self, tokens: int, rows: int, columns: int, *, trained: bool, live: bool, own: frozenset[str]) -> Work:
        n = rows * columns
        product = formulas.linear(tokens, columns, rows, input_gradient=live, weight_gradient=trained)
        return product + Work(forward=Cost(elementwise=6 * n, moved=12 * n))

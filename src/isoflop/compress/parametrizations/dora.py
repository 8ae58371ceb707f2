"""DoRA: a low-rank update of a weight's direction, and its rows' lengths apart (Liu et al. 2024, arXiv 2402.09353)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from ...core.contracts import LowRank
from ...core.cost import Cost, Work
from ...core.registry import Card, part
from ...core.rng import Rng
from ...core.roles import Shape
from ...ledger import formulas
from ..low_rank import LowRankPart, LowRankUpdate


class Magnitude(nn.Module):
    """The length of each of a weight's rows, as a gain: ``weight`` (rows,)."""

    role = "norm"

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(rows))


class DoRA(LowRankUpdate):
    """x V' with V = m (W + scale B A) / |W + scale B A|, lengths |.| of rows; m starts as |W|, so that V starts as W.

    The lengths |W + scale B A| are constants to the gradient (section 4.3 of the paper).
    """

    def __init__(self, rows: int, columns: int, rank: int, scale: float, rng: Rng) -> None:
        super().__init__(rows, columns, rank, scale, rng)
        self.magnitude = Magnitude(rows)

    @torch.no_grad()
    def begin_from(self, weight: Tensor) -> None:
        """Take the lengths of the weight that training begins with; before the first step."""
        self.magnitude.weight.copy_(self._lengths(weight))

    @torch.no_grad()
    def _lengths(self, weight: Tensor) -> Tensor:
        lengths: Tensor = torch.linalg.vector_norm(weight + self.scale * (self.B @ self.A), dim=1)
        return lengths

    def _gain(self, weight: Tensor) -> Tensor:
        lengths = self._lengths(weight)
        lengths.clamp_min_(torch.finfo(lengths.dtype).tiny)  # a row of zeros stays zero
        return self.magnitude.weight / lengths

    def product(self, weight: Tensor, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        direction = super().product(weight, dtype)
        gain = self._gain(weight).to(dtype)
        return lambda x: direction(x) * gain

    def finalize(self, weight: Tensor) -> Tensor:
        return super().finalize(weight) * self._gain(weight)[:, None]

    def low_rank(self) -> LowRank:
        return replace(super().low_rank(), magnitude=self.magnitude.weight)


@part
class DoRAPart(LowRankPart):
    """Low-rank adaptation of directions, with each row's length trained as a number of its own.

    Use it as ``lora``, where the length of a weight's rows should be trained apart from their direction.

    Example:
        >>> part = DoRAPart(rank=4)
        >>> len(part.shapes(3, 5))
        3
    """

    sums = False
    card = Card(
        summary="A low-rank update of each row's direction, and the rows' lengths, beside frozen weights",
        paper="Liu et al. 2024, arXiv 2402.09353, equations 5 and 11",
        equation="x V', V = m (W + s B A) / |W + s B A| by rows; m starts as |W|; |.| is constant to the gradient",
        defaults="half LoRA's rank, alpha twice the rank",
        differs="all matrices within the blocks by default; no dropout; A drawn from N(0, 1 / columns); "
        "B A is formed in fp32 once a micro-batch",
        cost="LoRA's, the product B A once a micro-batch, and elementwise work on weights and outputs",
    )

    def build(self, rows: int, columns: int, rng: Rng) -> DoRA:
        return DoRA(rows, columns, self.rank, self.scale, rng)

    def shapes(self, rows: int, columns: int) -> list[Shape]:
        return [*super().shapes(rows, columns), Shape("magnitude.weight", "norm", (rows,))]

    def work(self, tokens: int, rows: int, columns: int, *, trained: bool, live: bool, own: frozenset[str]) -> Work:
        numel, outputs = rows * columns, tokens * rows
        lengths = formulas.matmul(rows, self.rank, columns) + Cost(elementwise=4 * numel, moved=12 * numel)
        gains = Cost(elementwise=outputs, moved=12 * outputs)
        products = super().work(tokens, rows, columns, trained=trained, live=live, own=own)
        return products + Work(forward=lengths + gains, backward=gains * 2)

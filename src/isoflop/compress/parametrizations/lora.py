"""LoRA: a low-rank update beside a frozen weight (Hu et al. 2021, arXiv 2106.09685)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.contracts import ParametrizationPart
from ...core.cost import Work
from ...core.registry import Card, part
from ...core.rng import Rng
from ...core.roles import Shape
from ...ledger import formulas


class LoRA(nn.Module):
    """x W' + scale (x A') B', A (rank, columns) drawn from N(0, 1 / columns), B (rows, rank) zero at first.

    Args:
        rows, columns: the weight's shape.
        rank: of the update.
        scale: alpha / rank.
        rng: of A's entries.
    """

    role = "hidden"

    def __init__(self, rows: int, columns: int, rank: int, scale: float, rng: Rng) -> None:
        super().__init__()
        self.scale = scale
        drawn = rng("A").at().standard_normal((rank, columns), dtype="float32")
        self.A = nn.Parameter(torch.from_numpy(drawn) * columns**-0.5)
        self.B = nn.Parameter(torch.zeros(rows, rank))

    def product(self, weight: Tensor, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        cast, down, up = weight.to(dtype), self.A.to(dtype), (self.B * self.scale).to(dtype)
        return lambda x: F.linear(x, cast) + F.linear(F.linear(x, down), up)

    def finalize(self, weight: Tensor) -> Tensor:
        return weight + self.scale * (self.B @ self.A)


@part
class LoRAPart(ParametrizationPart):
    """Low-rank adaptation: only A and B are trained, everything else stays as it is."""

    alone = True
    rank: PositiveInt = 8
    """Rank of the update."""
    alpha: PositiveFloat = 16.0
    """The update is multiplied by alpha / rank."""
    card = Card(
        summary="A low-rank update beside frozen weights",
        paper="Hu et al. 2021, arXiv 2106.09685",
        equation="x W' + (alpha / rank) x A' B'",
        defaults="rank 4 to 16 and alpha of the order of the rank, on queries and values",
        differs="all matrices within the blocks by default; no dropout; A drawn from N(0, 1 / columns)",
        cost="two thin products beside each; frozen weights cost no gradient of their own and no state",
    )

    def build(self, rows: int, columns: int, rng: Rng) -> LoRA:
        return LoRA(rows, columns, self.rank, self.alpha / self.rank, rng)

    def shapes(self, rows: int, columns: int) -> list[Shape]:
        return [Shape("A", "hidden", (self.rank, columns)), Shape("B", "hidden", (rows, self.rank))]

    def work(self, tokens: int, rows: int, columns: int, *, trained: bool, live: bool) -> Work:
        base = formulas.linear(tokens, columns, rows, input_gradient=live, weight_gradient=trained)
        down = formulas.linear(tokens, columns, self.rank, input_gradient=live)
        return base + down + formulas.linear(tokens, self.rank, rows)

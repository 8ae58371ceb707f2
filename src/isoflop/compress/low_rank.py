"""What low-rank updates of a weight share: two factors, their scale, and what their products cost."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, ClassVar

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.contracts import LowRank, ParametrizationPart
from ..core.cost import Work
from ..core.documents import Later
from ..core.rng import Rng
from ..core.roles import Shape
from ..ledger import formulas


class LowRankUpdate(nn.Module):
    """x W' + scale (x A') B', A (rank, columns) drawn from N(0, 1 / columns), B (rows, rank) zero at first.

    Args:
        rows: of the weight, its output width.
        columns: of the weight, its input width.
        rank: of the update.
        scale: of the update, alpha / rank or alpha / sqrt(rank).
        rng: of A's entries.

    Example:
        >>> update = LowRankUpdate(3, 4, rank=2, scale=2.0, rng=Rng(0))
        >>> update.low_rank().a.shape, bool((update.finalize(torch.ones(3, 4)) == 1).all())
        (torch.Size([2, 4]), True)
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

    def low_rank(self) -> LowRank:
        return LowRank(self.A, self.B, self.scale)


class LowRankPart(ParametrizationPart):
    """Base of the parts that train one low-rank update beside each frozen weight."""

    alone: ClassVar[bool] = True
    sums: ClassVar[bool] = True
    """Whether the update is a term of a sum, so that several can be added."""

    rank: PositiveInt = 8
    """Rank of the update."""
    alpha: PositiveFloat = 16.0
    """The update is multiplied by alpha / rank."""
    rank_stabilized: Annotated[bool, Later()] = False
    """Multiply it by alpha / sqrt(rank) instead (rsLoRA), so that its size does not shrink as the rank grows."""

    @property
    def scale(self) -> float:
        """What the update is multiplied by."""
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilized else self.rank)

    def shapes(self, rows: int, columns: int) -> list[Shape]:
        return [Shape("A", "hidden", (self.rank, columns)), Shape("B", "hidden", (rows, self.rank))]

    def work(self, tokens: int, rows: int, columns: int, *, trained: bool, live: bool, own: frozenset[str]) -> Work:
        base = formulas.linear(tokens, columns, rows, input_gradient=live, weight_gradient=trained)
        down = formulas.linear(tokens, columns, self.rank, input_gradient=live, weight_gradient="A" in own)
        within = live or "A" in own
        return base + down + formulas.linear(tokens, self.rank, rows, input_gradient=within, weight_gradient="B" in own)

"""Plain mean of the weights since a fraction of the present step (suffix averaging; Rakhlin et al. 2012)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from ...core.context import Context
from ...core.contracts import AveragingPart, Stateful
from ...core.cost import Cost
from ...core.registry import Card, part
from ...core.roles import Shape
from ..averages import Average
from ..groups import elementwise


class Tail(Average):
    """The mean of the last ``fraction`` of all iterates, at any time, from ``blocks`` sums of equal length.

    The average of theory: at a constant rate it attains the best rates for least squares, once the start is left out.
    Iterates are summed in blocks. When ``2 blocks`` are full, neighbours are merged and blocks last twice as long, so
    the tail begins at a block's border: up to 1 / blocks of the run off. fraction = 1 is the mean of everything and
    exact.

    Args:
        params: the live parameters.
        fraction: of the iterates, in (0, 1].
        blocks: resolution; memory is 2 blocks floats a parameter.

    Example:
        >>> average = Tail(list(model.parameters()), fraction=0.5)
        >>> average.update(0)  # after each step, with its number
        >>> with average.evaluation_weights(): loss = model(x).square().mean()
    """

    def __init__(self, params: Sequence[Tensor], fraction: float = 0.5, blocks: int = 4) -> None:
        if not 0 < fraction <= 1 or blocks < 1:
            raise ValueError(f"fraction must lie in (0, 1] and blocks be >= 1, got {fraction} and {blocks}")
        super().__init__(params)
        self.fraction, self.capacity = fraction, 1 if fraction == 1 else 2 * blocks
        self.sums = [self.zeros() for _ in range(self.capacity)]

    @property
    def length(self) -> int:
        """Iterates a full block holds."""
        length = 1
        while self.fraction < 1 and self.updates > length * self.capacity:
            length *= 2
        return length if self.fraction < 1 else max(self.updates, 1)

    @torch.no_grad()
    def update(self, t: int) -> None:
        """Take in the weights as they are after step ``t``."""
        before = self.length
        self.updates += 1
        if self.fraction < 1 and self.length > before:
            for i in range(self.capacity):
                for j, total in enumerate(self.sums[i]):
                    if 2 * i < self.capacity:
                        total.copy_(self.sums[2 * i][j] + self.sums[2 * i + 1][j])
                    else:
                        total.zero_()
        block = (self.updates - 1) // self.length
        for total, p in zip(self.sums[block], self.params, strict=True):
            total.add_(p.to(total.dtype))

    def averages(self) -> list[Tensor]:
        length = self.length
        first = round(self.updates * (1 - self.fraction) / length)
        last = (self.updates - 1) // length
        first = min(first, last)
        count = self.updates - first * length
        return [
            torch.stack([b[j] for b in self.sums[first : last + 1]]).sum(0) / count for j in range(len(self.params))
        ]

    def buffers(self) -> dict[str, list[Tensor]]:
        return {f"sums{i}": group for i, group in enumerate(self.sums)}


@part
class TailPart(AveragingPart):
    """Mean of the last part of all iterates, at any time."""

    card = Card(
        summary="plain mean of the last part of the iterates, whenever it is asked",
        paper="Rakhlin et al. 2012, arXiv 1109.5647; for linear regression: Jain et al. 2018, arXiv 1610.03774",
        equation="mean of w_s over (1 - fraction) t < s <= t",
        differs="the tail begins at a block's border, at most 1 / (2 blocks) of t off",
        cost="2 blocks floats of state a parameter (1 for fraction 1); 1 operation a parameter",
    )
    provides = frozenset({Stateful})

    fraction: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of all iterates that is averaged."""
    blocks: PositiveInt = 4
    """Resolution of the tail's beginning."""

    def build(self, ctx: Context) -> Tail:
        return Tail([p for group in ctx.groups for p in group.params], self.fraction, self.blocks)

    def cost(self, shapes: Sequence[Shape]) -> Cost:
        return elementwise(shapes, operations=1, floats=3)

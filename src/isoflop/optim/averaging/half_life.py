"""Exponential average whose half-life is a fixed fraction of the time so far: fit for stopping at any time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field
from torch import Tensor

from ...core.context import Context
from ...core.contracts import AveragingPart, Stateful
from ...core.cost import Cost
from ...core.registry import Card, part
from ...core.roles import Shape
from ..averages import Average
from ..groups import elementwise


class HalfLife(Average):
    """m <- m + (1 - decay_t) (p - m), decay_t = 1/2^(1 / (fraction t)): iterates a ``fraction`` of t old weigh half.

    An average whose length grows with the run: one setting serves short and long runs, and those whose length is not
    known. The first update sets m = p, so no bias is left to correct.

    Args:
        params: the live parameters.
        fraction: half-life over t, in (0, 1].

    Example:
        >>> average = HalfLife(list(model.parameters()), fraction=0.1)
        >>> average.update(0)  # after each step, with its number
        >>> with average.evaluation_weights(): loss = model(x).square().mean()
    """

    def __init__(self, params: Sequence[Tensor], fraction: float = 0.1) -> None:
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction must lie in (0, 1], got {fraction}")
        super().__init__(params)
        self.fraction = fraction
        self.means = self.zeros()

    def update(self, t: int) -> None:
        """Take in the weights as they are after step ``t``."""
        self.updates += 1
        weight = 1.0 if self.updates == 1 else 1 - 0.5 ** (1 / (self.fraction * self.updates))
        self.lerp(self.means, weight)

    def averages(self) -> list[Tensor]:
        return self.means

    def buffers(self) -> dict[str, list[Tensor]]:
        return {"means": self.means}


@part
class HalfLifePart(AveragingPart):
    """Exponential average whose half-life is a fraction of the time so far."""

    card = Card(
        summary="exponential average whose half-life grows with the run; needs no horizon",
        paper="power-law averages: Karras et al. 2024, arXiv 2312.02696, section 3.1",
        equation="m <- decay m + (1 - decay) p, decay = 2^(-1 / (fraction t))",
        cost="1 float of state a parameter; 3 operations a parameter",
    )
    provides = frozenset({Stateful})

    fraction: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Half-life over the number of steps so far."""

    def build(self, ctx: Context) -> HalfLife:
        return HalfLife([p for group in ctx.groups for p in group.params], self.fraction)

    def cost(self, shapes: Sequence[Shape]) -> Cost:
        return elementwise(shapes, operations=3, floats=3)

"""Exponential moving average of the weights, bias-corrected so that it is right from the first step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from ...core.context import Context
from ...core.contracts import AveragingPart, Stateful
from ...core.cost import Cost
from ...core.registry import Card, part
from ...core.roles import Shape
from ..averages import Average
from ..groups import elementwise

if TYPE_CHECKING:
    from torch import Tensor


class EMA(Average):
    """m <- decay m + (1 - decay) p after each step, from m = 0; evaluates m / (1 - decay^updates).

    The usual average: it takes out the noise of the last 1 / (1 - decay) steps, which a rate that does not decay
    leaves in the weights. Its length is fixed, so longer runs want a larger decay.

    Args:
        params: the live parameters.
        decay: weight of the past, in [0, 1); 0.95 to 0.998 in the literature, larger for longer runs.

    Example:
        >>> average = EMA(list(model.parameters()), decay=0.99)
        >>> average.update(0)  # after each step, with its number
        >>> with average.evaluation_weights(): loss = model(x).square().mean()
    """

    def __init__(self, params: Sequence[Tensor], decay: float = 0.99) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must lie in [0, 1), got {decay}")
        super().__init__(params)
        self.decay = decay
        self.sums = self.zeros()

    def update(self, t: int) -> None:
        """Take in the weights as they are after step ``t``."""
        self.updates += 1
        self.lerp(self.sums, 1 - self.decay)

    def averages(self) -> list[Tensor]:
        return [m / (1 - self.decay**self.updates) for m in self.sums]

    def buffers(self) -> dict[str, list[Tensor]]:
        return {"sums": self.sums}


@part
class EMAPart(AveragingPart):
    """Exponential moving average of the weights."""

    card = Card(
        summary="exponential moving average of the weights, bias-corrected",
        paper="Polyak and Juditsky 1992; for critical batch sizes: Zhang et al. 2024, arXiv 2410.21676",
        equation="m <- decay m + (1 - decay) p; evaluate m / (1 - decay^t)",
        defaults="decay 0.95 to 0.998, larger for longer runs",
        cost="1 float of state a parameter; 3 operations a parameter",
    )
    provides = frozenset({Stateful})

    decay: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Weight of the past."""

    def build(self, ctx: Context) -> EMA:
        return EMA([p for group in ctx.groups for p in group.params], self.decay)

    def cost(self, shapes: Sequence[Shape]) -> Cost:
        return elementwise(shapes, operations=3, floats=3)

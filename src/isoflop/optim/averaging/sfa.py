"""Fine-tuning whose weights are pulled to where they began (Kleiman et al. 2025, arXiv 2501.05559)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from ...core.context import Context
from ...core.contracts import AveragingPart, Stateful
from ...core.cost import Cost
from ...core.registry import Card, part
from ...core.roles import Shape
from ..averages import Average
from ..groups import elementwise
from ..warmup_and_decay import length, no_share


class SFA(Average):
    """Every ``period`` updates p <- (1 - beta) p + beta p_0, p_0 being the weights before the first step.

    For fine-tuning that shall not forget. Unlike the other averages this one changes training; evaluation takes the
    weights as they are. One merge at the very end is WiSE-FT; with a short period and beta = lr lambda it is SGD with a
    penalty lambda |p - p_0|^2 / 2.

    Args:
        params: the live parameters, holding p_0 now.
        period: updates between two merges; the authors make four a run.
        beta: weight of p_0, in [0, 1]; the authors' 0.5.

    Example:
        >>> average = SFA(list(model.parameters()), period=100)
        >>> average.update(0)  # after each step, with its number
        >>> with average.evaluation_weights(): loss = model(x).square().mean()
    """

    def __init__(self, params: Sequence[Tensor], period: int, beta: float = 0.5) -> None:
        if period < 1 or not 0 <= beta <= 1:
            raise ValueError(f"period must be >= 1 and beta lie in [0, 1], got {period} and {beta}")
        super().__init__(params)
        self.period, self.beta = period, beta
        self.start = [p.detach().clone() for p in self.params]

    @torch.no_grad()
    def update(self, t: int) -> None:
        """Count a step; merge if it is time."""
        self.updates += 1
        if self.updates % self.period == 0:
            for p, first in zip(self.params, self.start, strict=True):
                p.lerp_(first, self.beta)

    def averages(self) -> list[Tensor]:
        return [p.detach() for p in self.params]

    def buffers(self) -> dict[str, list[Tensor]]:
        return {"start": self.start}


@part
class SFAPart(AveragingPart):
    """Pull the weights towards their start, every now and then, while training."""

    card = Card(
        summary="periodic interpolation with the starting weights while training, against forgetting",
        paper="Kleiman et al. 2025, arXiv 2501.05559",
        equation="every period-th step p <- (1 - beta) p + beta p_0",
        defaults="four merges a run (p = 0.25), beta 0.5",
        cost="1 float of state a parameter; 2 operations a parameter and merge",
    )
    provides = frozenset({Stateful})

    period: Annotated[float, Field(gt=0)] = 0.25
    """Steps between two merges: a fraction of the horizon, or steps from 1 on."""
    beta: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Weight of the starting weights."""

    def check(self, recipe: Any) -> list[str]:
        return no_share("averaging", recipe, *(["period"] if self.period < 1 else []))

    def build(self, ctx: Context) -> SFA:
        steps = max(length(self.period, ctx.horizon), 1)
        return SFA([p for group in ctx.groups for p in group.params], steps, self.beta)

    def cost(self, shapes: Sequence[Shape]) -> Cost:
        return elementwise(shapes, operations=1, floats=1)

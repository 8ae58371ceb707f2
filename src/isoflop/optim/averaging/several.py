"""Several exponential averages at once, of which one is evaluated: chosen afterwards without another run."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Annotated, Any

from pydantic import Field, model_validator
from torch import Tensor

from ...core.context import Context
from ...core.contracts import AveragingPart, Stateful
from ...core.cost import Cost
from ...core.registry import Card, part
from ...core.roles import Shape
from ..groups import elementwise
from .ema import EMA


class SeveralEMA:
    """One EMA a decay over the same parameters.

    For a run after which the best decay is chosen: one run tells what several would, at a float a parameter for each.

    Args:
        params: the live parameters.
        decays: each in [0, 1).
        evaluate: which of them ``evaluation_weights()`` puts in.

    Example:
        >>> average = SeveralEMA(list(model.parameters()), decays=[0.9, 0.99], evaluate=0.99)
        >>> average.update(0)  # after each step, with its number
        >>> with average.evaluation_weights(): loss = model(x).square().mean()
    """

    def __init__(self, params: Sequence[Tensor], decays: Sequence[float], evaluate: float) -> None:
        if evaluate not in decays:
            raise ValueError(f"evaluate must be one of the decays {list(decays)}, got {evaluate}")
        self.members = {decay: EMA(params, decay) for decay in decays}
        self.evaluate = evaluate

    def update(self, t: int) -> None:
        """Take in the weights as they are after step ``t``."""
        for member in self.members.values():
            member.update(t)

    def evaluation_weights(self, decay: float | None = None) -> AbstractContextManager[None]:
        """Swap in the average with ``decay`` (by default ``evaluate``)."""
        return self.members[self.evaluate if decay is None else decay].evaluation_weights()

    def state_dict(self) -> dict[str, Any]:
        return {str(decay): member.state_dict() for decay, member in self.members.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` gave; ValueError for other decays or shapes."""
        if set(state) != {str(decay) for decay in self.members}:
            raise ValueError(f"average's state has decays {sorted(state)}, expected {sorted(map(str, self.members))}")
        for decay, member in self.members.items():
            member.load_state_dict(state[str(decay)])


@part
class SeveralPart(AveragingPart):
    """Several exponential averages at once."""

    card = Card(
        summary="several bias-corrected exponential averages at once",
        paper="Zhang et al. 2024, arXiv 2410.21676",
        equation="as ema, for every decay",
        defaults="decays 0.95, 0.99, 0.995, 0.998, 0.999",
        cost="1 float of state a parameter and decay",
    )
    provides = frozenset({Stateful})

    decays: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = (0.95, 0.99, 0.998)
    """Weights of the past."""
    evaluate: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """The one that is evaluated."""

    @model_validator(mode="after")
    def _listed(self) -> SeveralPart:
        if self.evaluate not in self.decays:
            raise ValueError(f"evaluate={self.evaluate} is not among the decays {list(self.decays)}")
        return self

    def build(self, ctx: Context) -> SeveralEMA:
        return SeveralEMA([p for group in ctx.groups for p in group.params], self.decays, self.evaluate)

    def cost(self, shapes: Sequence[Shape]) -> Cost:
        return elementwise(shapes, operations=3, floats=3) * len(self.decays)

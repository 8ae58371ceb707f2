"""Schedule-free SGD (Defazio et al. 2024, arXiv 2405.15682, equations 2-4)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat
from torch import Tensor

from ...core.context import Context
from ...core.contracts import OptimizerPart
from ...core.cost import Cost
from ...core.registry import Card, part
from ...core.roles import Shape
from ..elementwise import Numbers, shifted
from ..groups import Grid, elementwise, factor2, state_bytes
from ..method import ParamsT, from_part, given
from ..primal_averaging import ScheduleFree, advance, moves, no_decay, warmed


class ScheduleFreeSGD(ScheduleFree):
    """Gradient steps on z, gradients at y, evaluation at x (see ``primal_averaging``). Decay acts at y.

    SGD with momentum for runs whose length is not known, with one float of state a parameter.

    Args:
        params: tensors, (name, tensor) pairs, or groups of them.
        lr: begin with 10 times SGD's (the authors say 10-50), or 1.
        momentum: mu, in (0, 1).
        weight_decay: multiplied by the rate.
        warmup_steps: of a linear warm-up.
        r: the average's weights grow like step^r.
        weight_lr_power: and like rate^weight_lr_power.

    Example:
        >>> optimizer = ScheduleFreeSGD(model.parameters(), lr=1.0)
        >>> model(x).square().mean().backward(); optimizer.step()
        >>> with optimizer.evaluation_weights(): loss = model(x).square().mean()
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1.0,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        warmup_steps: int = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
    ) -> None:
        super().__init__(**given(locals()))

    def interpolation(self, group: dict[str, Any]) -> float:
        return float(group["momentum"])

    @staticmethod
    def kernel(y: Tensor, g: Tensor, z: Tensor, numbers: Numbers) -> None:
        *steps, wd = numbers
        advance(y, z, shifted(g, y, wd), tuple(steps))

    def update_group(self, group: dict[str, Any], params: list[Tensor]) -> None:
        lr = warmed(group)
        self._numbers = (*moves(lr, group["momentum"], self.begin(group, lr)), group["weight_decay"])
        super().update_group(group, params)

    def update(self, group: dict[str, Any], p: Tensor, state: dict[str, Any]) -> None:
        self.apply(p, [state["z"]], self._numbers)


def reference(
    p: Tensor,
    gradients: Iterable[Tensor],
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    warmup_steps: int,
    r: float,
    weight_lr_power: float,
) -> Iterator[Tensor]:
    """The training point after each step, plainly: all three sequences are kept."""
    x, y, z, total, largest = p, p, p, 0.0, 0.0
    for t, g in enumerate(gradients, start=1):
        rate = lr * min(t / warmup_steps, 1) if warmup_steps else lr
        largest = max(largest, rate)
        weight = t**r * largest**weight_lr_power
        total += weight
        z = z - rate * (g + weight_decay * y)
        x = x + (z - x) * weight / total
        y = momentum * x + (1 - momentum) * z
        yield y


@part
class ScheduleFreeSGDPart(OptimizerPart):
    """Schedule-free SGD: an average in place of a decaying rate."""

    card = Card(
        summary="SGD whose average of the iterates replaces momentum and the decay of the rate",
        paper="Defazio et al. 2024, arXiv 2405.15682",
        equation="y = mu x + (1 - mu) z; z <- z - lr (g(y) + wd y); x <- (1 - c) x + c z",
        defaults="lr 1.0, momentum 0.9; lr 10-50x SGD's",
        differs="gradients stay as they are; evaluation restores the training point bit for bit",
        cost="no matmul FLOPs; 1 float of state a parameter",
    )
    search: ClassVar[Grid] = {"lr": factor2(0.0625, 64.0)}
    shardable = True

    lr: PositiveFloat = 1.0
    """Learning rate."""
    momentum: Annotated[float, Field(gt=0, lt=1)] = 0.9
    """Weight of the average in the gradient's point."""
    weight_decay: NonNegativeFloat = 0.0
    """Decay of matrices at the gradient's point, multiplied by the learning rate."""
    warmup_steps: NonNegativeInt = 0
    """Steps of linear warm-up."""
    r: NonNegativeFloat = 0.0
    """Power of the step in the average's weights."""
    weight_lr_power: NonNegativeFloat = 2.0
    """Power of the largest rate so far in the average's weights."""

    def check(self, recipe: Any) -> list[str]:
        return no_decay(self.name, recipe)

    def build(self, ctx: Context) -> ScheduleFreeSGD:
        return from_part(ScheduleFreeSGD, self, ctx)

    def cost(self, shapes: Sequence[Shape]) -> Cost:
        return elementwise(shapes, operations=8, floats=5)

    def state_bytes(self, shapes: Sequence[Shape]) -> int:
        return state_bytes(shapes, floats=1, counters=0)

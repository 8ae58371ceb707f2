"""Schedule-free RAdam: a rectified rate replaces the warm-up (arXiv 1908.03265 joined to arXiv 2405.15682)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from ...core.context import Context
from ...core.contracts import OptimizerPart
from ...core.cost import Cost
from ...core.registry import Card, part
from ...core.roles import Shape
from ..elementwise import Numbers, shifted
from ..groups import Beta, Epsilon, Grid, elementwise, factor2, state_bytes
from ..method import ParamsT, from_part, given
from ..primal_averaging import ScheduleFreeAdam, advance, moves, no_decay


class ScheduleFreeRAdam(ScheduleFreeAdam):
    """Rectified Adam steps on z, gradients at y, evaluation at x (see ``primal_averaging``). Decay acts at y.

    Schedule-free AdamW that needs no warm-up either: the rate grows by itself as the second moment becomes certain.

    Args:
        params: tensors, (name, tensor) pairs, or groups of them.
        lr: begin with 3 times AdamW's, as of ScheduleFreeAdamW, or 2.5e-3.
        betas: (mu, decay of v).
        eps: added to the root of v.
        weight_decay: multiplied by the rate.
        r: the average's weights grow like step^r.
        weight_lr_power: and like rate^weight_lr_power.
        silent_sgd_phase: rest, instead of plain gradient steps, while the second moment is too uncertain.

    Example:
        >>> optimizer = ScheduleFreeRAdam(model.parameters())
        >>> model(x).square().mean().backward(); optimizer.step()
        >>> with optimizer.evaluation_weights(): loss = model(x).square().mean()
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.0025,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        silent_sgd_phase: bool = True,
    ) -> None:
        super().__init__(**given(locals()))

    @staticmethod
    def uncertain(y: Tensor, g: Tensor, z: Tensor, v: Tensor, numbers: Numbers) -> None:
        """``kernel`` before the second moment can be trusted: a plain gradient step."""
        *steps, w2, _, _, wd = numbers
        v.lerp_(g * g, w2)
        advance(y, z, shifted(g, y, wd), tuple(steps))

    def update_group(self, group: dict[str, Any], params: list[Tensor]) -> None:
        t, (mu, b2) = group["k"] + 1, group["betas"]
        rectified = rectification(t, b2)
        lr = float(group["lr"]) * (float(not group["silent_sgd_phase"]) if rectified is None else rectified)
        steps = moves(lr, mu, self.begin(group, lr))
        self._trusted = rectified is not None
        self._numbers = (*steps, 1 - b2, (1 - b2**t) ** -0.5, group["eps"], group["weight_decay"])
        super().update_group(group, params)

    def update(self, group: dict[str, Any], p: Tensor, state: dict[str, Any]) -> None:
        kernel = type(self).kernel if self._trusted else type(self).uncertain
        self.apply(p, [state["z"], self.buffer(p, "exp_avg_sq")], self._numbers, kernel=kernel)


def rectification(t: int, b2: float) -> float | None:
    """RAdam's factor of the rate at step ``t``; None while the variance of the adaptive rate is not finite."""
    longest = 2 / (1 - b2) - 1
    length = longest - 2 * t * b2**t / (1 - b2**t)
    if length <= 4:
        return None
    return float(((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)) ** 0.5)


def reference(
    p: Tensor,
    gradients: Iterable[Tensor],
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    r: float,
    weight_lr_power: float,
    silent_sgd_phase: bool,
) -> Iterator[Tensor]:
    """The training point after each step, plainly: all three sequences are kept."""
    mu, b2 = betas
    x, y, z, v, total, largest = p, p, p, torch.zeros_like(p), 0.0, 0.0
    for t, g in enumerate(gradients, start=1):
        factor = rectification(t, b2)
        rate = lr * ((0.0 if silent_sgd_phase else 1.0) if factor is None else factor)
        largest = max(largest, rate)
        weight = t**r * largest**weight_lr_power
        total += weight
        v = b2 * v + (1 - b2) * g**2
        d = g if factor is None else g / ((v / (1 - b2**t)).sqrt() + eps)
        z = z - rate * (d + weight_decay * y)
        x = x + (z - x) * weight / total if total else x
        y = mu * x + (1 - mu) * z
        yield y


@part
class ScheduleFreeRAdamPart(OptimizerPart):
    """Schedule-free RAdam: neither warm-up nor decay."""

    card = Card(
        summary="schedule-free AdamW whose rectified rate replaces the warm-up too",
        paper="Liu et al. 2020, arXiv 1908.03265; Defazio et al. 2024, arXiv 2405.15682",
        equation="as schedule_free_adamw with lr times RAdam's rectification",
        defaults="lr 0.0025, betas (0.9, 0.999), silent_sgd_phase",
        differs="gradients stay as they are; evaluation restores the training point bit for bit",
        cost="no matmul FLOPs; 2 floats of state a parameter",
    )
    search: ClassVar[Grid] = {"lr": factor2(2.5e-4, 6.4e-2)}
    shardable = True

    lr: PositiveFloat = 8e-3
    """Learning rate."""
    betas: tuple[Beta, Beta] = (0.95, 0.99)
    """Weight of the average in the gradient's point, and decay of the second moment."""
    eps: Epsilon = 1e-8
    """Added to the root of the second moment."""
    weight_decay: NonNegativeFloat = 0.1
    """Decay of matrices at the gradient's point, multiplied by the learning rate."""
    r: NonNegativeFloat = 0.0
    """Power of the step in the average's weights."""
    weight_lr_power: NonNegativeFloat = 2.0
    """Power of the largest rate so far in the average's weights."""
    silent_sgd_phase: bool = True
    """Rest, instead of plain gradient steps, while the second moment is too uncertain."""

    def check(self, recipe: Any) -> list[str]:
        return no_decay(self.name, recipe)

    def build(self, ctx: Context) -> ScheduleFreeRAdam:
        return from_part(ScheduleFreeRAdam, self, ctx)

    def cost(self, shapes: Sequence[Shape]) -> Cost:
        return elementwise(shapes, operations=15, floats=7)

    def state_bytes(self, shapes: Sequence[Shape]) -> int:
        return state_bytes(shapes, floats=2, counters=0)

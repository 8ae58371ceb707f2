"""Schedule-free AdamW (Defazio et al. 2024, arXiv 2405.15682, algorithm 1)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat
from torch import Tensor

from ...core.context import Context
from ...core.contracts import OptimizerPart
from ...core.cost import Cost
from ...core.registry import Card, part
from ...core.roles import Shape
from ..elementwise import Numbers, shifted
from ..groups import Beta, Epsilon, Grid, elementwise, factor2, state_bytes
from ..method import ParamsT, from_part, given
from ..primal_averaging import ScheduleFreeAdam, advance, moves, no_decay, warmed


class ScheduleFreeAdamW(ScheduleFreeAdam):
    """Adam steps on z, gradients at y, evaluation at x (see ``primal_averaging``). Decay acts at y.

    For runs whose length is not known: an average of the iterates does what a decaying rate would, so the run can be
    stopped, or go on, at any step. Evaluate at x: ``with optimizer.evaluation_weights():``.

    Args:
        params: tensors, (name, tensor) pairs, or groups of them.
        lr: begin with 3 times AdamW's (the authors say 1-10), or 2.5e-3.
        betas: (mu, decay of v); the authors' (0.9, 0.999), with mu 0.95-0.98 for long runs.
        eps: added to the root of v.
        weight_decay: multiplied by the rate.
        warmup_steps: of a linear warm-up, which it wants like AdamW.
        r: the average's weights grow like step^r.
        weight_lr_power: and like rate^weight_lr_power.
        inner_momentum: decay of an average of gradients that the step uses; 0: none, and no memory for it.
        paper: as first published: the bias correction of v scales the rate, and with it decay and weights.

    Example:
        >>> optimizer = ScheduleFreeAdamW(model.parameters(), warmup_steps=100)
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
        warmup_steps: int = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        inner_momentum: float = 0.0,
        paper: bool = False,
    ) -> None:
        super().__init__(**given(locals()))

    @staticmethod
    def with_momentum(y: Tensor, g: Tensor, z: Tensor, v: Tensor, m: Tensor, numbers: Numbers) -> None:
        """``kernel`` for an inner momentum."""
        *steps, w2, correction, eps, wd, w1, correction1 = numbers
        v.lerp_(g * g, w2)
        m.lerp_(g, w1)
        d = m.mul(correction1).div_(v.sqrt().mul_(correction).add_(eps))
        advance(y, z, shifted(d, y, wd), tuple(steps))

    def update_group(self, group: dict[str, Any], params: list[Tensor]) -> None:
        t, lr, (mu, b2) = group["k"] + 1, warmed(group), group["betas"]
        root = (1 - b2**t) ** 0.5
        if group["paper"]:
            lr, root = lr * root, 1.0
        c = self.begin(group, lr)
        self._numbers = (*moves(lr, mu, c), 1 - b2, 1 / root, group["eps"], group["weight_decay"])
        super().update_group(group, params)

    def update(self, group: dict[str, Any], p: Tensor, state: dict[str, Any]) -> None:
        inner = group["inner_momentum"]
        buffers = [state["z"], self.buffer(p, "exp_avg_sq")]
        if inner == 0:
            self.apply(p, buffers, self._numbers)
        else:
            numbers = (*self._numbers, 1 - inner, 1 / (1 - inner ** group["k"]))
            self.apply(p, [*buffers, self.buffer(p, "exp_avg")], numbers, kernel=type(self).with_momentum)


def reference(
    p: Tensor,
    gradients: Iterable[Tensor],
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    warmup_steps: int,
    r: float,
    weight_lr_power: float,
    inner_momentum: float,
) -> Iterator[Tensor]:
    """The training point after each step, plainly: all three sequences are kept."""
    mu, b2 = betas
    x, y, z, v, m, total, largest = p, p, p, torch.zeros_like(p), torch.zeros_like(p), 0.0, 0.0
    for t, g in enumerate(gradients, start=1):
        rate = lr * min(t / warmup_steps, 1) if warmup_steps else lr
        largest = max(largest, rate)
        total += t**r * largest**weight_lr_power
        v = b2 * v + (1 - b2) * g**2
        m = inner_momentum * m + (1 - inner_momentum) * g
        d = m / (1 - inner_momentum**t) / ((v / (1 - b2**t)).sqrt() + eps)
        z = z - rate * (d + weight_decay * y)
        x = x + (z - x) * t**r * largest**weight_lr_power / total
        y = mu * x + (1 - mu) * z
        yield y


@part
class ScheduleFreeAdamWPart(OptimizerPart):
    """Schedule-free AdamW: an average in place of a decaying rate."""

    card = Card(
        summary="AdamW whose average of the iterates replaces the decay of the rate; needs no horizon",
        paper="Defazio et al. 2024, arXiv 2405.15682",
        equation="y = mu x + (1 - mu) z; z <- z - lr (g(y) / (sqrt(v_hat) + eps) + wd y); x <- (1 - c) x + c z",
        defaults="lr 0.0025, betas (0.9, 0.999), warmup_steps a few percent; lr 1-10x AdamW's",
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
    warmup_steps: NonNegativeInt = 0
    """Steps of linear warm-up."""
    r: NonNegativeFloat = 0.0
    """Power of the step in the average's weights."""
    weight_lr_power: NonNegativeFloat = 2.0
    """Power of the largest rate so far in the average's weights."""
    inner_momentum: Beta = 0.0
    """Decay of an average of gradients that the step uses; 0: none."""

    def check(self, recipe: Any) -> list[str]:
        return no_decay(self.name, recipe)

    def build(self, ctx: Context) -> ScheduleFreeAdamW:
        return from_part(ScheduleFreeAdamW, self, ctx)

    def cost(self, shapes: Sequence[Shape]) -> Cost:
        return elementwise(shapes, operations=15, floats=7)

    def state_bytes(self, shapes: Sequence[Shape]) -> int:
        return state_bytes(shapes, floats=2 if self.inner_momentum == 0 else 3, counters=0)

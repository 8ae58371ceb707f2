"""Lion: the sign of an interpolated momentum (Chen et al. 2023, arXiv 2302.06675, program 1)."""

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
from ..elementwise import Elementwise, Numbers, add_scaled
from ..groups import Beta, Grid, elementwise, factor2, state_bytes
from ..method import ParamsT, from_part, given


class Lion(Elementwise):
    """p <- (1 - lr wd) p - lr sign(b1 m + (1 - b1) g); then m <- b2 m + (1 - b2) g.

    Half of AdamW's state, and a step of known size: every weight moves by the rate. Signs of noisy gradients are noise,
    so it likes large batches.

    Args:
        params: tensors, (name, tensor) pairs, or groups of them.
        lr: how far every weight moves; begin with a third to a tenth of AdamW's (the authors say so), or 1e-4.
        betas: (b1, b2); the authors' (0.9, 0.99), for language models (0.95, 0.98).
        weight_decay: decoupled, multiplied by the rate; so 3-10 times above AdamW's.

    Example:
        >>> optimizer = Lion(model.parameters(), lr=1e-4, weight_decay=0.1)
        >>> model(x).square().mean().backward()
        >>> optimizer.step()
    """

    def __init__(
        self, params: ParamsT, lr: float = 1e-4, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.0
    ) -> None:
        super().__init__(**given(locals()))

    @staticmethod
    def kernel(p: Tensor, g: Tensor, m: Tensor, numbers: Numbers) -> None:
        lr, keep, b1, w2 = numbers
        add_scaled(p.mul_(keep), torch.lerp(g, m, b1).sign_(), -lr)
        m.lerp_(g, w2)

    def update(self, group: dict[str, Any], p: Tensor, state: dict[str, Any]) -> None:
        lr, (b1, b2) = float(group["lr"]), group["betas"]
        self.apply(p, [self.buffer(p, "exp_avg")], (lr, 1 - lr * group["weight_decay"], b1, 1 - b2))


def reference(
    p: Tensor, gradients: Iterable[Tensor], *, lr: float, betas: tuple[float, float], weight_decay: float
) -> Iterator[Tensor]:
    """``p`` after each step, plainly."""
    m = torch.zeros_like(p)
    for g in gradients:
        p = p - lr * (torch.sign(betas[0] * m + (1 - betas[0]) * g) + weight_decay * p)
        m = betas[1] * m + (1 - betas[1]) * g
        yield p


@part
class LionPart(OptimizerPart):
    """Lion: the sign of an interpolated momentum."""

    card = Card(
        summary="the sign of an interpolated momentum",
        paper="Chen et al. 2023, arXiv 2302.06675",
        equation="p <- (1 - lr wd) p - lr sign(b1 m + (1 - b1) g); m <- b2 m + (1 - b2) g",
        defaults="lr 1e-4, betas (0.9, 0.99), weight_decay 0; (0.95, 0.98) for language models; likes large batches",
        cost="no matmul FLOPs; 1 float of state a parameter",
    )
    search: ClassVar[Grid] = {"lr": factor2(3.125e-5, 8e-3)}
    shardable = True

    lr: PositiveFloat = 1e-3
    """Peak learning rate."""
    betas: tuple[Beta, Beta] = (0.9, 0.99)
    """Weight of the momentum in the update, and its decay."""
    weight_decay: NonNegativeFloat = 0.3
    """Decoupled decay of matrices, multiplied by the learning rate."""

    def build(self, ctx: Context) -> Lion:
        return from_part(Lion, self, ctx)

    def cost(self, shapes: Sequence[Shape]) -> Cost:
        return elementwise(shapes, operations=9, floats=5)

    def state_bytes(self, shapes: Sequence[Shape]) -> int:
        return state_bytes(shapes, floats=1, counters=0)

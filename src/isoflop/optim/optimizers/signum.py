"""Signum: the sign of the momentum (Bernstein et al. 2018, arXiv 1802.04434, algorithm 2); Lion with equal betas."""

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


class Signum(Elementwise):
    """m <- b m + (1 - b) g; p <- (1 - lr wd) p - lr sign(m).

    The plainest of the sign methods, and the yardstick of Lion: what Adam keeps if its second moment is dropped. One
    float of state a parameter.

    Args:
        params: tensors, (name, tensor) pairs, or groups of them.
        lr: how far every weight moves in a step; begin with 1e-4, a third to a tenth of AdamW's.
        momentum: b, in [0, 1).
        weight_decay: decoupled, multiplied by the rate.

    Example:
        >>> optimizer = Signum(model.parameters(), lr=1e-4)
        >>> model(x).square().mean().backward()
        >>> optimizer.step()
    """

    def __init__(self, params: ParamsT, lr: float = 1e-4, momentum: float = 0.9, weight_decay: float = 0.0) -> None:
        super().__init__(**given(locals()))

    @staticmethod
    def kernel(p: Tensor, g: Tensor, m: Tensor, numbers: Numbers) -> None:
        lr, keep, w = numbers
        m.lerp_(g, w)
        add_scaled(p.mul_(keep), m.sign(), -lr)

    def update(self, group: dict[str, Any], p: Tensor, state: dict[str, Any]) -> None:
        lr = float(group["lr"])
        self.apply(p, [self.buffer(p, "exp_avg")], (lr, 1 - lr * group["weight_decay"], 1 - group["momentum"]))


def reference(
    p: Tensor, gradients: Iterable[Tensor], *, lr: float, momentum: float, weight_decay: float
) -> Iterator[Tensor]:
    """``p`` after each step, plainly."""
    m = torch.zeros_like(p)
    for g in gradients:
        m = momentum * m + (1 - momentum) * g
        p = p - lr * (torch.sign(m) + weight_decay * p)
        yield p


@part
class SignumPart(OptimizerPart):
    """Signum: the sign of the momentum."""

    card = Card(
        summary="the sign of the momentum",
        paper="Bernstein et al. 2018, arXiv 1802.04434; for language models: Zhao et al. 2024, arXiv 2407.07972",
        equation="m <- b m + (1 - b) g; p <- (1 - lr wd) p - lr sign(m)",
        defaults="momentum 0.9; language models lr 3.16e-4",
        cost="no matmul FLOPs; 1 float of state a parameter",
    )
    search: ClassVar[Grid] = {"lr": factor2(3.125e-5, 8e-3)}
    shardable = True

    lr: PositiveFloat = 1e-3
    """Peak learning rate."""
    momentum: Beta = 0.95
    """Decay of the momentum."""
    weight_decay: NonNegativeFloat = 0.3
    """Decoupled decay of matrices, multiplied by the learning rate."""

    def build(self, ctx: Context) -> Signum:
        return from_part(Signum, self, ctx)

    def cost(self, shapes: Sequence[Shape]) -> Cost:
        return elementwise(shapes, operations=7, floats=5)

    def state_bytes(self, shapes: Sequence[Shape]) -> int:
        return state_bytes(shapes, floats=1, counters=0)

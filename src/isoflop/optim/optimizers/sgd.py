"""SGD: the gradient, with momentum if wanted; torch's own class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import NonNegativeFloat, PositiveFloat

from ...core.context import Context
from ...core.contracts import OptimizerPart
from ...core.cost import Cost
from ...core.registry import Card, part
from ...core.roles import Shape
from ..chain import Chain
from ..groups import Beta, Grid, elementwise, factor2, state_bytes, torch_groups


@part
class SGDPart(OptimizerPart):
    """SGD with momentum, the same rate for every parameter."""

    card = Card(
        summary="the gradient with momentum, one rate for every parameter",
        paper="Robbins and Monro 1951; momentum: Polyak 1964; for language models: Zhao et al. 2024, arXiv 2407.07972",
        equation="m <- momentum m + g + wd p; p <- p - lr m",
        defaults="language models: lr 1, momentum 0.98, no decay",
        differs="torch.optim.SGD; weight decay is decoupled in none of its forms",
        cost="no matmul FLOPs; 1 float of state a parameter with momentum, none without",
    )
    search: ClassVar[Grid] = {"lr": factor2(0.0625, 512.0)}

    lr: PositiveFloat = 1.0
    """Peak learning rate."""
    momentum: Beta = 0.9
    """Decay of the momentum, which is a sum of gradients; 0: none is kept."""
    weight_decay: NonNegativeFloat = 0.0
    """Decay of matrices; it enters the momentum with the gradient."""

    def build(self, ctx: Context) -> Chain:
        groups = torch_groups(ctx.groups, self.weight_decay)
        return Chain([torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum, fused=True)])

    def cost(self, shapes: Sequence[Shape]) -> Cost:
        return elementwise(shapes, operations=6 if self.momentum else 4, floats=5 if self.momentum else 3)

    def state_bytes(self, shapes: Sequence[Shape]) -> int:
        return state_bytes(shapes, floats=1 if self.momentum else 0, counters=0)

"""SGD for the matrices, Adalayer for the last layer and the norms (Zhao et al. 2024, arXiv 2407.07972, section 4.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
from pydantic import NonNegativeFloat, PositiveFloat

from ...core.context import Context
from ...core.contracts import OptimizerPart
from ...core.cost import Cost
from ...core.documents import Later
from ...core.registry import Card, part
from ...core.roles import Role, Shape, numel
from ..chain import Chain
from ..groups import Beta, Epsilon, Grid, elementwise, factor2, torch_groups
from .adalayer import Adalayer

ADAPTIVE: tuple[Role, ...] = ("head", "norm")


@part
class SGDAdalayerPart(OptimizerPart):
    """SGD with momentum, adaptive only in the last layer and the norms."""

    card = Card(
        summary="SGD with momentum everywhere but in the head (a second moment a row) and the norms (one each)",
        paper="Zhao et al. 2024, arXiv 2407.07972",
        equation="m <- momentum m + g, p <- (1 - lr wd) p - lr m; head and norms: Adalayer's step",
        defaults="lr 0.1 to 3160 by sweep, momentum 0.98; last layer and norms 3.16e-3",
        differs="the second moments are not frozen",
        cost="no matmul FLOPs; 1 float of state a parameter",
    )
    search: ClassVar[Grid] = {"lr": factor2(0.0625, 512.0)}

    lr: PositiveFloat = 1.0
    """Peak learning rate of SGD."""
    momentum: Beta = 0.9
    """Decay of SGD's momentum, which is a sum."""
    lr_last: PositiveFloat = 4e-3
    """Peak learning rate of head and norms."""
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    """Decay of head's and norms' moments."""
    eps: Epsilon = 1e-8
    """Added to the root of the second moment."""
    weight_decay: NonNegativeFloat = 0.0
    """Decay of matrices, multiplied by the learning rate; SGD's enters its momentum."""
    adaptive: Annotated[tuple[Role, ...], Later()] = ADAPTIVE
    """Roles of the parameters that are no matter of SGD."""

    def build(self, ctx: Context) -> Chain:
        adaptive = [group for group in ctx.groups if group.role in self.adaptive]
        plain = [group for group in ctx.groups if group.role not in self.adaptive]
        members: list[torch.optim.Optimizer] = []
        if plain:
            groups = torch_groups(plain, self.weight_decay)
            members.append(torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum, fused=True))
        if adaptive:
            groups = torch_groups(adaptive, self.weight_decay)
            members.append(Adalayer(groups, lr=self.lr_last, betas=self.betas, eps=self.eps, lastlayer_correction=True))
        return Chain(members)

    def cost(self, shapes: Sequence[Shape]) -> Cost:
        return elementwise(shapes, operations=6, floats=5)

    def state_bytes(self, shapes: Sequence[Shape]) -> int:
        extra = sum((s.shape[0] if s.role == "head" else 1) + 1 for s in shapes if s.role in self.adaptive)
        return 4 * (numel(shapes) + extra)

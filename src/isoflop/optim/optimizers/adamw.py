"""AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101, algorithm 2): torch's own, fused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import NonNegativeFloat, PositiveFloat

from ...core.context import Context
from ...core.contracts import Curvature, OptimizerPart, Stateful
from ...core.cost import Cost
from ...core.registry import Card, part
from ...core.roles import Shape, numel
from ..groups import Beta, Epsilon, Grid, elementwise, factor2, torch_groups

if TYPE_CHECKING:
    import torch


def adamw_cost(shapes: Sequence[Shape]) -> Cost:
    """One fused step: 13 operations a scalar; p, g, m, v read, all but g written."""
    return elementwise(shapes, operations=13, floats=7)


def adamw_bytes(shapes: Sequence[Shape]) -> int:
    """Two fp32 moments a scalar and a step counter a tensor."""
    return 8 * numel(shapes) + 4 * len(shapes)


@part
class AdamWPart(OptimizerPart):
    """AdamW, with decay on matrices only."""

    card = Card(
        summary="Adam with decoupled weight decay; the baseline of the field",
        paper="Loshchilov and Hutter 2019, arXiv 1711.05101",
        equation="p <- (1 - lr wd) p - lr m_hat / (sqrt(v_hat) + eps)",
        defaults="lr 1e-3, betas (0.9, 0.999), eps 1e-8, weight_decay 0.01 (torch); language models use beta2 0.95",
        differs="no decay on norms and biases, by role",
        cost="no matmul FLOPs; 2 floats of state a parameter",
    )
    search: ClassVar[Grid] = {"lr": factor2(1.25e-4, 3.2e-2)}
    provides = frozenset({Stateful, Curvature})
    shardable = True

    lr: PositiveFloat = 4e-3
    """Peak learning rate."""
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    """Decay of the first and of the second moment."""
    eps: Epsilon = 1e-8
    """Added to the root of the second moment."""
    weight_decay: NonNegativeFloat = 0.1
    """Decoupled decay of matrices, multiplied by the learning rate."""

    def build(self, ctx: Context) -> torch.optim.Optimizer:
        import torch

        from ..chain import Chain

        groups = torch_groups(ctx.groups, self.weight_decay)
        return Chain([torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, eps=self.eps, fused=True)])

    def cost(self, shapes: Sequence[Shape]) -> Cost:
        return adamw_cost(shapes)

    def state_bytes(self, shapes: Sequence[Shape]) -> int:
        return adamw_bytes(shapes)

"""Muon: momentum, orthogonalised by Newton-Schulz, for matrices inside the blocks; AdamW for everything else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from ...core.context import Context
from ...core.cost import ZERO, Cost
from ...core.protocols import OptimizerPart
from ...core.registry import Card, part
from ...core.roles import Shape, numel
from ...ledger.formulas import newton_schulz
from ..groups import Beta, Grid, elementwise, factor2, split, split_shapes, torch_groups
from .adamw import adamw_bytes, adamw_cost

if TYPE_CHECKING:
    import torch


@part
class MuonPart(OptimizerPart):
    """Muon on hidden matrices, AdamW on embeddings, head, norms and biases; one rate for both."""

    card = Card(
        summary="orthogonalised momentum for hidden matrices, AdamW for the rest",
        paper="Jordan et al. 2024, kellerjordan.github.io/posts/muon; rate matching: Liu et al. 2025, arXiv 2502.16982",
        equation="m <- mu m + (1 - mu) g; p <- (1 - lr wd) p - 0.2 sqrt(max(p.shape)) lr NewtonSchulz(g + mu (m - g))",
        defaults="lr 0.02 with factor sqrt(max(1, rows / columns)), momentum 0.95, weight_decay 0",
        differs="torch's implementation; the update's root mean square matches AdamW's, so that one rate serves both",
        cost="steps x (4 m^2 n + 2 m^3) FLOPs a matrix, m <= n; 1 float of state a parameter",
    )
    search: ClassVar[Grid] = {"lr": factor2(1.25e-4, 3.2e-2)}

    lr: PositiveFloat = 4e-3
    """Peak learning rate, of both sides."""
    momentum: Beta = 0.95
    """Decay of the momentum."""
    nesterov: bool = True
    """Look ahead by one momentum step."""
    ns_steps: PositiveInt = 5
    """Newton-Schulz iterations."""
    weight_decay: NonNegativeFloat = 0.1
    """Decoupled decay of matrices, multiplied by the learning rate."""
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    """AdamW side: decay of the first and of the second moment."""
    eps: NonNegativeFloat = 1e-8
    """AdamW side: added to the root of the second moment."""

    def build(self, ctx: Context) -> torch.optim.Optimizer:
        import torch

        from ..chain import Chain

        inner, rest = split(ctx.groups)
        members: list[torch.optim.Optimizer] = []
        if inner:
            members.append(
                torch.optim.Muon(
                    torch_groups(inner, self.weight_decay),
                    lr=self.lr,
                    momentum=self.momentum,
                    nesterov=self.nesterov,
                    ns_steps=self.ns_steps,
                    adjust_lr_fn="match_rms_adamw",
                )
            )
        if rest:
            groups = torch_groups(rest, self.weight_decay)
            members.append(torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, eps=self.eps, fused=True))
        return Chain(members)

    def cost(self, shapes: Sequence[Shape]) -> Cost:
        inner, rest = split_shapes(shapes)
        iterations = (newton_schulz(s.shape[0], s.shape[1], self.ns_steps) for s in inner)
        return sum(iterations, ZERO) + elementwise(inner, operations=6, floats=5) + adamw_cost(rest)

    def state_bytes(self, shapes: Sequence[Shape]) -> int:
        inner, rest = split_shapes(shapes)
        return 4 * numel(inner) + adamw_bytes(rest)

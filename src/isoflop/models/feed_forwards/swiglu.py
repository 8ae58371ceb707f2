"""SwiGLU: a unit gated by its own SiLU (Shazeer 2020, arXiv 2002.05202)."""

from __future__ import annotations

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.context import Context
from ...core.contracts import FeedForwardPart
from ...core.cost import Work
from ...core.registry import Card, part
from ...core.roles import Shape
from ...ledger import formulas
from ..cost import pointwise
from ..kernels import fuse, gated_linear
from ..layers import Matrix


class SwiGlu(nn.Module):
    """down(silu(gate x) * up x) of (batch, length, width) vectors."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate, self.up = Matrix(hidden, width), Matrix(hidden, width)
        self.down = Matrix(width, hidden, residual=True)

    def weights(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The matrices that ``forward`` multiplies by, in ``dtype``: joined gate and up, and down."""
        return fuse((self.gate.weight, self.up.weight), dtype), fuse((self.down.weight,), dtype)

    def forward(self, x: Tensor, weights: tuple[Tensor, Tensor]) -> Tensor:
        gate_up, down = weights
        return F.linear(gated_linear(x, gate_up), down)


@part
class SwiGluPart(FeedForwardPart):
    """Feed-forward gated by SiLU."""

    hidden: PositiveInt | None = None
    """Inner width; by default 8/3 of the model's, rounded up to a multiple of 16: as many weights as a plain 4x one."""
    card = Card(
        summary="A gated feed-forward: three matrices, silu on the gate",
        paper="Shazeer 2020, arXiv 2002.05202",
        equation="W_down (silu(W_gate x) * W_up x)",
        cost="3 products of width x hidden",
    )

    def build(self, width: int, ctx: Context) -> SwiGlu:
        return SwiGlu(width, self.inner(width))

    def inner(self, width: int) -> int:
        """Inner width."""
        return self.hidden or -(-8 * width // 48) * 16

    def shapes(self, width: int) -> list[Shape]:
        hidden = self.inner(width)
        return [
            Shape("gate.weight", "hidden", (hidden, width)),
            Shape("up.weight", "hidden", (hidden, width)),
            Shape("down.weight", "hidden", (width, hidden)),
        ]

    def work(self, batch: int, length: int, width: int) -> Work:
        tokens, hidden = batch * length, self.inner(width)
        return (
            formulas.linear(tokens, width, 2 * hidden)
            + pointwise(tokens * hidden, operations=5)
            + formulas.linear(tokens, hidden, width)
        )

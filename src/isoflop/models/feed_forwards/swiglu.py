"""SwiGLU: a unit gated by its own SiLU (Shazeer 2020, arXiv 2002.05202)."""

from __future__ import annotations

from functools import partial

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.context import Context
from ...core.contracts import FeedForwardPart, Pattern, Products
from ...core.cost import Work
from ...core.registry import Card, part
from ...core.roles import Shape
from ..cost import pointwise
from ..kernels import fuse, gated_linear
from ..layers import Matrix, Product, plain_alike


class SwiGlu(nn.Module):
    """down(silu(gate x) * up x) of (batch, length, width) vectors."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate, self.up = Matrix(hidden, width), Matrix(hidden, width)
        self.down = Matrix(width, hidden, residual=True)

    def products(self, dtype: torch.dtype) -> tuple[Product, Product]:
        """What ``forward`` computes with, operands in ``dtype``: silu(gate x) * up x, and down."""
        down = self.down.product(dtype)
        if plain_alike((self.gate, self.up)):
            return partial(gated_linear, weight=fuse((self.gate.weight, self.up.weight), dtype)), down
        gate, up = self.gate.product(dtype), self.up.product(dtype)
        return lambda x: F.silu(gate(x)) * up(x), down

    def forward(self, x: Tensor, products: tuple[Product, Product]) -> Tensor:
        gated, down = products
        return down(gated(x))


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

    def steps(self, batch: int, length: int, width: int, pattern: Pattern | None = None) -> list[Products | Work]:
        gated = pointwise(batch * length * self.inner(width), operations=5)
        return [Products(("gate.weight", "up.weight")), gated, Products(("down.weight",))]

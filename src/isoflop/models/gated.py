"""What feed-forwards of the form down(f(gate x) * up x) share; each differs in f alone."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Self

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from ..core.contracts import FeedForwardPart, Kept, Pattern, Products, Step
from ..core.documents import Later
from ..core.roles import WIDTH, Axis, Shape
from .cost import pointwise
from .layers import Matrix, Product, matrix_shapes


class GatedFeedForward(nn.Module):
    """down(f(gate x) * up x) of (batch, length, width) vectors (Shazeer 2020, arXiv 2002.05202).

    Example:
        >>> class Gated(GatedFeedForward):
        ...     def activate(self, x):
        ...         return x.sigmoid()
        >>> layer = Gated(32, 64)
        >>> layer(torch.zeros(2, 5, 32), layer.products(torch.float32)).shape
        torch.Size([2, 5, 32])
    """

    def __init__(self, width: int, hidden: int, bias: bool = False) -> None:
        super().__init__()
        self.gate, self.up = Matrix(hidden, width, bias=bias), Matrix(hidden, width, bias=bias)
        self.down = Matrix(width, hidden, residual=True, bias=bias)

    @abstractmethod
    def activate(self, x: Tensor) -> Tensor:
        """The nonlinearity f, elementwise."""

    def gated(self, dtype: torch.dtype) -> Product:
        """x -> f(gate x) * up x with operands in ``dtype``."""
        gate, up = self.gate.product(dtype), self.up.product(dtype)
        return lambda x: self.activate(gate(x)) * up(x)

    def products(self, dtype: torch.dtype) -> tuple[Product, Product]:
        """What ``forward`` computes with, operands in ``dtype``: f(gate x) * up x, and down."""
        return self.gated(dtype), self.down.product(dtype)

    def forward(self, x: Tensor, products: tuple[Product, Product]) -> Tensor:
        gated, down = products
        return down(gated(x))


class GatedPart(FeedForwardPart):
    """Base of the parts of this form."""

    hidden: PositiveInt | None = None
    """Inner width; by default 8/3 of the model's, rounded up to a multiple of 16: as many weights as a plain 4x one."""
    bias: Annotated[bool, Later()] = False
    """Whether all three products have a bias."""

    def inner(self, width: int) -> int:
        """Inner width."""
        return self.hidden or -(-8 * width // 48) * 16

    def shapes(self, width: int) -> list[Shape]:
        hidden, inward = self.inner(width), (Axis("hidden"), WIDTH)
        return [
            *matrix_shapes("gate", hidden, width, self.bias, inward),
            *matrix_shapes("up", hidden, width, self.bias, inward),
            *matrix_shapes("down", width, hidden, self.bias, inward[::-1]),
        ]

    def sliced(self, kept: Kept, width: int) -> Self:
        return self.model_copy(update={"hidden": len(kept.get("hidden", range(self.inner(width))))})

    def steps(self, batch: int, length: int, width: int, pattern: Pattern | None = None) -> list[Step]:
        gated = pointwise(batch * length * self.inner(width), operations=5)
        return [Products(("gate.weight", "up.weight")), gated, Products(("down.weight",))]

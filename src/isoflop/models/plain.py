"""What feed-forwards of the form down(f(up x)) share; each differs in f alone."""

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


class PlainFeedForward(nn.Module):
    """down(f(up x)) of (batch, length, width) vectors.

    Example:
        >>> class Tanh(PlainFeedForward):
        ...     def activate(self, x):
        ...         return x.tanh()
        >>> layer = Tanh(32, 64)
        >>> layer(torch.zeros(2, 5, 32), layer.products(torch.float32)).shape
        torch.Size([2, 5, 32])
    """

    def __init__(self, width: int, hidden: int, bias: bool = False) -> None:
        super().__init__()
        self.up = Matrix(hidden, width, bias=bias)
        self.down = Matrix(width, hidden, residual=True, bias=bias)

    @abstractmethod
    def activate(self, x: Tensor) -> Tensor:
        """The nonlinearity f, elementwise."""

    def products(self, dtype: torch.dtype) -> tuple[Product, Product]:
        """What ``forward`` multiplies by, with operands in ``dtype``: up and down."""
        return self.up.product(dtype), self.down.product(dtype)

    def forward(self, x: Tensor, products: tuple[Product, Product]) -> Tensor:
        up, down = products
        return down(self.activate(up(x)))


class PlainPart(FeedForwardPart):
    """Base of the parts of this form."""

    hidden: PositiveInt | None = None
    """Inner width; by default 4 times the model's."""
    bias: Annotated[bool, Later()] = False
    """Whether both products have a bias."""

    def inner(self, width: int) -> int:
        """Inner width."""
        return self.hidden or 4 * width

    def shapes(self, width: int) -> list[Shape]:
        hidden = self.inner(width)
        up = matrix_shapes("up", hidden, width, self.bias, (Axis("hidden"), WIDTH))
        return up + matrix_shapes("down", width, hidden, self.bias, (WIDTH, Axis("hidden")))

    def sliced(self, kept: Kept, width: int) -> Self:
        return self.model_copy(update={"hidden": len(kept.get("hidden", range(self.inner(width))))})

    def steps(self, batch: int, length: int, width: int, pattern: Pattern | None = None) -> list[Step]:
        activated = pointwise(batch * length * self.inner(width), operations=4)
        return [Products(("up.weight",)), activated, Products(("down.weight",))]

"""What feed-forwards of the form down(f(up x)) share; each differs in f alone."""

from __future__ import annotations

from abc import abstractmethod

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.contracts import FeedForwardPart
from ..core.cost import Work
from ..core.roles import Shape
from ..ledger import formulas
from .cost import pointwise
from .kernels import fuse
from .layers import Matrix


class PlainFeedForward(nn.Module):
    """down(f(up x)) of (batch, length, width) vectors."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up = Matrix(hidden, width)
        self.down = Matrix(width, hidden, residual=True)

    @abstractmethod
    def activate(self, x: Tensor) -> Tensor:
        """The nonlinearity f, elementwise."""

    def weights(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The matrices that ``forward`` multiplies by, in ``dtype``: up and down."""
        return fuse((self.up.weight,), dtype), fuse((self.down.weight,), dtype)

    def forward(self, x: Tensor, weights: tuple[Tensor, Tensor]) -> Tensor:
        up, down = weights
        return F.linear(self.activate(F.linear(x, up)), down)


class PlainPart(FeedForwardPart):
    """Base of the parts of this form."""

    hidden: PositiveInt | None = None
    """Inner width; by default 4 times the model's."""

    def inner(self, width: int) -> int:
        """Inner width."""
        return self.hidden or 4 * width

    def shapes(self, width: int) -> list[Shape]:
        hidden = self.inner(width)
        return [Shape("up.weight", "hidden", (hidden, width)), Shape("down.weight", "hidden", (width, hidden))]

    def work(self, batch: int, length: int, width: int) -> Work:
        tokens, hidden = batch * length, self.inner(width)
        return (
            formulas.linear(tokens, width, hidden)
            + pointwise(tokens * hidden, operations=4)
            + formulas.linear(tokens, hidden, width)
        )

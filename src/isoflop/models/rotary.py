"""What rotary positions share; each differs in how fast its pairs turn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from ..core.contracts import PositionPart

if TYPE_CHECKING:
    from torch import Tensor


class RotaryPart(PositionPart):
    """Base of the parts that turn pairs of numbers by an angle that grows with the position.

    A part of this form states ``changed``: the rates of its pairs, given the usual ones.

    Example:
        >>> class Halved(RotaryPart):
        ...     def changed(self, rates, theta):
        ...         return rates / 2
        >>> Halved.model_construct(fraction=1.0).rates(8, 10_000.0).tolist()[0]
        0.5
    """

    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of each head's numbers that turn, the first of each half; the others say nothing of positions."""

    def turning(self, head_dim: int) -> int:
        """Numbers of a head that turn."""
        return int(head_dim * self.fraction)

    def rates(self, head_dim: int, theta: float) -> Tensor:
        import torch

        half = self.turning(head_dim) // 2
        plain = theta ** -(torch.arange(half, dtype=torch.float64, device="cpu") / half)
        still = torch.zeros(head_dim // 2 - half, dtype=torch.float64, device="cpu")
        return torch.cat((self.changed(plain, theta), still))

    def changed(self, rates: Tensor, theta: float) -> Tensor:
        """The rates in the place of the usual ones, float64 (turning / 2,)."""
        return rates

    def problems(self, head_dim: int) -> list[str]:
        if head_dim % 2:
            return [f"head_dim: is {head_dim}, but rotary positions need an even one; change heads or head_dim"]
        if (turning := self.turning(head_dim)) % 2 or not turning:
            what = f"{self.fraction} of {head_dim} numbers is {turning}, but pairs turn"
            return [f"position.fraction: {what}; choose an even number of them, at least 2"]
        return []

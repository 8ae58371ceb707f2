"""YaRN: rotary positions for longer contexts, by parts, with a temperature (Peng et al. 2023, arXiv 2309.00071)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, PositiveFloat, PositiveInt

from ...core.registry import Card, part
from ..rotary import RotaryPart

if TYPE_CHECKING:
    from torch import Tensor


@part
class Yarn(RotaryPart):
    """Fast pairs stay, slow ones are ``factor`` times slower, and a ramp over the pairs' numbers lies between.

    Example:
        >>> Yarn(factor=4.0).rates(8, 10_000.0).shape, round(float(Yarn(factor=4.0).magnitude), 3)
        (torch.Size([4]), 1.139)
    """

    factor: PositiveFloat = 4.0
    """Times that the context is longer."""
    original: PositiveInt = 2048
    """Length of the original context."""
    fast: Annotated[float, Field(gt=0, le=1e9)] = 32.0
    """Turns within the original context from which on a pair is fast (the paper's beta)."""
    slow: PositiveFloat = 1.0
    """Turns up to which it is slow (the paper's alpha)."""
    attention: PositiveFloat | None = None
    """Factor on queries and on keys; by default 0.1 ln(factor) + 1."""
    whole: bool = True
    """Begin and end the ramp at whole pairs."""
    card = Card(
        summary="Rotary positions slowed down by parts, and sharper scores, for contexts longer than those of training",
        paper="Peng et al. 2023, arXiv 2309.00071, sections 3.2 to 3.4",
        equation="rate (1 - r) + rate r / factor, r a ramp from the pair of ``fast`` turns to that of ``slow`` turns",
        differs="the ramp is over pairs' numbers, as in the authors' code, not over their turns, as in equation 17",
        cost="that of rotary",
    )

    @property
    def magnitude(self) -> float:
        longer = 0.1 * math.log(self.factor) + 1 if self.factor > 1 else 1.0
        return longer if self.attention is None else self.attention

    def changed(self, rates: Tensor, theta: float) -> Tensor:
        import torch

        dim = 2 * len(rates)
        low, high = (
            dim * math.log(self.original / (turns * 2 * math.pi)) / (2 * math.log(theta))
            for turns in (self.fast, self.slow)
        )
        if self.whole:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, dim - 1)
        high += 0.001 if low == high else 0
        ramp = ((torch.arange(len(rates), dtype=torch.float64, device="cpu") - low) / (high - low)).clamp(0, 1)
        return rates * (1 - ramp) + rates / self.factor * ramp

    def problems(self, head_dim: int) -> list[str]:
        found = super().problems(head_dim)
        if self.slow >= self.fast:
            found.append(f"position.slow: is {self.slow}, not below fast = {self.fast}; choose a lower one")
        return found

"""Rotary positions of Llama 3.1: slow pairs interpolated, fast ones as they were (arXiv 2407.21783)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydantic import PositiveFloat, PositiveInt

from ...core.registry import Card, part
from ..rotary import RotaryPart

if TYPE_CHECKING:
    from torch import Tensor


@part
class Llama3(RotaryPart):
    """Pairs that turn often within the original context stay, those that turn seldom are ``factor`` times slower.

    Example:
        >>> slowed = Llama3(original=128).rates(8, 10_000.0) / Llama3(original=128, factor=1.0).rates(8, 10_000.0)
        >>> [round(float(share), 3) for share in slowed]
        [1.0, 0.428, 0.125, 0.125]
    """

    factor: PositiveFloat = 8.0
    """Times that slow pairs turn more slowly."""
    low: PositiveFloat = 1.0
    """Pairs that turn fewer times than this within the original context are slow."""
    high: PositiveFloat = 4.0
    """Those that turn more often are fast; between the two, a share of both."""
    original: PositiveInt = 8192
    """Length of the original context."""
    card = Card(
        summary="Rotary positions whose slow pairs alone are slowed down, for contexts longer than those of training",
        paper="Llama 3: arXiv 2407.21783, and Llama 3.1's released code",
        equation="rate ((1 - s) / factor + s), s = clamp((original rate / 2 pi - low) / (high - low), 0, 1)",
        cost="that of rotary",
    )

    def changed(self, rates: Tensor, theta: float) -> Tensor:
        turns = self.original * rates / (2 * math.pi)
        share = ((turns - self.low) / (self.high - self.low)).clamp(0, 1)
        return (1 - share) * rates / self.factor + share * rates

    def problems(self, head_dim: int) -> list[str]:
        found = super().problems(head_dim)
        if self.low >= self.high:
            found.append(f"position.low: is {self.low}, not below high = {self.high}; choose a lower one")
        return found

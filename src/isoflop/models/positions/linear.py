"""Rotary positions, interpolated (Chen et al. 2023, arXiv 2306.15595)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import PositiveFloat

from ...core.registry import Card, part
from ..rotary import RotaryPart

if TYPE_CHECKING:
    from torch import Tensor


@part
class Linear(RotaryPart):
    """Every pair turns ``factor`` times more slowly, so that a context as many times longer looks as before.

    Use it to take a model to a longer context with little further training; fine distances blur by the same factor.

    Example:
        >>> bool((Linear(factor=2.0).rates(8, 10_000.0) * 2 == Linear().rates(8, 10_000.0)).all())
        True
    """

    factor: PositiveFloat = 1.0
    """Times that the context is longer."""
    card = Card(
        summary="Rotary positions divided by a factor, for contexts longer than those of training",
        paper="Chen et al. 2023, arXiv 2306.15595",
        equation="position / factor in the place of position",
        cost="that of rotary",
    )

    def changed(self, rates: Tensor, theta: float) -> Tensor:
        return rates / self.factor

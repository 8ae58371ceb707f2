"""What a quality is measured on: its unit, and which way is better."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """The scale of a metric's values, which every sentence, table and ranking about them is made with.

    A value may be a bound: then what it stands for is at least as good, so that "<= 1.23" is printed of a scale where
    lower is better and ">= 0.45" of one where higher is.

    Args:
        unit: what the values are, as it reads after a number and after "the same", e.g. "bits per byte".
        higher_is_better: which way is better.

    Example:
        >>> Scale("accuracy", higher_is_better=True).cost(0.9) < Scale("accuracy", higher_is_better=True).cost(0.8)
        True
    """

    unit: str
    higher_is_better: bool = False

    @property
    def direction(self) -> str:
        """The direction in words, for axes and notes."""
        return "higher is better" if self.higher_is_better else "lower is better"

    def cost(self, value: float) -> float:
        """``value`` turned so that lower is better: what rankings and ladders are made of."""
        return -value if self.higher_is_better else value

    def text(self, value: float, *, bound: bool = False, stderr: float | None = None, digits: int = 4) -> str:
        """A value as it is printed, without its unit: "1.2345 +- 0.0012", "<= 1.2345".

        Args:
            value: on this scale.
            bound: whether it is one; then it is rounded so that it claims no more.
            stderr: its standard error, if it is known.
            digits: decimals.
        """
        shown = _outward(value, digits, up=not self.higher_is_better) if bound else value
        sign = (">= " if self.higher_is_better else "<= ") if bound else ""
        error = "" if stderr is None else f" +- {stderr:.{digits}f}"
        return f"{sign}{shown:.{digits}f}{error}"


def _outward(value: float, digits: int, *, up: bool) -> float:
    """``value`` with so many decimals, rounded up or down; what already has no more stays."""
    if not math.isfinite(value) or math.isclose(value, round(value, digits), rel_tol=1e-12, abs_tol=1e-12):
        return value
    steps = value * 10.0**digits
    return (math.ceil(steps) if up else math.floor(steps)) / 10.0**digits

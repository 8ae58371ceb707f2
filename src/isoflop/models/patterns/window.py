"""A sliding window: attention whose cost grows with the length, not with its square."""

import numpy as np
from pydantic import PositiveInt

from ...core.contracts.pattern import Bools, Pattern, Positions
from ...core.registry import Card, part


@part
class WindowPattern(Pattern):
    """Every position sees those less than ``size`` away; within a causal pattern the last ``size``, itself included.

    Bounds the cost of long sequences: pairs grow with the length, not with its square. Deeper layers still see further.

    Example:
        >>> WindowPattern(size=2).dense(4).tolist()[3], WindowPattern(size=2).pairs(4)
        ([False, False, True, True], 10)
    """

    size: PositiveInt = 128
    """Positions that a query reaches back, itself counted."""
    card = Card(
        summary="Every position sees only those nearby",
        paper="Beltagy et al. 2020, arXiv 2004.05150; Mistral 7B: Jiang et al. 2023, arXiv 2310.06825",
        equation="|query - key| < size",
        cost="about size pairs a position",
    )

    def sees(self, queries: Positions, keys: Positions) -> Bools:
        return np.asarray(np.abs(queries - keys) < self.size)

"""Blocks that are seen whole, and those before them: text that is written block by block."""

import numpy as np
from pydantic import PositiveInt

from ...core.contracts.pattern import Bools, Pattern, Positions
from ...core.registry import Card, part


@part
class BlocksPattern(Pattern):
    """Every position sees its own block of ``size`` positions and all blocks before it.

    For models that write several tokens at a time, block after block.

    Example:
        >>> BlocksPattern(size=2).dense(3).astype(int).tolist()
        [[1, 1, 0], [1, 1, 0], [1, 1, 1]]
    """

    size: PositiveInt = 16
    """Positions of a block."""
    card = Card(
        summary="Every position sees its own block and those before it",
        paper="Arriola et al. 2025, arXiv 2503.09573, section 3",
        equation="key // size <= query // size",
        cost="the causal pairs and size (size - 1) / 2 more for each block",
    )

    def sees(self, queries: Positions, keys: Positions) -> Bools:
        return np.asarray(keys // self.size <= queries // self.size)

"""Everything: what a model that fills in masked tokens may see."""

import numpy as np

from ...core.contracts.pattern import Bools, Pattern, Positions
from ...core.registry import Card, part


@part
class FullPattern(Pattern):
    """Every position sees every other.

    For objectives that predict from both sides, as masked diffusion does.

    Example:
        >>> FullPattern().pairs(4)
        16
    """

    card = Card(
        summary="Every position sees every other",
        paper="Devlin et al. 2018, arXiv 1810.04805",
        equation="always",
        cost="T^2 pairs",
    )

    def sees(self, queries: Positions, keys: Positions) -> Bools:
        return np.ones(np.broadcast_shapes(queries.shape, keys.shape), bool)

    def pairs(self, length: int) -> int:
        return length * length

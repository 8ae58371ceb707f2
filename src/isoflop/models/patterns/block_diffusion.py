"""A text beside its corrupted copy, block by block: one pass trains every block on the clean blocks before it."""

import numpy as np
from pydantic import PositiveInt

from ...core.contracts.pattern import Bools, Pattern, Positions
from ...core.registry import Card, part


@part
class BlockDiffusionPattern(Pattern):
    """Blocks of a corrupted copy and of the text in turn, ``size`` positions each: corrupted, clean, corrupted, clean.

    A corrupted block sees itself and the clean blocks before it; a clean one the clean blocks up to itself. Both copies
    of a token stand at one place of the text.

    Example:
        >>> pattern = BlockDiffusionPattern(size=1)  # corrupted a, a, corrupted b, b
        >>> pattern.dense(4).astype(int).tolist(), pattern.places(4).tolist()
        ([[1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [0, 1, 0, 1]], [0, 0, 1, 1])
    """

    size: PositiveInt = 16
    """Positions of a block."""
    card = Card(
        summary="A text beside its corrupted copy, which sees itself and the clean blocks before it",
        paper="Arriola et al. 2025, arXiv 2503.09573, section 4",
        equation="clean before, or the same block of the same copy",
        differs="the copies' blocks take turns, so that a block of queries skips what comes later; the authors put one "
        "copy behind the other, which sees the same pairs",
        cost="of a text of L tokens in blocks of B: L (L + B) pairs, 2 L positions",
    )

    def sees(self, queries: Positions, keys: Positions) -> Bools:
        (query, query_clean), (key, key_clean) = self._of(queries), self._of(keys)
        return np.asarray((key_clean & (key < query)) | ((key == query) & (key_clean == query_clean)))

    def places(self, length: int) -> Positions:
        positions = np.arange(length)
        return positions // (2 * self.size) * self.size + positions % self.size

    def _of(self, positions: Positions) -> tuple[Positions, Bools]:
        """The block that each position belongs to, and whether it is in the clean copy."""
        return positions // (2 * self.size), np.asarray(positions // self.size % 2 == 1)

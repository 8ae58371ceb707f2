"""How often what a decoder fills in is well formed, whether or not it is right."""

from __future__ import annotations

from typing import ClassVar

from pydantic import PositiveInt

from ...core.context import Context
from ...core.registry import Card, part
from ..samples import DecodingMetricPart
from .solved import SolveRate


@part
class WellFormedPart(DecodingMetricPart):
    """Share of held-out puzzles that a decoder fills in so that the text is well formed, each level apart.

    The weaker question beside ``solved``, of tasks that tell both: of ``code`` whether the function parses at all.

    Example:
        >>> WellFormedPart(decoder={"name": "margin"}).puzzles
        200
    """

    puzzles: PositiveInt = 200
    """Puzzles of each level at most."""
    card = Card(
        summary="Share of held-out puzzles whose filled text is well formed, right or not.",
        equation="well_formed = mean_i [formed(puzzle_i, decode(question_i))]",
        cost="the decoder's passes over each puzzle",
    )
    unit: ClassVar[str] = "of puzzles well formed"
    higher_is_better: ClassVar[bool] = True
    counts: ClassVar[str] = "puzzles"

    def build(self, ctx: Context) -> SolveRate:
        return SolveRate(self.decoder, self.puzzles, by="formed")

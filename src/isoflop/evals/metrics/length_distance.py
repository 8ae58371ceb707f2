"""How far a model's lengths are from the data's: total variation between the two distributions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import PositiveInt

from ...core.context import Context
from ...core.contracts import DecoderPart, HeldOut, Measurement, Subject
from ...core.registry import Card, part
from ...core.rng import Rng
from ..samples import DecodingMetricPart, written


def total_variation(ours: Sequence[int], theirs: Sequence[int]) -> float:
    """Half the summed differences of two lists' relative frequencies, in [0, 1].

    Args:
        ours: values.
        theirs: values.

    Example:
        >>> total_variation([2, 2, 4, 4], [2, 4, 4, 6])
        0.25
    """
    one, two = Counter(ours), Counter(theirs)
    return math.fsum(abs(one[n] / len(ours) - two[n] / len(theirs)) for n in {*one, *two}) / 2


class LengthDistance:
    """Total variation between the lengths of samples and those of all held-out texts.

    Args:
        decoder: how samples are written.
        samples: their number.

    Example:
        >>> from isoflop.core.registry import get
        >>> LengthDistance(get("decoder", "margin")(), samples=200).samples
        200
    """

    def __init__(self, decoder: DecoderPart, samples: int) -> None:
        self.decoder, self.samples = decoder, samples

    def measure(self, subject: Subject, data: Mapping[str, HeldOut], rng: Rng) -> Measurement:
        """Write samples, and compare their lengths with those of the held-out texts of all levels."""
        texts, _, cost = written(self.decoder, subject, next(iter(data.values())), self.samples, rng)
        held: list[Any] = [puzzle for level in data.values() for puzzle in level.puzzles]  # type: ignore[attr-defined]
        value = total_variation([len(text) for text in texts], [len(puzzle.text) for puzzle in held])
        return Measurement(value, None, len(texts), cost=cost)


@part
class LengthDistancePart(DecodingMetricPart):
    """Total variation between the lengths that a decoder writes and those of held-out texts, 0 to 1.

    For tasks of which nothing is shown, as ``brackets``. Two finite samples of one law differ, too: by about
    sqrt(lengths / samples).

    Example:
        >>> LengthDistancePart(decoder={"name": "margin"}).samples
        200
    """

    samples: PositiveInt = 200
    """Samples."""
    card = Card(
        summary="Total variation between the lengths of samples and of held-out texts.",
        equation="(1/2) sum_n |share of samples of length n - share of texts of length n|",
        differs="held-out levels are pooled as they are held out, equally often each",
        cost="the decoder's passes over each sample",
    )
    unit: ClassVar[str] = "of lengths misplaced"
    counts: ClassVar[str] = "samples"

    def build(self, ctx: Context) -> LengthDistance:
        return LengthDistance(self.decoder, self.samples)

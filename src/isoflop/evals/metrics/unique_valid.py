"""How many of a model's samples are right, and new each time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import PositiveInt

from ...core.context import Context
from ...core.contracts import DecoderPart, HeldOut, Measurement, Subject
from ...core.registry import Card, part
from ...core.rng import Rng
from ..samples import DecodingMetricPart, written


class UniqueValid:
    """Share of samples that the task finds right, each text counted once.

    Args:
        decoder: how samples are written.
        samples: their number.

    Example:
        >>> from isoflop.core.registry import get
        >>> UniqueValid(get("decoder", "margin")(), samples=200).samples
        200
    """

    def __init__(self, decoder: DecoderPart, samples: int) -> None:
        self.decoder, self.samples = decoder, samples

    def measure(self, subject: Subject, data: Mapping[str, HeldOut], rng: Rng) -> Measurement:
        """Write samples and have the task judge them."""
        texts, level, cost = written(self.decoder, subject, next(iter(data.values())), self.samples, rng)
        right = {text for text in texts if level.task.right(level.puzzles[0], text)}
        return Measurement(len(right) / len(texts), None, len(texts), cost=cost)


@part
class UniqueValidPart(DecodingMetricPart):
    """Share of samples that are right and no copies of each other.

    For tasks of which nothing is shown, as ``brackets``: a model that writes one right word for ever scores next to 0.

    Example:
        >>> UniqueValidPart(decoder={"name": "margin"}).samples
        200
    """

    samples: PositiveInt = 200
    """Samples."""
    card = Card(
        summary="Share of samples that the task finds right, each text counted once.",
        equation="|{right texts}| / samples",
        cost="the decoder's passes over each sample",
    )
    unit: ClassVar[str] = "of samples right and new"
    higher_is_better: ClassVar[bool] = True
    counts: ClassVar[str] = "samples"

    def build(self, ctx: Context) -> UniqueValid:
        return UniqueValid(self.decoder, self.samples)

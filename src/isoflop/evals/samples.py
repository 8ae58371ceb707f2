"""Metrics of what a decoder writes: whether it can, and samples from nothing beside held-out ones."""

from __future__ import annotations

from typing import Any, ClassVar

from ..core.contracts import DecoderPart, HeldOut, HeldOutPuzzles, MetricPart, PosesPuzzles, Subject
from ..core.cost import Cost
from ..core.errors import UsageError
from ..core.rng import Rng
from ..core.slots import DecoderSlot
from ..decode.unmask import Unmask


class DecodingMetricPart(MetricPart):
    """Base of the metrics of what a decoder writes where a source poses puzzles.

    Example:
        >>> from isoflop.evals.metrics.solved import SolvedPart
        >>> issubclass(SolvedPart, DecodingMetricPart)
        True
    """

    decoder: DecoderSlot
    """How it is written, or filled in; `sample` for models that write from left to right."""
    needs: ClassVar[dict[str, frozenset[type]]] = {"source": frozenset({PosesPuzzles})}

    def check(self, recipe: Any) -> list[str]:
        why = self.decoder.misfit(recipe.objective.filling(recipe.vocab_size))
        found = [f"metrics: {self.name}'s decoder {self.decoder.name} {why}"] if why else []
        if getattr(self.decoder, "samples", 1) > 1:
            found.append(f"metrics: {self.name} judges one sample of each question; leave out decoder.samples")
        return found


def written(
    decoder: DecoderPart, subject: Subject, heldout: HeldOut, count: int, rng: Rng
) -> tuple[list[str], HeldOutPuzzles, Cost]:
    """Samples of a task whose puzzles show nothing, up to their first end of text.

    Args:
        decoder: how they are written.
        subject: with which model.
        heldout: puzzles of the task.
        count: samples.
        rng: of the draws.

    Returns:
        the texts, the held-out puzzles, and what writing cost.

    Raises:
        UsageError: the puzzles show something.
    """
    assert isinstance(heldout, HeldOutPuzzles), "the recipe has checked that the source poses puzzles"
    if any(any(puzzle.question) for puzzle in heldout.puzzles):
        what = f"puzzles of {heldout.task.name} show something, and this metric is of texts written from nothing"
        raise UsageError(what, where="metrics", fix="use solved")
    tokenizer = heldout.tokenizer
    live = decoder.model_copy(update={"stop": tokenizer.eot, "ids": tokenizer.vocab_size}).build(subject.ctx)
    filling = subject.ctx.filling
    begins = filling is None or filling.shifted or not (isinstance(live, Unmask) or filling.times)
    prompts = [[tokenizer.eot] if begins else [] for _ in range(count)]
    found = list(live.complete(subject.model, prompts, subject.ctx.length, rng))
    return [tokenizer.decode(each.ids) for each in found], heldout, sum((each.cost for each in found), Cost())

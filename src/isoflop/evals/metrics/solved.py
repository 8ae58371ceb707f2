"""Solve rate: how often a decoder fills held-out puzzles in rightly, by the task's own judgement."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal

from pydantic import PositiveInt

from ...core.context import Context
from ...core.contracts import (
    Completion,
    DecoderPart,
    Filling,
    HeldOut,
    HeldOutPuzzles,
    Measurement,
    Puzzle,
    Subject,
)
from ...core.cost import Cost
from ...core.errors import UsageError
from ...core.registry import Card, part
from ...core.rng import Rng
from ...data.puzzles import pieces
from ...decode.decoders.insertion import Insertion
from ...decode.unmask import Unmask
from ..pooling import over_domains, ratio_error
from ..samples import DecodingMetricPart


class SolveRate:
    """Share of held-out puzzles whose filled text is right.

    A decoder of hidden tokens fills in the holes; one that inserts tokens is not told how long a hole is, unless the
    question tells. One that writes from left to right goes on from the prompt: each puzzle must end in its only hole.

    Args:
        decoder: how puzzles are filled in.
        puzzles: of each level at most.
        by: which judgement of the task's counts: "right", or "formed" (well formed, right or not).

    Example, with ``model`` a Transformer over bytes and ``ctx`` its context:
        >>> from isoflop.data.puzzles import PuzzleText
        >>> from isoflop.data.tasks.addition import AdditionPart
        >>> from isoflop.data.tokenizers.bytes import Bytes
        >>> from isoflop.decode.decoders.margin import MarginPart
        >>> asked = PuzzleText(AdditionPart(digits=1), (Puzzle("1+1=02", ((4, 6),), "easy"),), Bytes(), "none", None)
        >>> found = SolveRate(MarginPart(), 10).measure(Subject(model, None, ctx), {"easy": asked}, Rng(0))
        >>> found.value, found.n
        (0.0, 1)
    """

    def __init__(self, decoder: DecoderPart, puzzles: int, by: Literal["right", "formed"] = "right") -> None:
        self.decoder, self.puzzles, self.by = decoder, puzzles, by

    def measure(self, subject: Subject, data: Mapping[str, HeldOut], rng: Rng) -> Measurement:
        """Let the policy fill in held-out puzzles, each level apart."""
        return over_domains(data, rng, lambda heldout, own: self._level(subject, heldout, own))

    def _level(self, subject: Subject, heldout: HeldOut, rng: Rng) -> Measurement:
        assert isinstance(heldout, HeldOutPuzzles), "the recipe has checked that the source poses puzzles"
        asked, hits, cost = heldout.puzzles[: self.puzzles], list[float](), Cost()
        for puzzle, found in zip(asked, self._answers(subject, heldout, len(asked), rng), strict=True):
            judge = getattr(heldout.task, self.by)
            hits.append(float(judge(puzzle, filled(puzzle, found, heldout))))
            cost += found.cost
        ones = [1.0] * len(hits)
        return Measurement(sum(hits) / len(hits), ratio_error(hits, ones), len(hits), cost=cost)

    def _answers(self, subject: Subject, heldout: HeldOutPuzzles, count: int, rng: Rng) -> Iterator[Completion]:
        filling, tokenizer = subject.ctx.filling, heldout.tokenizer
        most = heldout.task.longest if isinstance(filling, Filling) and filling.times else None
        templates = list(itertools.islice(heldout.templates(most), count))
        stop = None if heldout.task.fixed else tokenizer.eot
        part = self.decoder.model_copy(update={"stop": stop, "ids": tokenizer.vocab_size})
        decoder = part.build(subject.ctx)
        if isinstance(decoder, Unmask | Insertion):
            behind = [tokenizer.eot] if isinstance(filling, Filling) and filling.shifted else []
            yield from decoder.infill(subject.model, [[*behind, *template] for template in templates], rng)
            return
        if any(puzzle.prompt is None for puzzle in heldout.puzzles[:count]):
            what = "a puzzle shows something behind a hole, and this decoder writes from left to right"
            raise UsageError(what, where="metrics", fix="use a layout that asks first, or a model that fills in")
        rooms = [template.count(None) if heldout.task.fixed else heldout.task.longest + 1 for template in templates]
        prompts = [[tokenizer.eot, *(i for i in template if i is not None)] for template in templates]
        written = [0] * count

        def listen(prompt: int, sample: int, token: int) -> bool:
            written[prompt] += 1
            return written[prompt] == rooms[prompt]

        yield from decoder.complete(subject.model, prompts, max(rooms), rng, listen=listen)


def filled(puzzle: Puzzle, found: Completion, heldout: HeldOutPuzzles) -> str:
    """The puzzle's text with a decoder's ids in its holes, each hole's up to its first end of text.

    Args:
        puzzle: the question.
        found: what the decoder gave, of all holes in order.
        heldout: where the puzzle is from.
    """
    sizes = list(found.gaps)
    if not sizes:
        sizes = [len(piece) for piece, hidden in pieces(puzzle, heldout.tokenizer, heldout.slots) if hidden]
        if len(sizes) == 1:
            sizes = [len(found.ids)]
    answers, left, eot = list[str](), iter(found.ids), heldout.tokenizer.eot
    for size in sizes[: len(puzzle.holes)]:
        own = list(itertools.islice(left, size))
        answers.append(heldout.tokenizer.decode(list(itertools.takewhile(lambda i: i != eot, own))))
    return puzzle.filled(answers)


@part
class SolvedPart(DecodingMetricPart):
    """Solve rate on held-out puzzles, each level apart and their mean, weighted by puzzles.

    The levels are the task's, so that a hard tail shows by itself. A recipe may measure the same weights by one decoder
    only; ``SolveRate`` takes any other.

    Example:
        >>> SolvedPart(decoder={"name": "margin"}).decoder.name, SolvedPart.higher_is_better
        ('margin', True)
    """

    puzzles: PositiveInt = 200
    """Puzzles of each level at most."""
    card = Card(
        summary="Share of held-out puzzles that a decoder fills in rightly, as the task's oracle judges.",
        equation="solved = mean_i [right(puzzle_i, decode(question_i))]",
        cost="the decoder's passes over each puzzle",
    )
    unit: ClassVar[str] = "of puzzles solved"
    higher_is_better: ClassVar[bool] = True
    counts: ClassVar[str] = "puzzles"

    def build(self, ctx: Context) -> SolveRate:
        return SolveRate(self.decoder, self.puzzles)

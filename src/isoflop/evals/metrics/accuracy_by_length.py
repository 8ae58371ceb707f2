"""Accuracy on held-out puzzles against how long they are: whether what was learned goes on where training ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from pydantic import PositiveInt

from ...core.context import Context
from ...core.contracts import Draws, HeldOut, Measurement, MetricPart, PosesPuzzles, Predicts, Puzzle, Subject
from ...core.cost import Cost
from ...core.registry import Card, part
from ...core.rng import Rng
from ...data.puzzles import PuzzleText
from ..pooling import over_domains, ratio_error


class AccuracyByLength:
    """Share of held-out puzzles all of whose answers are the likeliest ones, for each length by itself.

    An answer is predicted from what truly stands before it, in one pass over the puzzle. Where only one answer is right
    that is exactly what a greedy decoder solves: it goes wrong where the first prediction does. Rows are as long as the
    length that is measured needs, whatever the rows of training were.

    Args:
        puzzles: of each length at most.
        batch: puzzles of a pass.
        device: where the model is.

    Example, with ``model`` a Transformer over bytes and ``ctx`` its context:
        >>> from isoflop.data.tasks.prefix_parity import PrefixParityPart
        >>> from isoflop.data.tokenizers.bytes import Bytes
        >>> from isoflop.objectives.losses.next_token import NextTokenPart
        >>> asked = tuple(Puzzle(text, ((3, 4),), "2") for text in ("01=1", "11=0"))
        >>> held = {"2": PuzzleText(PrefixParityPart(), asked, Bytes(), "none", None)}
        >>> subject = Subject(model, NextTokenPart().build(ctx), ctx)
        >>> found = AccuracyByLength(puzzles=100, batch=8, device="cpu").measure(subject, held, Rng(0))
        >>> list(found.domains), found.n
        (['2'], 2)
    """

    def __init__(self, puzzles: int, batch: int, device: str) -> None:
        self.puzzles, self.batch, self.device = puzzles, batch, device

    @torch.no_grad()
    def measure(self, subject: Subject, data: Mapping[str, HeldOut], rng: Rng) -> Measurement:
        """Measure each length of the puzzles of all levels; the mean weighs lengths by their puzzles."""
        objective = subject.objective
        assert isinstance(objective, Predicts), "the recipe has checked that the objective is one"
        return over_domains(self._by_length(data), rng, lambda heldout, own: self._length(objective, heldout, own))

    def _by_length(self, data: Mapping[str, HeldOut]) -> dict[str, HeldOut]:
        """The puzzles of all levels by their length, the shortest first."""
        found: dict[int, list[tuple[PuzzleText, Puzzle]]] = {}
        for level in data.values():
            assert isinstance(level, PuzzleText), "the recipe has checked that the source poses puzzles"
            for puzzle in level.puzzles:
                found.setdefault(level.task.length_of(puzzle), []).append((level, puzzle))
        return {
            str(size): replace(own[0][0], puzzles=tuple(puzzle for _, puzzle in own[: self.puzzles]))
            for size, own in sorted(found.items(), key=lambda each: each[0])
        }

    def _length(self, objective: Predicts, heldout: HeldOut, rng: Rng) -> Measurement:
        hits, cost = list[float](), Cost()
        for number, rows in enumerate(heldout.windows(1, self.batch)):
            batch = rows.to(self.device).drawing(Draws(rng, number))
            guess = objective.predict(batch)
            wrong = guess.ids != batch.targets
            hits += (~(wrong if batch.mask is None else wrong & batch.mask).any(-1)).tolist()
            cost += sum(guess.spent.values(), Cost())
        return Measurement(sum(hits) / len(hits), ratio_error(hits, [1.0] * len(hits)), len(hits), cost=cost)


@part
class AccuracyByLengthPart(MetricPart):
    """Share of held-out puzzles that are answered rightly, for each length of them and in the mean.

    What a run keeps of it names lengths, in the task's own count: ``domains`` is ``{"16": 1.0, "64": 0.52}``, the
    shortest first, and the report draws it. Its cost grows with the lengths that are asked, and is on the bill.

    Example, with ``ctx`` a context:
        >>> AccuracyByLengthPart(puzzles=50).build(ctx).puzzles, AccuracyByLengthPart.higher_is_better
        (50, True)
    """

    puzzles: PositiveInt = 200
    """Puzzles of each length at most."""
    batch: PositiveInt = 32
    """Puzzles of a pass; does not change the value beyond ties."""
    card = Card(
        summary="Share of held-out puzzles whose answers are all the likeliest ones, by length.",
        equation="accuracy(n) = mean over puzzles of length n of [every answer's token is argmax_v p(v | before it)]",
        differs="answers are predicted from what truly stands before them: a greedy decoder's solve rate where one "
        "answer is right; where several are, use solved",
        cost="one forward pass over each puzzle",
    )
    unit: ClassVar[str] = "of puzzles right"
    higher_is_better: ClassVar[bool] = True
    counts: ClassVar[str] = "puzzles"
    needs: ClassVar[dict[str, frozenset[type]]] = {
        "source": frozenset({PosesPuzzles}),
        "objective": frozenset({Predicts}),
    }

    def build(self, ctx: Context) -> AccuracyByLength:
        return AccuracyByLength(self.puzzles, self.batch, ctx.device)

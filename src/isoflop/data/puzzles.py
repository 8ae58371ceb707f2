"""Puzzles as rows of token ids: made once, kept in the cache, and read as batches.

A row is one puzzle: what it shows is seen and not predicted, what its holes hold is predicted. Rows are filled up with
end-of-text ids. How many of those are predicted is ``Ends``; where not all are, the rest is padding of which the column
``documents`` says that it is no part of the puzzle.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..core.context import Context
from ..core.contracts import HeldOut, Puzzle, TaskPart, TokenBatch, Tokenizer
from ..core.digests import digest
from ..core.errors import DataError
from ..core.files import publish_directory
from ..core.rng import Rng
from .loader import EpochBatches, as_batch
from .tokenizing import Ids

Ends = Literal["none", "one", "all"]
"""Ends of text that are predicted behind a puzzle: none, one, or as many as there is room for."""
FORMAT = 1
"""Part of every key: rises when the same task would give other puzzles."""
_TRIES = 20
"""Puzzles that are drawn at most for each one that is wanted."""


@dataclass(frozen=True)
class Sides:
    """The puzzles of a source.

    Args:
        train: for training.
        heldout: for evaluation, by level.

    Example:
        >>> Sides(train=(Puzzle("1+1=2", ((4, 5),), "easy"),), heldout={}).train[0].answers
        ('2',)
    """

    train: tuple[Puzzle, ...]
    heldout: dict[str, tuple[Puzzle, ...]]


def puzzles(task: TaskPart, *, examples: int, variants: int, heldout: int, levels: Sequence[str], seed: int) -> Sides:
    """Draw puzzles: the held-out ones first, so that more training puzzles change none of them.

    Args:
        task: whose puzzles.
        examples: for training, variants counted.
        variants: of each puzzle that is drawn for training.
        heldout: of each level that the task asks; fewer where one is very rare.
        levels: those that training puzzles may have.
        seed: of the draws.

    Raises:
        DataError: too few puzzles of these levels come up.

    Example:
        >>> from isoflop.data.tasks.brackets import BracketsPart
        >>> sides = puzzles(BracketsPart(), examples=5, variants=1, heldout=2, levels=("short", "long"), seed=0)
        >>> len(sides.train), {level: len(found) for level, found in sides.heldout.items()}
        (5, {'short': 2, 'long': 2})
    """
    rng = Rng(seed)("task")
    held: dict[str, dict[Any, Puzzle]] = {level: {} for level in task.asked}
    for number in range(_TRIES * heldout * len(held)):
        if all(len(found) == heldout for found in held.values()):
            break
        puzzle = task.draw(rng("heldout").at(number))
        found = held.get(puzzle.level)
        if found is not None and len(found) < heldout:
            found.setdefault(task.origin(puzzle) or number, puzzle)  # where all is hidden, no two puzzles are the same
    known = {key for found in held.values() for key in found}
    train: list[Puzzle] = []
    for number in range(_TRIES * examples):
        if len(train) >= examples:
            break
        generator = rng("train").at(number)
        puzzle = task.draw(generator)
        if puzzle.level in levels:
            forms = [puzzle, *(task.variant(puzzle, generator) for _ in range(variants - 1))]
            train += [form for form in forms if task.origin(form) not in known]
    if len(train) < examples:
        what = f"{examples:,} training puzzles do not come up, only {len(train):,} beside the {len(known):,} held out"
        fix = "lower source.examples or source.heldout, or ask for other levels"
        raise DataError(f"{what} (levels: {', '.join(levels)})", where="source.task", fix=fix)
    return Sides(tuple(train[:examples]), {level: tuple(found.values()) for level, found in held.items() if found})


def kept(cache: Path, key: Any, make: Any) -> Sides:
    """What ``make()`` gives, from the cache if it is there.

    Args:
        cache: directory of derived data.
        key: JSON that tells these puzzles from all others.
        make: makes them.
    """
    directory = cache / f"puzzles-{digest([FORMAT, key])[:32]}"
    if not directory.is_dir():
        sides: Sides = make()
        lines = [["", *_line(puzzle)] for puzzle in sides.train]
        lines += [[level, *_line(puzzle)] for level, found in sides.heldout.items() for puzzle in found]
        with publish_directory(directory) as partial:
            (partial / "puzzles.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    train: list[Puzzle] = []
    heldout: dict[str, list[Puzzle]] = {}
    with (directory / "puzzles.jsonl").open(encoding="utf-8") as file:
        for line in file:
            level, text, holes, own = json.loads(line)
            side = heldout.setdefault(level, []) if level else train
            side.append(Puzzle(text, tuple((start, end) for start, end in holes), own))
    return Sides(tuple(train), {level: tuple(found) for level, found in heldout.items()})


def _line(puzzle: Puzzle) -> list[Any]:
    return [puzzle.text, puzzle.holes, puzzle.level]


@dataclass(frozen=True)
class Rows:
    """Puzzles as rows of ids.

    Args:
        ids: int64 (n, length), filled up with ends of text.
        counts: bool (n, length), what is predicted.
        sizes: int64 (n,), ids of each puzzle, the ends that are predicted included.
        text_bytes: int64 (n,), UTF-8 bytes of what is predicted of each.
        eot: the end of text.

    Example:
        >>> from isoflop.data.tokenizers.symbols import Symbols
        >>> rows = Rows.of([Puzzle("1+1=2", ((4, 5),), "easy")], Symbols("12+="), length=6)
        >>> rows.ids.tolist(), rows.counts.astype(int).tolist()
        ([[0, 2, 0, 3, 1, 4]], [[0, 0, 0, 0, 1, 1]])
    """

    ids: Ids
    counts: npt.NDArray[np.bool_]
    sizes: Ids
    text_bytes: Ids
    eot: int

    @classmethod
    def of(
        cls, found: Sequence[Puzzle], tokenizer: Tokenizer, length: int, ends: Ends = "one", slots: int | None = None
    ) -> Rows:
        """Lay out puzzles.

        Args:
            found: the puzzles.
            tokenizer: of their texts; pieces that are shown and pieces that are hidden are encoded apart.
            length: ids of a row.
            ends: ends of text that are predicted behind each.
            slots: ids that each hole is filled up to, with ends of text; None: as many as it holds.

        Raises:
            DataError: a puzzle is longer than a row, or a hole than its slots.
        """
        ids = np.full((len(found), length), tokenizer.eot, np.int64)
        counts, sizes = np.zeros((len(found), length), np.bool_), np.zeros(len(found), np.int64)
        for row, puzzle in enumerate(found):
            place = 0
            for piece, hidden in pieces(puzzle, tokenizer, slots):
                end = place + len(piece)
                if end > length:
                    break
                ids[row, place:end], counts[row, place:end], place = piece, hidden, end
            wanted = place + (ends == "one")
            if end > length or wanted > length:
                what = f"a puzzle takes {max(end, wanted)} tokens, and a row has {length}"
                raise DataError(what, where="train.length", fix="make it longer")
            sizes[row] = length if ends == "all" else wanted
            counts[row, place : sizes[row]] = True
        sized = np.array([sum(len(answer.encode()) for answer in puzzle.answers) for puzzle in found], np.int64)
        return cls(ids, counts, sizes, sized, tokenizer.eot)

    def batch(self, rows: Sequence[int] | slice, byte_lengths: Ids, device: str) -> TokenBatch:
        """Some rows as a batch; each follows an end of text."""
        targets, counts, sizes = self.ids[rows], self.counts[rows], self.sizes[rows]
        inputs = np.concatenate([np.full((len(targets), 1), self.eot, np.int64), targets[:, :-1]], 1)
        padded = (sizes < targets.shape[1]).any()
        documents = (np.arange(targets.shape[1]) < sizes[:, None]).astype(np.int64) if padded else None
        return as_batch(inputs, targets, byte_lengths, device, counts, documents)


def pieces(puzzle: Puzzle, tokenizer: Tokenizer, slots: int | None) -> Iterator[tuple[Ids, bool]]:
    """The ids of what is shown and of what is hidden, in turn, each with whether it is hidden."""
    for shown, answer in zip(puzzle.question, (*puzzle.answers, None), strict=True):
        yield tokenizer.encode(shown), False
        if answer is not None:
            held = tokenizer.encode(answer)
            if slots is not None and len(held) > slots:
                what = f"a hole holds {len(held)} tokens, and has {slots} slots"
                raise DataError(what, where="source.slots", fix="give it more")
            yield np.append(held, [tokenizer.eot] * (slots - len(held))) if slots is not None else held, True


class PuzzleBatches(EpochBatches):
    """An endless stream of batches of puzzles; see ``EpochBatches`` for their order.

    Args:
        rows: the puzzles.
        byte_lengths: UTF-8 bytes of each id (vocab_size,).
        batch: puzzles of a batch.
        rng: the stream of their order.
        fingerprint: of the puzzles; a position among others is refused.
        device: where batches lie.

    Example:
        >>> from isoflop.data.tokenizers.symbols import Symbols
        >>> rows = Rows.of([Puzzle("1+1=2", ((4, 5),), "easy")], Symbols("12+="), length=6)
        >>> batches = PuzzleBatches(rows, Symbols("12+=").byte_lengths, batch=2, rng=Rng(0), fingerprint="")
        >>> next(batches).units
        4
    """

    def __init__(
        self, rows: Rows, byte_lengths: Ids, *, batch: int, rng: Rng, fingerprint: str, device: str = "cpu"
    ) -> None:
        super().__init__(len(rows.ids), batch=batch, length=rows.ids.shape[1], rng=rng, fingerprint=fingerprint)
        self._rows, self._byte_lengths, self._device = rows, byte_lengths, device

    def _batch_of(self, windows: list[int]) -> TokenBatch:
        return self._rows.batch(windows, self._byte_lengths, self._device)


@dataclass
class PuzzleText:
    """Held-out puzzles of one level; see ``core.contracts.HeldOut`` and ``HeldOutPuzzles``.

    Attributes:
        task: what they are of.
        puzzles: in order.
        tokenizer: of their texts.
        ends: ends of text that are predicted behind each.
        slots: ids that each hole is filled up to.
        device: where batches lie.

    Example:
        >>> from isoflop.data.tasks.addition import AdditionPart
        >>> from isoflop.data.tokenizers.symbols import Symbols
        >>> asked = (Puzzle("1+1=02", ((4, 6),), "easy"),)
        >>> level = PuzzleText(AdditionPart(digits=1), asked, Symbols("012+="), "none", None)
        >>> next(level.templates()), level.text_bytes
        ([1, 3, 1, 4, None, None], 2)
    """

    task: TaskPart
    puzzles: tuple[Puzzle, ...]
    tokenizer: Tokenizer
    ends: Ends
    slots: int | None
    device: str = "cpu"
    text_bytes: int = field(init=False)
    """UTF-8 bytes of what is predicted."""

    def __post_init__(self) -> None:
        self.text_bytes = sum(len(answer.encode()) for puzzle in self.puzzles for answer in puzzle.answers)

    @property
    def documents(self) -> int:
        return len(self.puzzles)

    def windows(self, length: int, batch: int) -> Iterator[TokenBatch]:
        """Batches of up to ``batch`` puzzles in order, a puzzle a row; rows are longer where a puzzle takes more."""
        rows = Rows.of(self.puzzles, self.tokenizer, max(length, self._room()), self.ends, self.slots)
        for start in range(0, len(self.puzzles), batch):
            yield rows.batch(slice(start, start + batch), self.tokenizer.byte_lengths, self.device)

    def _room(self) -> int:
        """Tokens of the longest puzzle, with the end that is predicted behind it."""
        return max(map(len, self.templates()), default=0) + (self.ends == "one")

    def templates(self, most: int | None = None) -> Iterator[list[int | None]]:
        """Each puzzle's ids with None where a token is to be filled in.

        Args:
            most: so many in each hole of a task that does not tell how long answers are, and one behind the text where
                an end of it is predicted; None: as many as a hole is given.
        """
        room = None if self.task.fixed else most
        for puzzle in self.puzzles:
            found = list[int | None]()
            for piece, hidden in pieces(puzzle, self.tokenizer, self.slots):
                found += [None] * (len(piece) if room is None else room) if hidden else map(int, piece)
            yield [*found, None] if room is not None and self.ends != "none" else found


class PuzzleSource:
    """A live source of puzzles: see ``core.contracts.Source``.

    Args:
        task: what they are of.
        sides: the puzzles.
        ctx: what it is built with.
        ends: ends of text that are predicted behind each.
        slots: ids that each hole is filled up to.
        identity: JSON of all that the puzzles depend on.

    Example:
        >>> from isoflop.core.registry import get
        >>> tokenizer = get("tokenizer", "symbols")(symbols="0123456789+=")
        >>> ctx = Context(Rng(0), Path("cache"), tokenizer, vocab_size=13, batch=2, length=9)
        >>> source = get("source", "task")(task=get("task", "addition")(digits=2), examples=4, heldout=1).build(ctx)
        >>> next(source.batches(ctx)).inputs.shape, list(source.heldout())
        (torch.Size([2, 9]), ['easy', 'hard'])
    """

    def __init__(
        self, task: TaskPart, sides: Sides, ctx: Context, *, ends: Ends, slots: int | None, identity: Any
    ) -> None:
        self.task, self.tokenizer = task, ctx.tokenizer.build(iter(()))
        self._sides, self._ends, self._slots, self._device = sides, ends, slots, ctx.device
        self.fingerprint = digest([FORMAT, identity, ctx.tokenizer.model_dump(mode="json")])

    def batches(self, ctx: Context) -> PuzzleBatches:
        """Training batches of ``ctx.batch`` puzzles in rows of ``ctx.length`` ids, in the order of ctx.rng("data")."""
        return PuzzleBatches(
            Rows.of(self._sides.train, self.tokenizer, ctx.length, self._ends, self._slots),
            self.tokenizer.byte_lengths,
            batch=ctx.batch,
            rng=ctx.rng("data"),
            fingerprint=self.fingerprint,
            device=ctx.device,
        )

    def heldout(self) -> Mapping[str, HeldOut]:
        """Held-out puzzles by level."""
        return {
            level: PuzzleText(self.task, found, self.tokenizer, self._ends, self._slots, self._device)
            for level, found in self._sides.heldout.items()
        }

    def heldout_digest(self) -> str:
        """SHA-256 over the held-out puzzles."""
        return digest({level: [_line(puzzle) for puzzle in found] for level, found in self._sides.heldout.items()})

    def describe(self) -> dict[str, Any]:
        """JSON for the report: fingerprint, puzzles and bytes by split and level."""
        levels = {puzzle.level: 0 for puzzle in self._sides.train}
        for puzzle in self._sides.train:
            levels[puzzle.level] += 1
        held = {level: len(found) for level, found in self._sides.heldout.items()}
        return {"fingerprint": self.fingerprint, "puzzles": {"train": levels, "heldout": held}}

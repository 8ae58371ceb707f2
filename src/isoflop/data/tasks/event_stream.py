"""Streams of events whose rates drift: what comes next is told by how often each event came lately, by nothing else."""

from __future__ import annotations

import string
from collections.abc import Iterator
from typing import Annotated, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field, NonNegativeInt, PositiveFloat, model_validator

from ...core.contracts import Puzzle, TaskPart
from ...core.registry import Card, part

ALPHABET = string.ascii_lowercase + string.ascii_uppercase
Floats = npt.NDArray[np.float64]


@part
class EventStreamPart(TaskPart):
    """Letters that stand for events; each makes itself likelier, and time lets that fade.

    Use it where counts matter and not only what occurred: a model must weigh each event by how often it came and how
    long ago. How fast weights fade differs between streams, and is not told. Every continuation is possible, so nothing
    is solved: what a model leaves unlearnt is its loss less the oracle's (``bits``).

    Example:
        >>> task = EventStreamPart(letters=3, events=4, shown=2)
        >>> puzzle = Puzzle("aabc", ((2, 4),), "half-life 7")
        >>> task.solve(puzzle), round(task.bits(puzzle), 2)
        ('aaaa', 11.31)
    """

    letters: Annotated[int, Field(ge=2, le=len(ALPHABET))] = 26
    """Kinds of events."""
    events: Annotated[int, Field(ge=2, le=100_000)] = 128
    """Events of a stream."""
    shown: NonNegativeInt = 0
    """Events at its beginning that are shown and not predicted."""
    half_lives: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (7.0, 23.0, 69.0)
    """Events after which the weight that an event gave has halved; a stream has one of them, each equally often."""
    novelty: PositiveFloat = 0.05
    """Weight that every letter has at all times, where an event that just came gives 1."""
    card = Card(
        summary="Streams of events whose rates drift, with an oracle that knows the law",
        paper="the synthetic streams of Zhai et al. 2024, arXiv 2402.17152; urns: Blackwell & MacQueen 1973",
        equation="p(x_t = a | before) ~ novelty + sum_{s < t} [x_s = a] 2^-((t - 1 - s) / half-life)",
        differs="an urn of few kinds that forgets, where theirs is a Dirichlet process over a vocabulary that grows",
        cost="a millisecond a stream",
    )
    fixed: ClassVar[bool] = True

    @model_validator(mode="after")
    def _possible(self) -> EventStreamPart:
        if self.shown >= self.events:
            raise ValueError(f"shown={self.shown} leaves none of the {self.events} events to be predicted")
        if len(set(self.levels)) < len(self.half_lives):
            raise ValueError(f"half_lives {self.half_lives} are not apart")
        return self

    @property
    def symbols(self) -> str:
        return ALPHABET[: self.letters]

    @property
    def longest(self) -> int:
        return self.events

    @property
    def levels(self) -> tuple[str, ...]:
        return tuple(f"half-life {half:g}" for half in self.half_lives)

    def draw(self, generator: np.random.Generator) -> Puzzle:
        which = int(generator.integers(len(self.half_lives)))
        weights, made = np.zeros(self.letters), list[int]()
        fading = 0.5 ** (1 / self.half_lives[which])
        for share in generator.random(self.events).tolist():
            edges = (weights + self.novelty).cumsum()
            made.append(min(int(edges.searchsorted(share * edges[-1], "right")), self.letters - 1))
            weights *= fading
            weights[made[-1]] += 1.0
        return Puzzle("".join(ALPHABET[letter] for letter in made), ((self.shown, self.events),), self.levels[which])

    def right(self, puzzle: Puzzle, text: str) -> bool:
        """Whether a text is a continuation at all."""
        return len(text) == self.events and puzzle.keeps(text) and set(text) <= set(self.symbols)

    def solve(self, puzzle: Puzzle) -> str | None:
        """What is shown, gone on with by the likeliest event each time."""
        text = puzzle.question[0]
        urn = self._after(text)
        while len(text) < self.events:
            letter = int(np.argmax(urn.law))
            text += ALPHABET[letter]
            urn.add(letter)
        return text

    def bits(self, puzzle: Puzzle) -> float:
        """-log2 of the probability of what a stream hides, given what it shows, of whom nobody tells the half-life.

        No model's expected loss is lower. Divided by the hidden events it is in bits per byte.
        """
        urn, found = self._after(puzzle.question[0]), 0.0
        for letter in self._letters(puzzle.answers[0]):
            found -= float(np.log2(urn.law[letter]))
            urn.add(letter)
        return found

    def _after(self, text: str) -> Urn:
        urn = Urn(self.letters, self.half_lives, self.novelty)
        for letter in self._letters(text):
            urn.add(letter)
        return urn

    def _letters(self, text: str) -> Iterator[int]:
        return (ALPHABET.index(character) for character in text)


class Urn:
    """What comes next after some events, for each half-life that may be, and how likely each of those is.

    Args:
        letters: kinds of events.
        half_lives: that may be, each equally likely before any event.
        novelty: weight that every kind has at all times.

    Attributes:
        laws: (half-lives, letters), rows sum to 1.
        beliefs: (half-lives,), posterior; sum 1.

    Example:
        >>> urn = Urn(2, (1.0,), novelty=0.5)
        >>> urn.add(0)
        >>> urn.law.tolist()
        [0.75, 0.25]
    """

    def __init__(self, letters: int, half_lives: tuple[float, ...], novelty: float) -> None:
        self.novelty = novelty
        self._fading: Floats = 0.5 ** (1 / np.array(half_lives))[:, None]
        self._counts: Floats = np.zeros((len(half_lives), letters))
        self.beliefs: Floats = np.full(len(half_lives), 1 / len(half_lives))

    @property
    def laws(self) -> Floats:
        weights: Floats = self._counts + self.novelty
        weights /= weights.sum(1, keepdims=True)
        return weights

    @property
    def law(self) -> Floats:
        """(letters,): the mean over half-lives by how likely they are."""
        return self.beliefs @ self.laws

    def add(self, letter: int) -> None:
        """An event came."""
        if len(self.beliefs) > 1:
            self.beliefs = self.beliefs * self.laws[:, letter]
            self.beliefs /= self.beliefs.sum()
        self._counts *= self._fading
        self._counts[:, letter] += 1.0

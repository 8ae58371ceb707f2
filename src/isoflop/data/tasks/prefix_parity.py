"""Parity of words of bits, or of each of their prefixes: taught at some lengths, asked at others."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from ...core.contracts import Puzzle, TaskPart
from ...core.registry import Card, part

Bits = Annotated[int, Field(ge=1, le=100_000)]
TAUGHT = "taught"
"""The level of training puzzles; every other level is a length."""


@part
class PrefixParityPart(TaskPart):
    """Whether a word of bits holds an odd number of ones: ``0110=0``, ``0111=1``.

    Each prefix's parity follows from the one before by one bit, so that a model which goes through the word solves any
    length, and one which does not must learn each. Hence words of some lengths are trained on, and held-out words have
    others: each length is a level of its own, which ``accuracy_by_length`` measures.

    Example:
        >>> task = PrefixParityPart(lengths=(1, 4), evaluate=(8,))
        >>> task.levels, task.taught, task.asked
        (('taught', '8'), ('taught',), ('8',))
        >>> task.solve(Puzzle("0111=?", ((5, 6),), "taught"))
        '0111=1'
        >>> PrefixParityPart(layout="running").solve(Puzzle("0?1?1?", ((1, 2), (3, 4), (5, 6)), "taught"))
        '001110'
    """

    lengths: tuple[Bits, Bits] = (1, 32)
    """The fewest and the most bits of a training word. Each doubling comes equally often: as many words of 1 bit as
    of 2 or 3, of 4 to 7, and so on, since short words are what the rule is found by."""
    evaluate: Annotated[tuple[Bits, ...], Field(min_length=1)] = (16, 32, 64, 128, 256)
    """Bits of held-out words, ascending; as many words of each, none of which is trained on."""
    layout: Literal["last", "running"] = "last"
    """"last": the word, "=", and its parity. "running": each bit, and behind it the parity so far; the next one is then
    a single step away, whatever the length: the same task with its steps written out."""
    card = Card(
        summary="Parity of a word of bits, or of all its prefixes; lengths to train on, and others to be asked",
        paper="Schwarzschild et al. 2021, arXiv 2106.04537; Goel et al. 2022, arXiv 2209.00735",
        equation="y_n = x_1 xor ... xor x_n = y_{n-1} xor x_n",
        differs="a word in a row of text, and not its prefixes' parities at its own positions",
        cost="microseconds a word",
    )

    @model_validator(mode="after")
    def _ordered(self) -> PrefixParityPart:
        if self.lengths[0] > self.lengths[1]:
            raise ValueError(f"lengths {self.lengths} are no range")
        if any(a >= b for a, b in pairwise(self.evaluate)):
            raise ValueError(f"evaluate {self.evaluate} must ascend")
        return self

    @property
    def symbols(self) -> str:
        return "01=" if self.layout == "last" else "01"

    @property
    def longest(self) -> int:
        return self._characters(max(self.lengths[1], self.evaluate[-1]))

    @property
    def longest_taught(self) -> int:
        return self._characters(self.lengths[1])

    @property
    def levels(self) -> tuple[str, ...]:
        return (TAUGHT, *map(str, self.evaluate))

    @property
    def taught(self) -> tuple[str, ...]:
        return (TAUGHT,)

    @property
    def asked(self) -> tuple[str, ...]:
        return self.levels[1:]

    def draw(self, generator: np.random.Generator) -> Puzzle:
        """A training word in half of all cases, else one that is asked."""
        place = int(generator.integers(2 * len(self.evaluate)))
        asked = place < len(self.evaluate)
        length = self.evaluate[place] if asked else self._taught(generator.random())
        bits = "".join(map(str, generator.integers(0, 2, length).tolist()))
        level = str(length) if asked else TAUGHT
        if self.layout == "last":
            return Puzzle(_last(bits), ((length + 1, length + 2),), level)
        return Puzzle(_running(bits), tuple((2 * i + 1, 2 * i + 2) for i in range(length)), level)

    def right(self, puzzle: Puzzle, text: str) -> bool:
        return text == self.solve(puzzle)

    def solve(self, puzzle: Puzzle) -> str | None:
        shown = "".join(puzzle.question)
        return _last(shown.rstrip("=")) if self.layout == "last" else _running(shown)

    def length_of(self, puzzle: Puzzle) -> int:
        """Bits of the word."""
        return len("".join(puzzle.question).rstrip("="))

    def _taught(self, share: float) -> int:
        """Bits of a training word, where ``share`` in [0, 1) of all words is shorter."""
        low, high = self.lengths
        return min(high, int(low * ((high + 1) / low) ** share))

    def _characters(self, bits: int) -> int:
        return bits + 2 if self.layout == "last" else 2 * bits


def _last(bits: str) -> str:
    return f"{bits}={bits.count('1') % 2}"


def _running(bits: str) -> str:
    return "".join(f"{bit}{bits.count('1', 0, i + 1) % 2}" for i, bit in enumerate(bits))

"""Brackets: balanced words of several kinds of brackets, of random length."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field, model_validator

from ...core.contracts import Puzzle, TaskPart
from ...core.registry import Card, part

PAIRS = ("()", "[]", "{}", "<>")


@part
class BracketsPart(TaskPart):
    """Balanced words, uniform among those of one length; the whole word is to be written.

    Use it where the length is part of what must be learned: ``pairs`` says how the number of pairs is distributed, and
    the metric ``length_distance`` how far a model's lengths are from that.

    Example:
        >>> task = BracketsPart(kinds=1, pairs=(2, 2))
        >>> sorted({task.draw(np.random.default_rng(i)).text for i in range(20)})
        ['(())', '()()']
    """

    kinds: Annotated[int, Field(ge=1, le=len(PAIRS))] = 2
    """Kinds of brackets."""
    pairs: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1, le=500)]] = (1, 16)
    """The fewest and the most pairs of a word, each number equally often."""
    card = Card(
        summary="Balanced brackets of random length: a grammar whose words can be checked",
        paper="for variable length: Kim et al. 2025, FlexMDM; drawing: the cycle lemma, Dvoretzky & Motzkin 1947",
        equation="S -> (S)S | [S]S | nothing",
        cost="microseconds a word",
    )

    @model_validator(mode="after")
    def _ordered(self) -> BracketsPart:
        if self.pairs[0] > self.pairs[1]:
            raise ValueError(f"pairs {self.pairs} are no range")
        return self

    @property
    def symbols(self) -> str:
        return "".join(PAIRS[: self.kinds])

    @property
    def longest(self) -> int:
        return 2 * self.pairs[1]

    @property
    def levels(self) -> tuple[str, ...]:
        return ("short", "long")

    def draw(self, generator: np.random.Generator) -> Puzzle:
        count = int(generator.integers(self.pairs[0], self.pairs[1] + 1))
        text, opened = "", list[str]()
        for step in _balanced(count, generator):
            if step > 0:
                pair = PAIRS[int(generator.integers(self.kinds))]
                text, opened = text + pair[0], [*opened, pair[1]]
            else:
                text += opened.pop()
        return Puzzle(text, ((0, len(text)),), "long" if 2 * count > sum(self.pairs) else "short")

    def right(self, puzzle: Puzzle, text: str) -> bool:
        """Whether a word is balanced, whatever its length is."""
        opened: list[str] = []
        for character in text:
            pair = next((pair for pair in PAIRS[: self.kinds] if character in pair), None)
            if pair is None:
                return False
            if character == pair[0]:
                opened.append(pair[1])
            elif not opened or opened.pop() != character:
                return False
        return bool(text) and not opened

    def solve(self, puzzle: Puzzle) -> str | None:
        return PAIRS[0] * ((puzzle.holes[0][1] - puzzle.holes[0][0]) // 2)


def _balanced(pairs: int, generator: np.random.Generator) -> list[int]:
    """Steps +1 and -1 of a uniformly random balanced word.

    Of the rotations of pairs ups and pairs + 1 downs, exactly one first falls below zero at its very end: it begins
    behind the place at which the sums are lowest for the first time.
    """
    steps = generator.permutation(np.repeat([1, -1], [pairs, pairs + 1]))
    start = int(np.argmin(np.cumsum(steps))) + 1
    return np.roll(steps, -start)[:-1].tolist()  # type: ignore[no-any-return]

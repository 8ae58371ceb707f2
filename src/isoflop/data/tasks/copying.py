"""Copying: a word again, as it is, from its end, or sorted."""

from __future__ import annotations

import string
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from ...core.contracts import Puzzle, TaskPart
from ...core.registry import Card, part


@part
class CopyingPart(TaskPart):
    """A word of random letters and the same letters again: ``dab>dab``.

    Use it to see how far a model reaches beyond the lengths that it was trained on: longer words are a level of their
    own.

    Example:
        >>> CopyingPart(order="sorted").solve(Puzzle("dab>...", ((4, 7),), "short"))
        'dab>abd'
    """

    letters: Annotated[int, Field(ge=2, le=26)] = 26
    """That words are made of."""
    length: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1, le=1000)]] = (1, 20)
    """The shortest and the longest word, each length equally often."""
    order: Literal["same", "reversed", "sorted"] = "same"
    """Of the letters where they come again."""
    card = Card(
        summary="A word of random letters, copied, reversed or sorted",
        paper="copying and lengths: Jelassi et al. 2024, arXiv 2402.01032",
        equation="w > w",
        cost="microseconds a puzzle",
    )

    @model_validator(mode="after")
    def _ordered(self) -> CopyingPart:
        if self.length[0] > self.length[1]:
            raise ValueError(f"length {self.length} is no range")
        return self

    @property
    def symbols(self) -> str:
        return string.ascii_lowercase[: self.letters] + ">"

    @property
    def longest(self) -> int:
        return 2 * self.length[1] + 1

    @property
    def levels(self) -> tuple[str, ...]:
        return ("short", "long")

    def draw(self, generator: np.random.Generator) -> Puzzle:
        count = int(generator.integers(self.length[0], self.length[1] + 1))
        word = "".join(string.ascii_lowercase[i] for i in generator.integers(0, self.letters, count).tolist())
        level = "long" if 2 * count > sum(self.length) else "short"
        return Puzzle(self._written(word), ((count + 1, 2 * count + 1),), level)

    def right(self, puzzle: Puzzle, text: str) -> bool:
        return text == self.solve(puzzle)

    def solve(self, puzzle: Puzzle) -> str | None:
        return self._written(puzzle.question[0][:-1])

    def _written(self, word: str) -> str:
        again = {"same": word, "reversed": word[::-1], "sorted": "".join(sorted(word))}[self.order]
        return f"{word}>{again}"

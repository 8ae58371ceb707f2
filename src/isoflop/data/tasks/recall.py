"""Associative recall: pairs of a letter and a digit, and the digit of a letter that is asked for."""

from __future__ import annotations

import string
from typing import Annotated

import numpy as np
from pydantic import Field, model_validator

from ...core.contracts import Puzzle, TaskPart
from ...core.registry import Card, part


@part
class RecallPart(TaskPart):
    """Letters with a digit each, then one of them again: ``k3b7x1?b7``.

    Use it to compare mixers by how much they can hold: more pairs are harder, whatever the model's size.

    Example:
        >>> RecallPart().solve(Puzzle("k3b7x1?b.", ((8, 9),), "few"))
        'k3b7x1?b7'
    """

    pairs: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1, le=26)]] = (4, 16)
    """The fewest and the most pairs, each number equally often; no letter comes twice."""
    card = Card(
        summary="Pairs of a letter and a digit, of which one is asked for",
        paper="Ba et al. 2016, arXiv 1610.06258; for mixers: Arora et al. 2023, arXiv 2312.04927",
        equation="k1 v1 ... kn vn ? ki -> vi",
        cost="microseconds a puzzle",
    )

    @model_validator(mode="after")
    def _ordered(self) -> RecallPart:
        if self.pairs[0] > self.pairs[1]:
            raise ValueError(f"pairs {self.pairs} are no range")
        return self

    @property
    def symbols(self) -> str:
        return string.ascii_lowercase + string.digits + "?"

    @property
    def longest(self) -> int:
        return 2 * self.pairs[1] + 3

    @property
    def levels(self) -> tuple[str, ...]:
        return ("few", "many")

    def draw(self, generator: np.random.Generator) -> Puzzle:
        count = int(generator.integers(self.pairs[0], self.pairs[1] + 1))
        letters = [string.ascii_lowercase[i] for i in generator.permutation(26)[:count].tolist()]
        digits = list(map(str, generator.integers(0, 10, count).tolist()))
        asked = int(generator.integers(count))
        text = "".join(map("".join, zip(letters, digits, strict=True))) + f"?{letters[asked]}{digits[asked]}"
        return Puzzle(text, ((len(text) - 1, len(text)),), "many" if 2 * count > sum(self.pairs) else "few")

    def right(self, puzzle: Puzzle, text: str) -> bool:
        return text == self.solve(puzzle)

    def solve(self, puzzle: Puzzle) -> str | None:
        shown = puzzle.question[0]
        return shown + shown[shown.index(shown[-1]) + 1]

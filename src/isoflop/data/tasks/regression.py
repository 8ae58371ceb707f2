"""Regression in context: a linear function modulo a prime, which only the examples of a text tell."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from ...core.contracts import Puzzle, TaskPart
from ...core.registry import Card, part

Numbers = npt.NDArray[np.int64]


@part
class RegressionPart(TaskPart):
    """Examples of a function that is another one in every text, and one more to work out: ``31:5 20:4 11:3``.

    The examples always determine the answer; how many more there are than unknowns is the slack that a model has.

    Example:
        >>> RegressionPart(inputs_each=2, examples=2, prime=7).solve(Puzzle("31:5 20:4 11:.", ((13, 14),), "all"))
        '31:5 20:4 11:1'
    """

    inputs_each: Annotated[int, Field(ge=1, le=9)] = 2
    """Numbers of an example: the function's unknowns."""
    examples: Annotated[int, Field(ge=1, le=200)] = 6
    """That are shown."""
    prime: Literal[2, 3, 5, 7] = 7
    """All numbers are below it."""
    card = Card(
        summary="A linear function modulo a prime, learned from the examples of a text",
        paper="with reals: Garg et al. 2022, arXiv 2208.01066",
        equation="y = w . x mod p, w new in every text",
        differs="digits modulo a prime instead of reals, so that an answer is right or wrong",
        cost="some tens of microseconds a puzzle",
    )

    @model_validator(mode="after")
    def _enough(self) -> RegressionPart:
        if self.examples < self.inputs_each:
            raise ValueError(f"{self.examples} examples cannot tell {self.inputs_each} unknowns")
        return self

    @property
    def symbols(self) -> str:
        return "0123456"[: self.prime] + ": "

    @property
    def longest(self) -> int:
        return (self.inputs_each + 3) * (self.examples + 1) - 1

    @property
    def levels(self) -> tuple[str, ...]:
        return ("all",)

    def draw(self, generator: np.random.Generator) -> Puzzle:
        weights = generator.integers(0, self.prime, self.inputs_each)
        while True:
            x = generator.integers(0, self.prime, (self.examples + 1, self.inputs_each))
            rows = np.column_stack([x, x @ weights % self.prime])
            if solved(rows[:-1], self.prime) is not None:
                break
        text = " ".join(f"{''.join(map(str, row[:-1]))}:{row[-1]}" for row in rows.tolist())
        return Puzzle(text, ((self.longest - 1, self.longest),), "all")

    def right(self, puzzle: Puzzle, text: str) -> bool:
        return text == self.solve(puzzle)

    def solve(self, puzzle: Puzzle) -> str | None:
        *examples, asked = puzzle.question[0].split(" ")
        rows = np.array([[int(digit) for digit in each.replace(":", "")] for each in examples])
        weights = solved(rows, self.prime)
        if weights is None:
            return None
        answer = int(np.array([int(digit) for digit in asked[:-1]]) @ weights) % self.prime
        return f"{puzzle.question[0]}{answer}"


def solved(rows: Numbers, prime: int) -> Numbers | None:
    """The w of x w = y modulo a prime, by elimination; None where the rows do not determine it.

    Args:
        rows: (n, d + 1), x and behind it y.
        prime: the modulus.

    Example:
        >>> solved(np.array([[1, 1, 3], [0, 2, 4]]), 7).tolist()
        [1, 2]
    """
    left, unknowns = rows.astype(np.int64) % prime, rows.shape[1] - 1
    for place in range(unknowns):
        found = np.flatnonzero(left[place:, place])
        if not len(found):
            return None
        left[[place, place + found[0]]] = left[[place + found[0], place]]
        left[place] = left[place] * pow(int(left[place, place]), -1, prime) % prime
        others = np.arange(len(left)) != place
        left[others] = (left[others] - np.outer(left[others, place], left[place])) % prime
    return np.asarray(left[:unknowns, -1])

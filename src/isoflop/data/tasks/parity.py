"""Sparse parity: random bits, and whether a few of them, at places that nobody tells, hold an odd number of ones."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field, NonNegativeInt, model_validator

from ...core.contracts import Puzzle, TaskPart
from ...core.registry import Card, part
from ...core.rng import Rng


@part
class ParityPart(TaskPart):
    """Bits and the parity of some of them, the same ones in all puzzles: ``01101=1``.

    No single bit, and no smaller set of them, says anything of the answer: what is learned shows all at once, after
    some n^k looks at it.

    Example:
        >>> task = ParityPart(bits=5, relevant=5)
        >>> task.solve(Puzzle("01101=0", ((6, 7),), "all"))
        '01101=1'
    """

    bits: Annotated[int, Field(ge=1, le=1000)] = 20
    """Bits of a puzzle."""
    relevant: Annotated[int, Field(ge=1)] = 3
    """How many of them count."""
    secret: NonNegativeInt = 0
    """Seed of the places that count."""
    card = Card(
        summary="The parity of a few hidden bits among many",
        paper="Barak et al. 2022, arXiv 2207.08799",
        equation="y = x_i xor x_j xor x_k, i, j, k fixed",
        cost="microseconds a puzzle",
    )
    fixed: ClassVar[bool] = True

    @model_validator(mode="after")
    def _enough(self) -> ParityPart:
        if self.relevant > self.bits:
            raise ValueError(f"relevant={self.relevant} is more than the {self.bits} bits that there are")
        return self

    @property
    def places(self) -> tuple[int, ...]:
        """Those of the bits that count, ascending."""
        return tuple(sorted(Rng(self.secret)("parity").at().choice(self.bits, self.relevant, replace=False).tolist()))

    @property
    def symbols(self) -> str:
        return "01="

    @property
    def longest(self) -> int:
        return self.bits + 2

    @property
    def levels(self) -> tuple[str, ...]:
        return ("all",)

    def draw(self, generator: np.random.Generator) -> Puzzle:
        shown = "".join(map(str, generator.integers(0, 2, self.bits).tolist()))
        return Puzzle(self._written(shown), ((self.longest - 1, self.longest),), "all")

    def right(self, puzzle: Puzzle, text: str) -> bool:
        return text == self.solve(puzzle)

    def solve(self, puzzle: Puzzle) -> str | None:
        return self._written(puzzle.question[0][:-1])

    def _written(self, shown: str) -> str:
        return f"{shown}={sum(shown[place] == '1' for place in self.places) % 2}"

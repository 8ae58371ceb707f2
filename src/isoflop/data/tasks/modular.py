"""Arithmetic modulo a prime: the task on which models first remember and then understand."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from ...core.contracts import Puzzle, TaskPart
from ...core.registry import Card, part


@part
class ModularPart(TaskPart):
    """One operation modulo a number, all numbers written with as many digits: ``58+70=31`` modulo 97.

    There are no more than modulus^2 questions: the share of them that is held out is the task's difficulty.

    Example:
        >>> task = ModularPart(modulus=97)
        >>> task.solve(Puzzle("58+70=00", ((6, 8),), "all"))
        '58+70=31'
    """

    modulus: Annotated[int, Field(ge=2, le=9999)] = 97
    """Of the operation; a prime in the literature."""
    operation: Literal["+", "-", "*"] = "+"
    """What is asked."""
    card = Card(
        summary="Addition, subtraction or multiplication modulo a prime",
        paper="Power et al. 2022, arXiv 2201.02177; what is learned of it: Morwani et al. 2024, arXiv 2311.07568",
        equation="c = a + b mod p",
        cost="microseconds a puzzle",
    )
    fixed: ClassVar[bool] = True

    @property
    def digits(self) -> int:
        """Of each number."""
        return len(str(self.modulus - 1))

    @property
    def symbols(self) -> str:
        return "0123456789=" + self.operation

    @property
    def longest(self) -> int:
        return 3 * self.digits + 2

    @property
    def levels(self) -> tuple[str, ...]:
        return ("all",)

    def draw(self, generator: np.random.Generator) -> Puzzle:
        a, b = generator.integers(0, self.modulus, 2).tolist()
        return Puzzle(self._written(a, b), ((self.longest - self.digits, self.longest),), "all")

    def right(self, puzzle: Puzzle, text: str) -> bool:
        return text == self.solve(puzzle)

    def solve(self, puzzle: Puzzle) -> str | None:
        shown = puzzle.question[0]
        return self._written(int(shown[: self.digits]), int(shown[self.digits + 1 : -1]))

    def _written(self, a: int, b: int) -> str:
        c = {"+": a + b, "-": a - b, "*": a * b}[self.operation] % self.modulus
        one, two, three = (str(number).zfill(self.digits) for number in (a, b, c))
        return f"{one}{self.operation}{two}={three}"

"""Addition of numbers with many digits: easy to do from the right, and hard where a carry runs far."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field, PositiveInt, model_validator

from ...core.contracts import Puzzle, TaskPart
from ...core.registry import Card, part


@part
class AdditionPart(TaskPart):
    """Sums of two numbers of up to so many digits, written with leading zeros: ``0123+0989=01112``.

    A mean over random sums hides the hard ones, in which a carry runs through many digits: they are a level of their
    own, and are held out as often as all others.

    Example:
        >>> task = AdditionPart(digits=3)
        >>> sum_of_two = Puzzle("095+017=0112", ((8, 12),), "easy")
        >>> task.right(sum_of_two, "095+017=0112"), task.right(sum_of_two, "095+017=0102")
        (True, False)
    """

    digits: Annotated[int, Field(ge=1, le=200)] = 8
    """Digits of each number."""
    hard: PositiveInt | None = None
    """A sum is hard if a carry runs through so many digits; by default half of them."""
    reverse: bool = False
    """Write every number from its last digit to its first, as sums are done."""
    card = Card(
        summary="Addition with many digits; sums whose carry runs far are a level of their own",
        paper="the hard tail: arXiv 2605.29123",
        equation="a + b = c",
        cost="microseconds a sum",
    )
    fixed: ClassVar[bool] = True

    @model_validator(mode="after")
    def _reachable(self) -> AdditionPart:
        if self.far > self.digits:
            raise ValueError(f"hard={self.hard} is more than the {self.digits} digits that a carry can run through")
        return self

    @property
    def far(self) -> int:
        """Digits that a carry runs through in a hard sum."""
        return self.hard or (self.digits + 1) // 2

    @property
    def symbols(self) -> str:
        return "0123456789+="

    @property
    def longest(self) -> int:
        return 3 * self.digits + 3

    @property
    def levels(self) -> tuple[str, ...]:
        return ("easy", "hard")

    def draw(self, generator: np.random.Generator) -> Puzzle:
        a, b = ("".join(map(str, generator.integers(0, 10, self.digits).tolist())) for _ in range(2))
        level = "hard" if carries(a, b) >= self.far else "easy"
        total = str(int(a) + int(b)).zfill(self.digits + 1)
        text = f"{self._way(a)}+{self._way(b)}=" + self._way(total)
        return Puzzle(text, ((len(text) - len(total), len(text)),), level)

    def right(self, puzzle: Puzzle, text: str) -> bool:
        found = re.fullmatch(r"([0-9]+)\+([0-9]+)=([0-9]+)", text)
        if found is None or len(text) != self.longest or not text.startswith(puzzle.question[0]):
            return False
        a, b, total = (int(self._way(number)) for number in found.groups())
        return a + b == total

    def solve(self, puzzle: Puzzle) -> str | None:
        a, b = (int(self._way(number)) for number in puzzle.question[0].rstrip("=").split("+"))
        return puzzle.question[0] + self._way(str(a + b).zfill(self.digits + 1))

    def _way(self, number: str) -> str:
        return number[::-1] if self.reverse else number


def carries(a: str, b: str) -> int:
    """The most digits in a row that one carry runs through, in a sum of two numbers of equal length.

    Args:
        a: digits.
        b: digits.

    Example:
        >>> carries("0999", "0001"), carries("0500", "0500"), carries("1", "1")
        (3, 1, 0)
    """
    longest = run = carry = 0
    for one, two in zip(reversed(a), reversed(b), strict=True):
        total = int(one) + int(two)
        run = run + 1 if carry and total == 9 else int(total >= 10)  # a new carry, or the old one runs on
        carry = int(total >= 10 or (carry and total == 9))
        longest = max(longest, run)
    return longest

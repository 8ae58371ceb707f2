"""Addition as a Turing programme: a tape that is copied whole at every step, with one local change."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from ...core.contracts import Puzzle, TaskPart
from ...core.registry import Card, part


@part
class TuringAdditionPart(TaskPart):
    """Sums worked out on a tape: ``95+17:9157<;91^=2;^=1=2;112``.

    The tape holds a column of both digits for every place. The head, ``<`` without and ``^`` with a carry, stands
    behind the next column; each step copies the tape and puts ``=`` and the digit of the sum in its place. Only
    the sum behind the last tape must be right; ``formed`` asks for every step.

    Example:
        >>> task = TuringAdditionPart(digits=2)
        >>> task.solve(Puzzle("95+17:" + "." * 22, ((6, 28),), "all"))
        '95+17:9157<;91^=2;^=1=2;112'
    """

    digits: Annotated[int, Field(ge=1, le=100)] = 6
    """Of each number."""
    card = Card(
        summary="Addition by a scratchpad of whole tapes, each a local change of the one before",
        paper="Hou et al. 2024, arXiv 2407.03310",
        equation="tape_(t+1) = tape_t with the head's column changed and the head moved",
        differs="a tape of columns of two digits; one head, whose sign is the carry",
        cost="microseconds a sum; a text grows with the square of the digits",
    )
    fixed: ClassVar[bool] = True

    @property
    def symbols(self) -> str:
        return "0123456789+:;<^="

    @property
    def longest(self) -> int:
        return 2 * self.digits + 2 + (self.digits + 1) * (2 * self.digits + 2) + self.digits + 1

    @property
    def levels(self) -> tuple[str, ...]:
        return ("all",)

    def draw(self, generator: np.random.Generator) -> Puzzle:
        a, b = ("".join(map(str, generator.integers(0, 10, self.digits).tolist())) for _ in range(2))
        return Puzzle(worked(a, b), ((2 * self.digits + 2, self.longest),), "all")

    def right(self, puzzle: Puzzle, text: str) -> bool:
        if not text.startswith(puzzle.question[0]):
            return False
        found, wanted = re.fullmatch(r"[0-9;<^=]*;([0-9]+)", text.removeprefix(puzzle.question[0])), self.solve(puzzle)
        return found is not None and wanted is not None and found[1] == wanted.rpartition(";")[2]

    def formed(self, puzzle: Puzzle, text: str) -> bool:
        return text == self.solve(puzzle)

    def solve(self, puzzle: Puzzle) -> str | None:
        a, _, b = puzzle.question[0].rstrip(":").partition("+")
        return worked(a, b)


def worked(a: str, b: str) -> str:
    """The whole text of a sum of two numbers of equal length.

    Args:
        a: digits.
        b: digits.

    Example:
        >>> worked("5", "7")
        '5+7:57<;^=2;12'
    """
    columns, done, carry = [one + two for one, two in zip(a, b, strict=True)], "", 0
    tapes = ["".join(columns) + "<"]
    while columns:
        carry, digit = divmod(sum(map(int, columns.pop())) + carry, 10)
        done = f"={digit}{done}"
        tapes.append("".join(columns) + "<^"[carry] + done)
    return f"{a}+{b}:{';'.join(tapes)};{carry}{done.replace('=', '')}"

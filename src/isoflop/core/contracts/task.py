"""The contract of a task: puzzles whose answers can be checked, and an oracle that knows them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from ..context import Context
from ..registry import Part
from ..tokenizer import Tokenizer

if TYPE_CHECKING:
    import numpy as np

Hole = tuple[int, int]
"""Where characters are to be filled in: the first one's place, and the place behind the last one."""


@dataclass(frozen=True)
class Puzzle:
    """A text of which parts are to be found.

    Args:
        text: the solved puzzle.
        holes: what is hidden of it, from left to right, apart from each other.
        level: how hard it is, in the task's own words.

    Example:
        >>> two = Puzzle("1+1=2", ((4, 5),), "easy")
        >>> two.question, two.answers, two.prompt
        (('1+1=', ''), ('2',), '1+1=')
    """

    text: str
    holes: tuple[Hole, ...]
    level: str

    def __post_init__(self) -> None:
        places = [0, *(place for hole in self.holes for place in hole), len(self.text)]
        if not self.holes or any(b < a for a, b in pairwise(places)):
            raise ValueError(f"holes {self.holes} do not lie in order within a text of {len(self.text)} characters")

    @property
    def question(self) -> tuple[str, ...]:
        """What is shown: before the first hole, between holes, and behind the last one."""
        borders = [0, *(place for hole in self.holes for place in hole), len(self.text)]
        return tuple(self.text[borders[i] : borders[i + 1]] for i in range(0, len(borders), 2))

    @property
    def answers(self) -> tuple[str, ...]:
        """What each hole holds."""
        return tuple(self.text[start:end] for start, end in self.holes)

    @property
    def prompt(self) -> str | None:
        """What is shown, where the only hole is the end of the text: then a text can simply be gone on with."""
        pieces = self.question
        return pieces[0] if len(pieces) == 2 and not pieces[1] else None

    def keeps(self, text: str) -> bool:
        """Whether a text holds all that is shown, in order, from its beginning to its end."""
        first, *rest = self.question
        place = len(first)
        if not text.startswith(first):
            return False
        for piece in rest[:-1]:
            found = text.find(piece, place)
            if found < 0:
                return False
            place = found + len(piece)
        return len(text) - place >= len(rest[-1]) and text.endswith(rest[-1])

    def filled(self, answers: Sequence[str]) -> str:
        """The text with other answers in its holes."""
        pieces = self.question
        return "".join(shown + answer for shown, answer in zip(pieces, (*answers, ""), strict=True))


class TaskPart(Part):
    """Puzzles with an oracle. A pure function of random numbers, so the part is its own live object.

    A new task is one file with a class that draws puzzles, says whether a filled text is right, and finds right answers
    by itself. ``right`` is asked, never equality with ``text``: a puzzle may have many solutions.

    Class attributes:
        fixed: a question tells how long its answers are.
    """

    slot: ClassVar[str] = "task"
    fixed: ClassVar[bool] = False

    @property
    @abstractmethod
    def symbols(self) -> str:
        """Every character that its texts may hold, each once; "" where any may come."""

    @property
    @abstractmethod
    def longest(self) -> int:
        """Characters of its longest text."""

    @property
    @abstractmethod
    def levels(self) -> tuple[str, ...]:
        """Levels that its puzzles may have, the easiest first."""

    @property
    def taught(self) -> tuple[str, ...]:
        """Levels of training puzzles, unless a recipe names others; by default all."""
        return self.levels

    @property
    def asked(self) -> tuple[str, ...]:
        """Levels of held-out puzzles; by default all."""
        return self.levels

    @property
    def longest_taught(self) -> int:
        """Characters of the longest text of a level that is ``taught``; by default of any."""
        return self.longest

    @abstractmethod
    def draw(self, generator: np.random.Generator) -> Puzzle:
        """A puzzle."""

    @abstractmethod
    def right(self, puzzle: Puzzle, text: str) -> bool:
        """Whether a text is a solution: it keeps all that the puzzle shows, and fills in what belongs there."""

    @abstractmethod
    def solve(self, puzzle: Puzzle) -> str | None:
        """A solution, found without looking at the holes' contents; None where only the puzzle's own text is known."""

    def length_of(self, puzzle: Puzzle) -> int:
        """How long a puzzle is, in what the task counts; by default characters of its text."""
        return len(puzzle.text)

    def formed(self, puzzle: Puzzle, text: str) -> bool:
        """Whether a text keeps all that is shown and is well formed, right or not; by default whether it is right."""
        return self.right(puzzle, text)

    def origin(self, puzzle: Puzzle) -> Any:
        """What no training puzzle shares with a held-out one; by default its question, None where all is hidden."""
        return puzzle.question if any(puzzle.question) else None

    def inputs(self) -> str:
        """A digest of what puzzles are made of besides the part's own fields; by default nothing."""
        return ""

    def variant(self, puzzle: Puzzle, generator: np.random.Generator) -> Puzzle:
        """Another puzzle of the same level, made of one at little cost; by default the same."""
        return puzzle

    def build(self, ctx: Context | None = None) -> TaskPart:
        return self


@runtime_checkable
class HeldOutPuzzles(Protocol):
    """Held-out data that are puzzles.

    Attributes:
        task: what they are of.
        puzzles: in order.
        tokenizer: of their texts.
        slots: tokens that each hole is given, where that is more than its answer takes; None: as many as it takes.
    """

    task: TaskPart
    puzzles: Sequence[Puzzle]
    tokenizer: Tokenizer
    slots: int | None

    def templates(self, most: int | None = None) -> Iterator[list[int | None]]:
        """Each puzzle's ids with None where a token is to be filled in.

        Args:
            most: so many in each hole of a task that does not tell how long answers are; None: as many as it is given.
        """


@runtime_checkable
class PosesPuzzles(Protocol):
    """A source whose held-out data are ``HeldOutPuzzles``."""

    task: Any

"""Zebra puzzles: who lives where, from clues about who lives next to whom; each has one solution."""

from __future__ import annotations

import string
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field, PositiveInt, model_validator

from ...core.contracts import Puzzle, TaskPart
from ...core.errors import DataError
from ...core.registry import Card, part
from ..zebra.clues import RELATIONS, Clue, Houses, follows, search, true_clues

_TRIES = 100


@part
class ZebraPart(TaskPart):
    """Zebra puzzles, also called Einstein's: values of some attributes belong into houses, one of each into each.

    A text is clues of three symbols each, ``|``, and the grid, house by house. Every letter is a value; ``a=e`` says
    that two live in one house, ``a<e`` that one lives to the left of the other, ``a/e`` right to the left, ``a~e`` next
    to it, ``a@2`` in the second house. Unlike Sudoku's, a puzzle's rules differ from one to the next.

    Example:
        >>> task = ZebraPart(houses=3, attributes=2)
        >>> puzzle = task.draw(np.random.default_rng(0))
        >>> task.solve(puzzle) == puzzle.text, task.right(puzzle, puzzle.text), len(puzzle.answers[0])
        (True, True, 6)
    """

    houses: Annotated[int, Field(ge=2, le=6)] = 4
    """Houses, and values of each attribute."""
    attributes: Annotated[int, Field(ge=2, le=6)] = 4
    """Attributes."""
    clues: PositiveInt | None = None
    """Clues of a puzzle: as many as it needs, filled up with others that hold; by default three quarters of
    houses times attributes. The fewer, the harder."""
    card = Card(
        summary="Zebra puzzles of up to 6 houses and attributes; every puzzle has exactly one solution",
        paper="orders of decoding: Kim et al. 2025, arXiv 2502.06768; of solvers: Shah et al. 2024, 2409.10502",
        equation="one permutation of the houses for each attribute, every clue holds",
        differs="puzzles are made here, with a symbol for each value; hard ones take several clues at once",
        cost="about 10 ms a puzzle of 4 houses and attributes; they are kept in the cache",
    )
    fixed: ClassVar[bool] = True

    @model_validator(mode="after")
    def _enough(self) -> ZebraPart:
        least = self.attributes + self.houses - 2
        if self.count < least:
            raise ValueError(f"{self.count} clues cannot tell so many apart; {least} is the least that might")
        return self

    @property
    def count(self) -> int:
        """Clues of a puzzle."""
        return self.clues or 3 * self.houses * self.attributes // 4

    @property
    def _values(self) -> str:
        return string.ascii_letters[: self.houses * self.attributes]

    @property
    def symbols(self) -> str:
        return self._values + string.digits[1 : self.houses + 1] + "".join(RELATIONS) + "|"

    @property
    def longest(self) -> int:
        return 3 * self.count + 1 + self.houses * self.attributes

    @property
    def levels(self) -> tuple[str, ...]:
        return ("easy", "hard")

    def draw(self, generator: np.random.Generator) -> Puzzle:
        for _ in range(_TRIES):
            drawn = [generator.permutation(self.houses) for _ in range(self.attributes)]
            houses = tuple(int(house) for order in drawn for house in order)
            every = true_clues(houses, self.houses)
            order = [every[i] for i in generator.permutation(len(every)).tolist()]
            needed = self._needed(order, generator)
            if len(needed) <= self.count <= len(every):
                more = [clue for clue in order if clue not in needed][: self.count - len(needed)]
                chosen = [*needed, *more]
                shuffled = [chosen[i] for i in generator.permutation(len(chosen)).tolist()]
                return self._written(shuffled, houses)
        what = f"no puzzle of {self.count} clues comes up in {_TRIES} tries"
        raise DataError(what, where="source.task.clues", fix=f"allow {self.houses * self.attributes}")

    def variant(self, puzzle: Puzzle, generator: np.random.Generator) -> Puzzle:
        """The puzzle with its values renamed within attributes, attributes exchanged, and clues in another order."""
        size, names = self.houses, np.arange(self.houses * self.attributes).reshape(self.attributes, self.houses)
        places = [generator.permutation(row) for row in names[generator.permutation(self.attributes)]]
        renamed = np.concatenate(places).tolist()  # what becomes of each value
        clues, houses = self._clues(puzzle.text), self._grid(puzzle.text)
        assert clues is not None
        assert houses is not None
        moved = [
            Clue(renamed[c.value], c.relation, c.other if c.relation == "@" else renamed[c.other])
            for c in (clues[i] for i in generator.permutation(len(clues)).tolist())
        ]
        found = [0] * (size * self.attributes)
        for value, house in enumerate(houses):
            found[renamed[value]] = house
        text = self._text(moved, tuple(found))
        return Puzzle(text, puzzle.holes, puzzle.level)

    def right(self, puzzle: Puzzle, text: str) -> bool:
        if len(text) != self.longest or not text.startswith(puzzle.question[0]):
            return False
        houses, clues = self._grid(text), self._clues(text)
        return houses is not None and clues is not None and all(clue.holds(houses) for clue in clues)

    def solve(self, puzzle: Puzzle) -> str | None:
        clues = self._clues(puzzle.question[0])
        assert clues is not None
        grids = search(clues, size=self.houses, attributes=self.attributes, limit=1).grids
        return self._text(clues, grids[0])

    def _unique(self, clues: list[Clue]) -> bool:
        return len(search(clues, size=self.houses, attributes=self.attributes, limit=2).grids) == 1

    def _needed(self, order: list[Clue], generator: np.random.Generator) -> list[Clue]:
        """Clues of which none can be left out: the shortest beginning that leaves one grid, then what it needs."""
        few, enough = 0, len(order)
        while few + 1 < enough:
            middle = (few + enough) // 2
            few, enough = (few, middle) if self._unique(order[:middle]) else (middle, enough)
        kept = order[:enough]
        for clue in order[:enough]:
            without = [each for each in kept if each != clue]
            kept = without if self._unique(without) else kept
        return kept

    def _written(self, clues: list[Clue], houses: Houses) -> Puzzle:
        level = "easy" if follows(clues, size=self.houses, attributes=self.attributes) else "hard"
        return Puzzle(self._text(clues, houses), ((3 * self.count + 1, self.longest),), level)

    def _text(self, clues: list[Clue], houses: Houses) -> str:
        names = self._values
        said = (
            f"{names[c.value]}{c.relation}{str(c.other + 1) if c.relation == '@' else names[c.other]}" for c in clues
        )
        grid = sorted(range(len(houses)), key=lambda value: (houses[value], value))
        return "".join(said) + "|" + "".join(names[value] for value in grid)

    def _clues(self, text: str) -> list[Clue] | None:
        """The clues of a text; None where one is none."""
        found, names, doors = list[Clue](), self._values, string.digits[1 : self.houses + 1]
        for place in range(0, 3 * self.count, 3):
            value, relation, other = tuple(text[place : place + 3])
            known = doors if relation == "@" else names
            if value not in names or relation not in RELATIONS or other not in known:
                return None
            found.append(Clue(names.index(value), relation, known.index(other)))
        return found

    def _grid(self, text: str) -> Houses | None:
        """The house of each value in the grid behind the clues; None where that is no grid."""
        grid, names = text[-self.houses * self.attributes :], self._values
        if set(grid) != set(names):
            return None
        houses = [0] * len(names)
        for place, value in enumerate(grid):
            house, attribute = divmod(place, self.attributes)
            if names.index(value) // self.houses != attribute:
                return None
            houses[names.index(value)] = house
        return tuple(houses)

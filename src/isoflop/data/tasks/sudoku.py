"""Sudoku: fill a grid so that every row, column and box holds every digit once; puzzles have one solution each."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import PositiveInt, model_validator

from ...core.contracts import Puzzle, TaskPart
from ...core.registry import Card, part
from ..sudoku.board import Board, Grid, search
from ..sudoku.grade import BEYOND, grade
from ..sudoku.make import dig, full_grid, symmetry

GIVENS = {4: (4, 8), 6: (9, 16), 9: (22, 34)}
"""The fewest and the most digits that a puzzle shows, by size."""


@part
class SudokuPart(TaskPart):
    """Sudoku of 4, 6 or 9 digits.

    Use it to compare orders of decoding: some cells follow at once from what is shown, others only after these. With
    ``layout`` "place" a text is the grid itself, which models that fill in read best; models that write from left to
    right need the clues first ("after"), or moves in some order ("moves").

    Example:
        >>> task = SudokuPart(size=4)
        >>> puzzle = task.draw(np.random.default_rng(0))
        >>> len(puzzle.text), task.solve(puzzle) == puzzle.text, task.right(puzzle, "1" * 16)
        (16, True, False)
    """

    size: Literal[4, 6, 9] = 9
    """Digits, and rows, columns and boxes."""
    givens: tuple[PositiveInt, PositiveInt] | None = None
    """The fewest and the most digits shown, each number equally often; by default 4-8, 9-16 and 22-34 by size."""
    layout: Literal["place", "after", "moves"] = "place"
    """The grid in place; the clues (0: empty) and then the grid; or row, column and digit of each cell."""
    order: Literal["rows", "random", "solver"] = "rows"
    """Of moves: row by row, at random, or as the strategies fill the cells. Clues come first, row by row."""
    levels_by: Literal["nodes", "grade"] = "nodes"
    """What a puzzle's level is: branching nodes of a search, or the hardest of seven human strategies."""
    hard: PositiveInt = 1
    """Nodes from which on a puzzle is hard, with levels by nodes."""
    card = Card(
        summary="Sudoku with 4, 6 or 9 digits, graded; every puzzle has exactly one solution",
        paper="orders of decoding: Kim et al. 2025, arXiv 2502.06768; of solvers: Shah et al. 2024, 2409.10502",
        equation="every row, column and box holds every digit once",
        differs="puzzles are made here, not taken from a published set",
        cost="about 1 ms a puzzle of 4 digits, 10 ms of 6, 100 ms of 9; they are kept in the cache",
    )
    fixed: ClassVar[bool] = True

    @model_validator(mode="after")
    def _ordered(self) -> SudokuPart:
        if self.givens is not None and not 1 <= self.givens[0] <= self.givens[1] < self.size**2:
            raise ValueError(f"givens {self.givens} are no range below {self.size**2} cells")
        if self.order != "rows" and self.layout != "moves":
            raise ValueError(f"order {self.order} is of moves; use layout=moves")
        return self

    @property
    def board(self) -> Board:
        return _BOARDS[self.size]

    @property
    def symbols(self) -> str:
        return "".join(map(str, range(self.size + 1)))

    @property
    def longest(self) -> int:
        return self.size**2 * {"place": 1, "after": 2, "moves": 3}[self.layout]

    @property
    def levels(self) -> tuple[str, ...]:
        if self.levels_by == "nodes":
            return ("easy", "hard")
        return tuple(f"grade {i}" for i in range(2, BEYOND + 1))

    def draw(self, generator: np.random.Generator) -> Puzzle:
        solution = full_grid(self.board, generator)
        fewest, most = self.givens or GIVENS[self.size]
        clues = dig(self.board, solution, int(generator.integers(fewest, most + 1)), generator)
        return self._written(clues, solution, self._level(clues), generator)

    def variant(self, puzzle: Puzzle, generator: np.random.Generator) -> Puzzle:
        """The puzzle with its digits renamed, and its lines and bands in other places."""
        cells, digits = symmetry(self.board, generator)
        grids = self.clues(puzzle), self._grid(puzzle.text)
        clues, solution = ([digits[grid[cell]] for cell in cells] for grid in grids)
        return self._written(clues, solution, puzzle.level, generator)

    def right(self, puzzle: Puzzle, text: str) -> bool:
        if len(text) != self.longest or not set(text) <= set(self.symbols) or not puzzle.keeps(text):
            return False
        grid = self._grid(text)
        return all(grid[cell] == clue for cell, clue in enumerate(self.clues(puzzle)) if clue) and self.board.solved(
            grid
        )

    def solve(self, puzzle: Puzzle) -> str | None:
        clues = self.clues(puzzle)
        solution = search(self.board, clues, limit=1).grids[0]
        return self._written(clues, solution, puzzle.level, np.random.default_rng(0)).text

    def clues(self, puzzle: Puzzle) -> Grid:
        """The grid as it is shown, 0 where a digit is to be found."""
        shown = puzzle.filled(["0" * len(answer) for answer in puzzle.answers])
        return [int(digit) for digit in shown[: self.size**2]] if self.layout != "moves" else self._grid(shown)

    def _level(self, clues: Grid) -> str:
        if self.levels_by == "grade":
            return f"grade {grade(self.board, clues).grade}"
        return "hard" if search(self.board, clues).nodes >= self.hard else "easy"

    def _written(self, clues: Grid, solution: Grid, level: str, generator: np.random.Generator) -> Puzzle:
        whole = "".join(map(str, solution))
        if self.layout == "place":
            return Puzzle(whole, _runs([digit == 0 for digit in clues]), level)
        if self.layout == "after":
            return Puzzle("".join(map(str, clues)) + whole, ((len(clues), 2 * len(clues)),), level)
        given = [cell for cell, digit in enumerate(clues) if digit]
        moves = [*given, *self._order(clues, generator)]
        text = "".join(f"{cell // self.size + 1}{cell % self.size + 1}{solution[cell]}" for cell in moves)
        return Puzzle(text, ((3 * len(given), len(text)),), level)

    def _order(self, clues: Grid, generator: np.random.Generator) -> list[int]:
        """The empty cells in the order in which they are written."""
        empty = [cell for cell, digit in enumerate(clues) if not digit]
        if self.order == "random":
            return [empty[i] for i in generator.permutation(len(empty)).tolist()]
        if self.order == "solver":
            filled = list(grade(self.board, clues).order)
            return filled + [cell for cell in empty if cell not in filled]
        return empty

    def _grid(self, text: str) -> Grid:
        """The grid that a text of the right length fills in; a cell that no move fills, or two do, is 0."""
        cells = self.size**2
        if self.layout != "moves":
            return [int(digit) for digit in text[-cells:]]
        grid = [0] * cells
        for row, column, digit in (map(int, text[i : i + 3]) for i in range(0, len(text), 3)):
            if row and column:
                cell = (row - 1) * self.size + column - 1
                grid[cell] = 0 if grid[cell] else digit
        return grid


_BOARDS = {n: Board(n) for n in GIVENS}


def _runs(hidden: list[bool]) -> tuple[tuple[int, int], ...]:
    """Where runs of True begin and end."""
    padded = [False, *hidden, False]
    borders = [place for place in range(len(hidden) + 1) if padded[place] != padded[place + 1]]
    return tuple(zip(borders[::2], borders[1::2], strict=True))

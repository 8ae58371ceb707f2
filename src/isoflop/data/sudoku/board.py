"""The board: which cells exclude each other, and a search that finds and counts solutions."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

BOXES = {4: (2, 2), 6: (2, 3), 9: (3, 3)}
"""Rows and columns of a box, by the board's size."""
Grid = list[int]


@dataclass(frozen=True)
class Board:
    """A board of n by n cells in boxes.

    Args:
        n: rows, columns, boxes and digits.

    Attributes:
        units: cells of each row, each column and each box, in this order.
        peers: for each cell, the others that may not hold its digit.

    Example:
        >>> board = Board(4)
        >>> board.units[8], len(board.peers[0])
        ((0, 1, 4, 5), 7)
    """

    n: int

    @functools.cached_property
    def units(self) -> tuple[tuple[int, ...], ...]:
        n, (high, wide) = self.n, BOXES[self.n]
        rows = [tuple(range(r * n, r * n + n)) for r in range(n)]
        columns = [tuple(range(c, n * n, n)) for c in range(n)]
        corners = [(r, c) for r in range(0, n, high) for c in range(0, n, wide)]
        boxes = [tuple((r + i) * n + c + j for i in range(high) for j in range(wide)) for r, c in corners]
        return (*rows, *columns, *boxes)

    @functools.cached_property
    def of(self) -> tuple[tuple[int, int, int], ...]:
        """For each cell, the numbers of its row, its column and its box among ``units``."""
        holds: list[list[int]] = [[] for _ in range(self.n * self.n)]
        for number, unit in enumerate(self.units):
            for cell in unit:
                holds[cell].append(number)
        return tuple((row, column, box) for row, column, box in holds)

    @functools.cached_property
    def peers(self) -> tuple[tuple[int, ...], ...]:
        return tuple(
            tuple(sorted({other for unit in units for other in self.units[unit]} - {cell}))
            for cell, units in enumerate(self.of)
        )

    def candidates(self, grid: Sequence[int]) -> list[int]:
        """For each empty cell, the digits that none of its peers holds, bit d - 1 for digit d; 0 for a full cell."""
        used = self._used(grid)
        full = (1 << self.n) - 1
        return [
            0 if digit else full & ~(used[row] | used[column] | used[box])
            for digit, (row, column, box) in zip(grid, self.of, strict=True)
        ]

    def consistent(self, grid: Sequence[int]) -> bool:
        """Whether no two peers hold one digit; cells may be empty."""
        return all(len(held) == len(set(held)) for unit in self.units for held in [[grid[c] for c in unit if grid[c]]])

    def solved(self, grid: Sequence[int]) -> bool:
        """Whether every unit holds every digit once."""
        digits = list(range(1, self.n + 1))
        return all(sorted(grid[cell] for cell in unit) == digits for unit in self.units)

    def _used(self, grid: Sequence[int]) -> list[int]:
        """Digits of each unit, as bits."""
        used = [0] * len(self.units)
        for digit, units in zip(grid, self.of, strict=True):
            if digit:
                for unit in units:
                    used[unit] |= 1 << (digit - 1)
        return used


@dataclass
class Solutions:
    """What an exhaustive search has found.

    Args:
        grids: the first ones, at most as many as were asked for.
        nodes: places at which it had to try several digits.

    Example:
        >>> Solutions().nodes
        0
    """

    grids: list[Grid] = field(default_factory=list)
    nodes: int = 0


def search(board: Board, grid: Sequence[int], limit: int = 2, shuffled: Sequence[int] | None = None) -> Solutions:
    """Solutions of a puzzle, by trying the digits of the cell that has the fewest.

    Args:
        board: its size.
        grid: the puzzle.
        limit: stop at so many solutions: 1 solves, 2 tells whether there is just one.
        shuffled: digits in the order in which they are tried; by default ascending.

    Example:
        >>> found = search(Board(4), [1, 2, 3, 4, 3, 4, 1, 2, 2, 1, 4, 3, 0, 0, 0, 0])
        >>> found.grids[0][12:], found.nodes
        ([4, 3, 2, 1], 0)
    """
    found = Solutions()
    if not board.consistent(grid):
        return found
    cells, used, full, of = list(grid), board._used(grid), (1 << board.n) - 1, board.of
    digits = list(shuffled or range(1, board.n + 1))
    empty = [cell for cell, digit in enumerate(cells) if not digit]

    def go() -> bool:
        """Fill the rest; whether the search is over."""
        best, options, fewest = -1, 0, 99
        for cell in empty:
            if cells[cell]:
                continue
            row, column, box = of[cell]
            free = full & ~(used[row] | used[column] | used[box])
            count = free.bit_count()
            if count < fewest:
                best, options, fewest = cell, free, count
                if count <= 1:
                    break
        if best < 0:
            found.grids.append(list(cells))
            return len(found.grids) >= limit
        found.nodes += fewest > 1
        row, column, box = of[best]
        for digit in digits:
            bit = 1 << (digit - 1)
            if not options & bit:
                continue
            cells[best] = digit
            for unit in (row, column, box):
                used[unit] |= bit
            over = go()
            cells[best] = 0
            for unit in (row, column, box):
                used[unit] &= ~bit
            if over:
                return True
        return False

    go()
    return found

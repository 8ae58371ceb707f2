"""Making puzzles: a random full grid, from which digits are taken as long as the solution stays the only one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .board import BOXES, Board, Grid, search


def full_grid(board: Board, generator: np.random.Generator) -> Grid:
    """A solved grid: random digits in random cells first, then the search's first solution."""
    n = board.n
    start = [0] * (n * n)
    start[:n] = (generator.permutation(n) + 1).tolist()  # a row can hold any permutation
    digits = (generator.permutation(n) + 1).tolist()
    rows = [start]
    for row in range(1, n):  # digits of the rows' first cells, tried at random: the search alone would favour few grids
        rows = [_placed(board, rows[-1], row * n, generator)]
    return search(board, rows[-1], limit=1, shuffled=digits).grids[0]


def _placed(board: Board, grid: Grid, cell: int, generator: np.random.Generator) -> Grid:
    """The grid with a random digit in a cell, which leaves a solution."""
    free = board.candidates(grid)[cell]
    for digit in (generator.permutation(board.n) + 1).tolist():
        if free >> (digit - 1) & 1:
            tried = [*grid[:cell], digit, *grid[cell + 1 :]]
            if search(board, tried, limit=1).grids:
                return tried
    raise AssertionError("a grid with a solution has one for some digit of each cell")


def dig(board: Board, grid: Sequence[int], givens: int, generator: np.random.Generator) -> Grid:
    """A puzzle of a solved grid: cells are emptied in a random order while the solution stays the only one.

    Args:
        board: its size.
        grid: solved.
        givens: stop at so many cells that are left; where more are needed, there are more.
        generator: of the order.
    """
    puzzle, left = list(grid), len(grid)
    for cell in generator.permutation(len(grid)).tolist():
        if left <= givens:
            break
        digit, puzzle[cell] = puzzle[cell], 0
        free = board.candidates(puzzle)[cell] & ~(1 << (digit - 1))
        others = (other for other in range(1, board.n + 1) if free >> (other - 1) & 1)
        if any(search(board, _with(puzzle, cell, other), limit=1).grids for other in others):
            puzzle[cell] = digit
        else:
            left -= 1
    return puzzle


def _with(grid: Sequence[int], cell: int, digit: int) -> Grid:
    changed = list(grid)
    changed[cell] = digit
    return changed


def symmetry(board: Board, generator: np.random.Generator) -> tuple[list[int], list[int]]:
    """A way of rewriting a grid that keeps its grade: ``new[i] = digits[old[cells[i]]]``.

    Digits are renamed, bands and stacks change places, and rows and columns within them.

    Returns:
        cells (n^2,), and digits (n + 1,), of which the first is 0.
    """
    n, (high, wide) = board.n, BOXES[board.n]
    rows = _shuffled(n, high, generator)
    columns = _shuffled(n, wide, generator)
    digits = [0, *(generator.permutation(n) + 1).tolist()]
    return [row * n + column for row in rows for column in columns], digits


def _shuffled(n: int, size: int, generator: np.random.Generator) -> list[int]:
    """Lines of a board whose bands of ``size`` change places, and the lines within each."""
    bands = generator.permutation(n // size).tolist()
    return [band * size + line for band in bands for line in generator.permutation(size).tolist()]

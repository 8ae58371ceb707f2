"""Grading: which of seven human strategies a puzzle needs, and the order in which they fill its cells.

The strategies and their numbers are those of public sets of graded puzzles: 2 naked single, 3 hidden single, 4 naked
pair, 5 naked triplet, 6 locked candidate, 7 XY-wing, 8 unique rectangle (type 1). After each elimination the easiest
one is tried again, so that a harder one is used only where all easier ones find nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from .board import Board, Grid

BEYOND = 9
"""The grade of a puzzle that the seven strategies do not solve."""
Cuts = list[tuple[int, int]]
"""Cells, and digits (as bits) that they cannot hold."""


@dataclass(frozen=True)
class Grading:
    """How a puzzle is solved.

    Args:
        grade: the hardest strategy that was needed, 9 where the seven do not suffice.
        order: cells in the order in which they were filled.
        strategies: for each of them, the hardest strategy that was used since the one before.
        grid: what was filled in.

    Example:
        >>> grade(Board(4), [1, 2, 3, 4, 3, 4, 1, 2, 2, 1, 4, 3, 0, 0, 0, 0]).order
        (12, 13, 14, 15)
    """

    grade: int
    order: tuple[int, ...]
    strategies: tuple[int, ...]
    grid: tuple[int, ...]


def grade(board: Board, puzzle: Sequence[int]) -> Grading:
    """Solve a puzzle by the strategies alone.

    Args:
        board: its size.
        puzzle: with one solution.

    Example:
        >>> easy = [1, 0, 3, 4, 3, 4, 1, 2, 2, 1, 4, 3, 4, 3, 2, 0]
        >>> grade(Board(4), easy).grade
        2
    """
    grid: Grid = list(puzzle)
    free = board.candidates(grid)
    order: list[int] = []
    used: list[int] = []
    hardest = since = 0
    while any(free):
        found = _single(board, free)
        if found is not None:
            cell, bit, strategy = found
            grid[cell], free[cell] = bit.bit_length(), 0
            for peer in board.peers[cell]:
                free[peer] &= ~bit
            order.append(cell)
            used.append(max(since, strategy))
            hardest, since = max(hardest, used[-1]), 0
            continue
        for strategy, rule in ELIMINATIONS:
            cuts = next((cuts for cuts in rule(board, free) if any(free[cell] & bits for cell, bits in cuts)), None)
            if cuts is not None:
                for cell, bits in cuts:
                    free[cell] &= ~bits
                since = max(since, strategy)
                break
        else:
            break
    return Grading(hardest if all(grid) else BEYOND, tuple(order), tuple(used), tuple(grid))


def _single(board: Board, free: list[int]) -> tuple[int, int, int] | None:
    """A cell that can be filled, its digit (as a bit) and the strategy."""
    for cell, bits in enumerate(free):
        if bits and not bits & (bits - 1):
            return cell, bits, 2
    for unit in board.units:
        once = twice = 0
        for cell in unit:
            twice |= once & free[cell]
            once |= free[cell]
        if alone := once & ~twice:
            bit = alone & -alone
            return next(cell for cell in unit if free[cell] & bit), bit, 3
    return None


def _subsets(size: int) -> Callable[[Board, list[int]], Iterator[Cuts]]:
    """So many cells of a unit that hold so many digits between them: no other cell of the unit holds these."""

    def rule(board: Board, free: list[int]) -> Iterator[Cuts]:
        for unit in board.units:
            few = [cell for cell in unit if 2 <= free[cell].bit_count() <= size]
            for chosen in combinations(few, size):
                bits = 0
                for cell in chosen:
                    bits |= free[cell]
                if bits.bit_count() == size:
                    yield [(cell, bits) for cell in unit if cell not in chosen and free[cell]]

    return rule


def _locked(board: Board, free: list[int]) -> Iterator[Cuts]:
    """A digit whose places in one unit all lie in another: it is nowhere else in that one."""
    lines, boxes = board.units[: 2 * board.n], board.units[2 * board.n :]
    for one, others in [(box, lines) for box in boxes] + [(line, boxes) for line in lines]:
        for digit in range(board.n):
            bit = 1 << digit
            places = {cell for cell in one if free[cell] & bit}
            for other in others:
                if places and places <= set(other):
                    yield [(cell, bit) for cell in other if cell not in places and free[cell] & bit]


def _xy_wing(board: Board, free: list[int]) -> Iterator[Cuts]:
    """A cell xy that sees xz and yz: whatever it holds, one of those holds z, so no cell that sees both does."""
    pairs = [cell for cell, bits in enumerate(free) if bits.bit_count() == 2]
    for pivot in pairs:
        wings = [cell for cell in board.peers[pivot] if free[cell].bit_count() == 2]
        for one, two in combinations(wings, 2):
            z = free[one] & free[two]
            if z.bit_count() == 1 and not z & free[pivot] and (free[one] | free[two]) & ~z == free[pivot]:
                seen = set(board.peers[one]) & set(board.peers[two])
                yield [(cell, z) for cell in seen if free[cell] & z]


def _rectangle(board: Board, free: list[int]) -> Iterator[Cuts]:
    """Three corners in two boxes that hold the same two digits: were they the fourth's, there were two solutions."""
    n = board.n
    for top, bottom in combinations(range(n), 2):
        for left, right in combinations(range(n), 2):
            corners = [top * n + left, top * n + right, bottom * n + left, bottom * n + right]
            if len({board.of[corner][2] for corner in corners}) != 2:
                continue
            for last in corners:
                bits = {free[corner] for corner in corners if corner != last}
                pair = bits.pop()
                if not bits and pair.bit_count() == 2 and free[last] & pair == pair and free[last] != pair:
                    yield [(last, pair)]


ELIMINATIONS: tuple[tuple[int, Callable[[Board, list[int]], Iterator[Cuts]]], ...] = (
    (4, _subsets(2)),
    (5, _subsets(3)),
    (6, _locked),
    (7, _xy_wing),
    (8, _rectangle),
)

"""Mazes: a way through one fixed maze by sub-goals; how long each stretch is, the question does not tell."""

from __future__ import annotations

import functools
from collections import deque
from itertools import pairwise
from typing import Annotated

import numpy as np
from pydantic import Field, NonNegativeInt, model_validator

from ...core.contracts import Puzzle, TaskPart
from ...core.registry import Card, part
from ...core.rng import Rng

_FIRST = 0x100
"""Code point of the first symbol behind ASCII, for mazes with more open cells than it has signs."""


@part
class MazePart(TaskPart):
    """Ways through a perfect maze (one path between any two cells), past sub-goals in order.

    A symbol is an open cell. Start, sub-goals and end are shown, and between two of them lies a hole of unknown length:
    what models that write at variable length are for; others need ``slots`` of the source.

    Example:
        >>> task = MazePart(size=7, goals=(2,))
        >>> puzzle = task.draw(np.random.default_rng(0))
        >>> task.right(puzzle, puzzle.text), task.right(puzzle, "".join(puzzle.question))
        (True, False)
    """

    size: Annotated[int, Field(ge=5, le=41)] = 11
    """Cells of a side, walls included; odd."""
    goals: tuple[Annotated[int, Field(ge=2, le=20)], ...] = (2, 3, 5)
    """Places that are shown, start and end included; each number equally often, and a level of its own."""
    maze: NonNegativeInt = 0
    """Seed of the maze, which is one for all puzzles."""
    card = Card(
        summary="Ways through one perfect maze by sub-goals; any valid way is right",
        paper="for variable length: Kim et al. 2025, FlexMDM, arXiv 2509.01025",
        equation="consecutive cells are neighbours and open; sub-goals come in order",
        differs="11x11 instead of 41x41 cells",
        cost="about 1 ms a puzzle",
    )

    @model_validator(mode="after")
    def _whole(self) -> MazePart:
        if self.size % 2 == 0:
            raise ValueError(f"size {self.size} is even; walls and rooms alternate, so it should be odd")
        if not self.goals or len(set(self.goals)) < len(self.goals):
            raise ValueError(f"goals {self.goals} should name numbers, each once")
        return self

    @property
    def symbols(self) -> str:
        return "".join(_symbols(self.size, self.maze))

    @property
    def longest(self) -> int:
        return (max(self.goals) - 1) * 2 * (_farthest(self.size, self.maze) - 1) + 1

    @property
    def levels(self) -> tuple[str, ...]:
        return tuple(f"{count} goals" for count in sorted(self.goals))

    def draw(self, generator: np.random.Generator) -> Puzzle:
        around, names = _neighbours(self.size, self.maze), _symbols(self.size, self.maze)
        count = int(generator.choice(self.goals))
        goals = [int(generator.integers(len(around)))]
        while len(goals) < count:
            cell = int(generator.integers(len(around)))
            if cell != goals[-1] and cell not in around[goals[-1]]:
                goals.append(cell)
        cells, holes = goals[:1], list[tuple[int, int]]()
        for start, end in pairwise(goals):
            way = _way(around, start, end)
            holes.append((len(cells), len(cells) + len(way) - 2))
            cells += way[1:]
        return Puzzle("".join(names[cell] for cell in cells), tuple(holes), f"{count} goals")

    def right(self, puzzle: Puzzle, text: str) -> bool:
        places = {symbol: cell for cell, symbol in enumerate(_symbols(self.size, self.maze))}
        if not set(text) <= places.keys() or not puzzle.keeps(text):
            return False
        around = _neighbours(self.size, self.maze)
        return all(places[b] in around[places[a]] for a, b in pairwise(text))

    def solve(self, puzzle: Puzzle) -> str | None:
        around, names = _neighbours(self.size, self.maze), _symbols(self.size, self.maze)
        goals = [names.index(piece) for piece in puzzle.question]
        cells = goals[:1]
        for start, end in pairwise(goals):
            cells += _way(around, start, end)[1:]
        return "".join(names[cell] for cell in cells)


@functools.lru_cache(32)
def _neighbours(size: int, seed: int) -> tuple[tuple[int, ...], ...]:
    """For each open cell of the maze, the open cells beside it: a tree, dug by a random depth-first search."""
    generator, rooms = Rng(seed)("maze").at(), (size - 1) // 2
    opened, trail = {(1, 1)}, [(0, 0)]
    seen = {(0, 0)}
    while trail:
        row, column = trail[-1]
        near = [(row + r, column + c) for r, c in ((0, 1), (1, 0), (0, -1), (-1, 0))]
        new = [room for room in near if room not in seen and all(0 <= x < rooms for x in room)]
        if not new:
            trail.pop()
            continue
        chosen = new[int(generator.integers(len(new)))]
        opened |= {(row + chosen[0] + 1, column + chosen[1] + 1), (2 * chosen[0] + 1, 2 * chosen[1] + 1)}
        seen.add(chosen)
        trail.append(chosen)
    cells = sorted(opened)
    number = {cell: i for i, cell in enumerate(cells)}
    beside = ([(r, c + 1), (r + 1, c), (r, c - 1), (r - 1, c)] for r, c in cells)
    return tuple(tuple(number[cell] for cell in near if cell in number) for near in beside)


@functools.lru_cache(32)
def _symbols(size: int, seed: int) -> tuple[str, ...]:
    """The symbol of each open cell."""
    signs = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    count = len(_neighbours(size, seed))
    return tuple((signs + [chr(_FIRST + i) for i in range(max(0, count - len(signs)))])[:count])


@functools.lru_cache(32)
def _farthest(size: int, seed: int) -> int:
    """Cells of the longest shortest path from the first open cell; no two lie further apart than twice its steps."""
    around = _neighbours(size, seed)
    return max(len(_way(around, 0, other)) for other in range(len(around)))


def _way(around: tuple[tuple[int, ...], ...], start: int, end: int) -> list[int]:
    """The shortest path between two cells, both included, by breadth-first search."""
    before, waiting = {start: start}, deque([start])
    while waiting and end not in before:
        cell = waiting.popleft()
        for near in around[cell]:
            if near not in before:
                before[near] = cell
                waiting.append(near)
    way = [end]
    while way[-1] != start:
        way.append(before[way[-1]])
    return way[::-1]

"""Sudoku: uniqueness, grades and search nodes, against an exhaustive count and a public convention's recorded sets."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoflop.data.sudoku.board import Board, search
from isoflop.data.sudoku.grade import BEYOND, grade
from isoflop.data.sudoku.make import dig, full_grid, symmetry
from isoflop.data.tasks.sudoku import SudokuPart

SIZES = (4, 6)


def test_there_are_288_grids_of_four() -> None:
    board = Board(4)
    assert len(search(board, [0] * 16, limit=1000).grids) == 288
    made = {tuple(full_grid(board, np.random.default_rng(i))) for i in range(3000)}
    assert len(made) == 288, "some grids never come"


def test_the_search_counts_what_trying_everything_counts() -> None:
    board, generator = Board(4), np.random.default_rng(1)
    for _ in range(20):
        grid = full_grid(board, generator)
        for cell in generator.permutation(16)[:5].tolist():
            grid[cell] = 0
        empty = [cell for cell, digit in enumerate(grid) if not digit]
        tried = (dict(zip(empty, digits, strict=True)) for digits in product(range(1, 5), repeat=5))
        count = sum(board.solved([filled.get(cell, digit) for cell, digit in enumerate(grid)]) for filled in tried)
        assert len(search(board, grid, limit=99).grids) == count


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), size=st.sampled_from(SIZES))
def test_a_dug_puzzle_has_one_solution_and_a_symmetry_keeps_its_grade(seed: int, size: int) -> None:
    board, generator = Board(size), np.random.default_rng(seed)
    solution = full_grid(board, generator)
    assert board.solved(solution)
    puzzle = dig(board, solution, 0, generator)
    found = search(board, puzzle)
    assert found.grids == [solution]
    for cell in (cell for cell, digit in enumerate(puzzle) if digit):  # minimal: every clue is needed
        assert len(search(board, [0 if i == cell else d for i, d in enumerate(puzzle)]).grids) == 2
    graded = grade(board, puzzle)
    filled = [digit for digit in graded.grid if digit]
    assert all(digit in (0, right) for digit, right in zip(graded.grid, solution, strict=True))
    assert len(filled) - sum(digit > 0 for digit in puzzle) == len(graded.order) == len(graded.strategies)
    assert (graded.grade < BEYOND) == (len(filled) == size * size)
    cells, digits = symmetry(board, generator)
    moved = [digits[puzzle[cell]] for cell in cells]
    assert board.solved([digits[solution[cell]] for cell in cells])
    assert grade(board, moved).grade == graded.grade


def test_a_puzzle_that_contradicts_itself_has_no_solution() -> None:
    assert search(Board(4), [1, 1, *[0] * 14]).grids == []


def test_grades_and_nodes_are_those_of_the_recorded_sets(shared: Path) -> None:
    data, board = np.load(shared / "data" / "models" / "sudoku_test.npz"), Board(9)
    hard = np.load(shared / "data" / "models" / "sudoku_hard_test.npz")
    rows = [*range(40), *np.flatnonzero(data["grade"] > 5)[:20].tolist()]
    for row in rows:
        puzzle, found = data["puzzle"][row].tolist(), grade(board, data["puzzle"][row].tolist())
        assert found.grade == data["grade"][row]
        assert list(found.grid) == data["solution"][row].tolist()
        searched = search(board, puzzle)
        assert searched.nodes == data["search_nodes"][row]
        assert searched.grids == [data["solution"][row].tolist()]
    assert {grade(board, hard["puzzle"][row].tolist()).grade for row in range(20)} == {BEYOND}


@pytest.mark.parametrize("order", ["rows", "random", "solver"])
def test_moves_fill_every_cell_once_and_begin_with_the_clues(order: str) -> None:
    task = SudokuPart(size=4, layout="moves", order=order)  # type: ignore[arg-type]
    puzzle = task.draw(np.random.default_rng(3))
    moves = [puzzle.text[i : i + 3] for i in range(0, 48, 3)]
    assert len({move[:2] for move in moves}) == 16
    clues = task.clues(puzzle)
    hidden = puzzle.holes[0][0] // 3
    assert [int(move[2]) for move in moves[:hidden]] == [digit for digit in clues if digit]
    cells = [(int(move[0]) - 1) * 4 + int(move[1]) - 1 for move in moves[hidden:]]
    if order == "solver":
        assert cells == list(grade(task.board, clues).order)
    assert (cells == sorted(cells)) == (order == "rows")


def test_hard_is_what_a_search_has_to_branch_on() -> None:
    task, seen = SudokuPart(size=6, givens=(6, 12)), set()
    for i in range(30):
        puzzle = task.draw(np.random.default_rng(i))
        nodes = search(task.board, task.clues(puzzle)).nodes
        assert puzzle.level == ("hard" if nodes >= 1 else "easy")
        seen.add(puzzle.level)
    assert seen == {"easy", "hard"}


def test_ranges_and_orders_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="no range below 16 cells"):
        SudokuPart(size=4, givens=(9, 20))
    with pytest.raises(ValueError, match="use layout=moves"):
        SudokuPart(size=4, order="solver")

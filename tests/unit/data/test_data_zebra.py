"""Zebra puzzles: the search against all grids, one solution each, no clue too many, and their levels."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoflop.core.errors import DataError
from isoflop.data.tasks.zebra import ZebraPart
from isoflop.data.zebra.clues import Clue, follows, search, true_clues


def every_grid(size: int, attributes: int) -> list[tuple[int, ...]]:
    orders = list(itertools.permutations(range(size)))
    return [tuple(h for order in chosen for h in order) for chosen in itertools.product(orders, repeat=attributes)]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_the_search_finds_the_grids_that_trying_all_finds(data: Any) -> None:
    size, attributes = data.draw(st.sampled_from([(2, 3), (3, 2), (3, 3)]))
    houses = data.draw(st.sampled_from(every_grid(size, attributes)))
    every = true_clues(houses, size)
    chosen = data.draw(st.lists(st.sampled_from(every), max_size=6, unique=True))
    wanted = {grid for grid in every_grid(size, attributes) if all(clue.holds(grid) for clue in chosen)}
    found = search(chosen, size=size, attributes=attributes, limit=1000)
    assert set(found.grids) == wanted
    assert len(found.grids) == len(wanted)
    assert (found.nodes > 0) >= (len(wanted) > 1)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_what_follows_step_by_step_is_the_only_grid(data: Any) -> None:
    size, attributes = data.draw(st.sampled_from([(2, 3), (3, 2), (3, 3)]))
    every = true_clues(data.draw(st.sampled_from(every_grid(size, attributes))), size)
    chosen = data.draw(st.lists(st.sampled_from(every), max_size=8, unique=True))
    if follows(chosen, size=size, attributes=attributes):
        assert len(search(chosen, size=size, attributes=attributes, limit=2).grids) == 1
    assert follows(every, size=size, attributes=attributes)


def test_clues_that_contradict_each_other_leave_no_grid() -> None:
    assert search([Clue(0, "@", 0), Clue(1, "<", 0)], size=2, attributes=1, limit=2).grids == ()


@pytest.mark.parametrize("relation", ["=", "<", "/", "~"])
def test_relations_mean_what_they_say(relation: str) -> None:
    means = {
        "=": lambda a, b: a == b,
        "<": lambda a, b: a < b,
        "/": lambda a, b: b == a + 1,
        "~": lambda a, b: abs(a - b) == 1,
    }
    for a, b in itertools.product(range(4), repeat=2):
        assert Clue(0, relation, 1).holds((a, b)) == means[relation](a, b)


def test_a_puzzle_has_one_solution_and_its_clues_are_needed_or_fill_up() -> None:
    task = ZebraPart(houses=3, attributes=3)
    for seed in range(8):
        puzzle = task.draw(np.random.default_rng(seed))
        clues = task._clues(puzzle.text)
        assert clues is not None
        assert len({*clues}) == task.count
        grids = [grid for grid in every_grid(3, 3) if all(clue.holds(grid) for clue in clues)]
        assert grids == [task._grid(puzzle.text)]


def test_the_shortest_list_of_clues_has_none_too_many() -> None:
    task, generator = ZebraPart(houses=3, attributes=2), np.random.default_rng(0)
    order = [
        c for i in [generator.permutation(18)] for c in (true_clues((0, 1, 2, 2, 0, 1), 3)[j % 18] for j in i.tolist())
    ]
    needed = task._needed(order, generator)
    assert task._unique(needed)
    assert not any(task._unique([c for c in needed if c != clue]) for clue in needed)


def test_any_change_of_the_grid_is_wrong() -> None:
    task = ZebraPart(houses=3, attributes=2)
    puzzle = task.draw(np.random.default_rng(1))
    start = puzzle.holes[0][0]
    right = [
        "".join(grid)
        for grid in itertools.permutations(puzzle.text[start:])
        if task.right(puzzle, puzzle.text[:start] + "".join(grid))
    ]
    assert right == [puzzle.text[start:]]


def test_hard_puzzles_come_up_and_impossible_wishes_are_told() -> None:
    levels = {ZebraPart(houses=4, attributes=4).draw(np.random.default_rng(i)).level for i in range(30)}
    assert levels == {"easy", "hard"}
    with pytest.raises(ValueError, match="is the least that might"):
        ZebraPart(clues=2)
    with pytest.raises(DataError, match="no puzzle of 1 clues"):
        ZebraPart(houses=3, attributes=2).model_copy(update={"clues": 1}).draw(np.random.default_rng(0))

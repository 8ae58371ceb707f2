"""What every part of the slot task must do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from isoflop.core.contracts import Puzzle, TaskPart
from isoflop.core.registry import get, names

# A new part: one row. Name -> the fields of small examples; the first one is what most tests draw from.
EXAMPLES: dict[str, list[dict[str, Any]]] = {
    "sudoku": [
        {"size": 4},
        {"size": 4, "layout": "after", "levels_by": "grade"},
        {"size": 4, "layout": "moves", "order": "random"},
        {"size": 6, "layout": "moves", "order": "solver"},
    ],
    "addition": [{"digits": 4}, {"digits": 3, "reverse": True, "hard": 1}],
    "maze": [{"size": 7, "goals": (2, 4)}, {"size": 21, "goals": (3,), "maze": 5}],
    "nae_sat": [{"latents": 6, "observations": 9}],
    "zebra": [{"houses": 3, "attributes": 2}, {"houses": 4, "attributes": 3, "clues": 11}],
    "code": [{"modules": ("textwrap", "bisect")}],
    "event_stream": [{"events": 12, "shown": 5}, {"letters": 3, "events": 9, "half_lives": (2.0,)}],
    "prefix_parity": [
        {"lengths": (1, 6), "evaluate": (4, 9)},
        {"lengths": (2, 5), "evaluate": (3, 8), "layout": "running"},
    ],
    "modular": [{"modulus": 11}, {"modulus": 97, "operation": "*"}],
    "parity": [{"bits": 9, "relevant": 3}],
    "copying": [{"length": (2, 5), "letters": 4}, {"length": (3, 3), "order": "sorted"}],
    "recall": [{"pairs": (2, 5)}],
    "turing_addition": [{"digits": 3}],
    "regression": [{"inputs_each": 2, "examples": 3}, {"inputs_each": 3, "examples": 9, "prime": 2}],
    "word_problems": [{"steps": (1, 2)}, {"steps": (3, 3), "beside": 1.0}],
    "brackets": [{"pairs": (1, 6)}, {"kinds": 4, "pairs": (2, 3)}],
}
ALL = [(name, fields) for name in names("task") for fields in EXAMPLES[name]]
IDS = [f"{name}-{i}" for name in names("task") for i in range(len(EXAMPLES[name]))]


@pytest.fixture(params=ALL, ids=IDS)
def task(request: pytest.FixtureRequest) -> TaskPart:
    name, fields = request.param
    return get("task", name)(**fields)  # type: ignore[return-value]


def drawn(task: TaskPart, count: int = 12) -> list[Puzzle]:
    return [task.draw(np.random.default_rng(i)) for i in range(count)]


def test_puzzles_are_a_function_of_their_random_numbers(task: TaskPart) -> None:
    assert task.card.summary
    assert drawn(task) == drawn(task)
    assert len({puzzle.text for puzzle in drawn(task)}) > 1


def test_puzzles_are_made_of_what_the_task_says(task: TaskPart) -> None:
    for puzzle in drawn(task):
        assert not task.symbols or set(puzzle.text) <= set(task.symbols)
        assert len(puzzle.text) <= task.longest
        assert puzzle.level in task.levels
        assert puzzle.level not in task.taught or len(puzzle.text) <= task.longest_taught
        assert task.length_of(puzzle) > 0
        assert puzzle.filled(puzzle.answers) == puzzle.text
    assert len(set(task.symbols)) == len(task.symbols)
    assert {*task.taught, *task.asked} == set(task.levels)
    assert task.longest_taught <= task.longest
    if task.fixed:
        assert len({len(puzzle.text) for puzzle in drawn(task)}) == 1


def test_the_text_and_the_oracles_answer_are_right(task: TaskPart) -> None:
    for puzzle in drawn(task):
        assert task.right(puzzle, puzzle.text)
        solution = task.solve(puzzle)
        assert solution is None or task.right(puzzle, solution)


def test_the_oracle_does_not_look_into_the_holes(task: TaskPart) -> None:
    symbols = task.symbols or "ab"
    for puzzle in drawn(task):
        blind = puzzle.filled([symbols[0] * len(answer) for answer in puzzle.answers])
        assert task.solve(Puzzle(blind, puzzle.holes, puzzle.level)) == task.solve(puzzle)


def test_what_is_shown_must_be_kept(task: TaskPart) -> None:
    """A check that asks whether ANY clue is kept, and not whether all are, passes nearly everything."""
    for puzzle in drawn(task):
        hidden = {place for start, end in puzzle.holes for place in range(start, end)}
        for place in set(range(len(puzzle.text))) - hidden:
            for symbol in task.symbols:
                changed = puzzle.text[:place] + symbol + puzzle.text[place + 1 :]
                if symbol != puzzle.text[place]:
                    assert not task.right(puzzle, changed)


def test_no_text_at_all_is_an_error(task: TaskPart) -> None:
    puzzle = drawn(task, 1)[0]
    for text in ("", "?", puzzle.text + "?", puzzle.text[:-1] + "?", puzzle.text[:-1], "\0" * len(puzzle.text)):
        assert not task.right(puzzle, text)


def test_a_variant_is_a_puzzle_of_the_same_level(task: TaskPart) -> None:
    for i, puzzle in enumerate(drawn(task)):
        variant = task.variant(puzzle, np.random.default_rng(i))
        assert variant.level == puzzle.level
        assert task.right(variant, variant.text)
        assert sum(map(len, variant.answers)) == sum(map(len, puzzle.answers))

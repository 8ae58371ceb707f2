"""Code with gaps: what is hidden, what counts as right, and that no function is on both sides."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

from isoflop.core.context import Context
from isoflop.core.contracts import Puzzle
from isoflop.core.errors import DataError
from isoflop.core.registry import get
from isoflop.core.rng import Rng
from isoflop.data.puzzles import puzzles
from isoflop.data.tasks.code import CodePart

TASK = CodePart(modules=("textwrap", "bisect", "json.decoder"))
WRITTEN = "def f(x):\n    y = x + 1\n    return y"


def drawn(count: int) -> list[Puzzle]:
    return [TASK.draw(np.random.default_rng(i)) for i in range(count)]


def test_gaps_are_of_their_kind() -> None:
    found = drawn(150)
    assert {puzzle.level for puzzle in found} == {"line", "lines", "span"}
    for puzzle in found:
        (start, end), answer = puzzle.holes[0], puzzle.answers[0]
        assert answer == answer.strip() != ""
        assert start > puzzle.text.index("\n"), "the first line is shown"
        if puzzle.level == "line":
            assert "\n" not in answer
        if puzzle.level != "span":
            assert puzzle.text[:start].rpartition("\n")[2].strip() == ""
            assert puzzle.text[end:].partition("\n")[0].strip() == ""
        if puzzle.level == "lines":
            assert answer.count("\n") <= 12


def test_functions_have_no_docstring_and_parse() -> None:
    for puzzle in drawn(60):
        body = ast.parse(puzzle.text).body
        assert len(body) == 1
        assert ast.get_docstring(body[0]) is None  # type: ignore[arg-type]
        assert puzzle.text.isascii()


def test_code_that_means_the_same_is_right_and_code_that_parses_is_well_formed() -> None:
    hole = WRITTEN.index("y = ")
    puzzle = Puzzle(WRITTEN, ((hole, hole + 9),), "line")
    same, other, broken = (puzzle.filled([text]) for text in ("y = x+1  # one more", "y = x + 2", "y = (x + 1"))
    assert [TASK.right(puzzle, text) for text in (WRITTEN, same, other, broken)] == [True, True, False, False]
    assert [TASK.formed(puzzle, text) for text in (same, other, broken, WRITTEN.replace("f", "g"))] == [
        True,
        True,
        False,
        False,
    ]
    assert TASK.right(puzzle, "def f(x):\n    return y") is False


def test_no_function_is_both_trained_on_and_held_out() -> None:
    sides = puzzles(TASK, examples=60, variants=1, heldout=3, levels=TASK.levels, seed=0)
    held = {puzzle.text for found in sides.heldout.values() for puzzle in found}
    assert held
    assert not held & {puzzle.text for puzzle in sides.train}


def test_the_sources_are_part_of_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another release of Python has other functions: its puzzles must not be taken from the cache."""
    source = get("source", "task")(task=TASK, examples=4, heldout=1)
    ctx = Context(Rng(0), tmp_path, get("tokenizer", "bytes")(), vocab_size=257, batch=2, length=400)  # type: ignore[arg-type]
    one = source.build(ctx)
    monkeypatch.setattr(CodePart, "inputs", lambda self: "another release")
    other = source.build(ctx)
    assert one.fingerprint != other.fingerprint
    assert len(list(tmp_path.iterdir())) == 2


def test_what_is_not_there_is_told() -> None:
    with pytest.raises(DataError, match="no source of no_such_module"):
        CodePart(modules=("no_such_module",)).draw(np.random.default_rng(0))
    with pytest.raises(DataError, match="no function of keyword has 64"):
        CodePart(modules=("keyword",), most=64).draw(np.random.default_rng(0))

"""Rows of puzzles: what counts, what is padding, what is held out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from isoflop.core.context import Context
from isoflop.core.contracts import HeldOut, HeldOutPuzzles, Puzzle
from isoflop.core.errors import DataError, RecipeError
from isoflop.core.recipe import Recipe
from isoflop.core.registry import get
from isoflop.core.rng import Rng
from isoflop.data.puzzles import PuzzleSource, Rows
from isoflop.data.tokenizers.symbols import Symbols

TREE: dict[str, Any] = {
    "source": {"name": "task", "task": {"name": "sudoku", "size": 4}, "examples": 40, "heldout": 3},
    "tokenizer": {"name": "symbols", "symbols": "01234"},
    "model": "transformer",
    "budget": {"steps": 2},
    "train": {"batch": 4, "length": 16},
}


def live(cache: Path, **fields: Any) -> tuple[PuzzleSource, Context]:
    recipe = Recipe.from_json({**TREE, "source": {**TREE["source"], **fields}})
    ctx = Context(Rng(0), cache, recipe.tokenizer, recipe.vocab_size, batch=4, length=16)
    return recipe.source.build(ctx), ctx  # type: ignore[return-value]


def test_a_row_is_a_puzzle_and_counts_what_is_hidden(tmp_path: Path) -> None:
    source, ctx = live(tmp_path)
    batch = next(source.batches(ctx))
    assert batch.mask is not None
    assert batch.targets.shape == (4, 16)
    assert torch.equal(batch.inputs[:, 1:], batch.targets[:, :-1])
    assert (batch.inputs[:, 0] == source.tokenizer.eot).all()
    assert not batch.columns
    assert 0 < batch.units == batch.text_bytes < 64


def test_no_training_puzzle_asks_what_a_held_out_one_asks(tmp_path: Path) -> None:
    source, _ = live(tmp_path)
    held = {puzzle.question for level in source.heldout().values() for puzzle in level.puzzles}  # type: ignore[attr-defined]
    assert held
    assert not held & {puzzle.question for puzzle in source._sides.train}
    assert len(source._sides.train) == 40


def test_they_are_the_same_from_the_cache_and_anew(tmp_path: Path) -> None:
    first, _ = live(tmp_path / "a")
    for cache in ("a", "b"):
        again, _ = live(tmp_path / cache)
        assert again._sides == first._sides
        assert again.fingerprint == first.fingerprint
        assert again.heldout_digest() == first.heldout_digest()
    other, _ = live(tmp_path / "a", seed=1)
    assert other.fingerprint != first.fingerprint


def test_more_training_puzzles_change_none_that_is_held_out(tmp_path: Path) -> None:
    assert live(tmp_path)[0].heldout_digest() == live(tmp_path, examples=44)[0].heldout_digest()


def test_variants_are_training_puzzles_too(tmp_path: Path) -> None:
    source, _ = live(tmp_path, variants=4)
    assert len({puzzle.text for puzzle in source._sides.train}) > 30


def test_levels_can_be_kept_out_of_training(tmp_path: Path) -> None:
    task = {"name": "addition", "digits": 2}
    tree = {**TREE, "source": {"name": "task", "task": task, "examples": 50, "heldout": 5, "train_levels": ["easy"]}}
    recipe = Recipe.from_json({**tree, "tokenizer": {"name": "symbols", "symbols": "0123456789+="}})
    ctx = Context(Rng(0), tmp_path, recipe.tokenizer, recipe.vocab_size, batch=4, length=16)
    source: Any = recipe.source.build(ctx)
    assert {puzzle.level for puzzle in source._sides.train} == {"easy"}
    assert set(source.heldout()) == {"easy", "hard"}
    assert source.describe()["puzzles"]["train"] == {"easy": 50}
    assert all(isinstance(held, HeldOut | HeldOutPuzzles) for held in source.heldout().values())


ONE = Puzzle("()[]", ((0, 4),), "short")
TOKENIZER = Symbols("()[]")


@pytest.mark.parametrize(
    ("ends", "ids", "counts", "documents"),
    [
        ("none", [0, 1, 2, 3, 4, 4], [1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 0, 0]),
        ("one", [0, 1, 2, 3, 4, 4], [1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 0]),
        ("all", [0, 1, 2, 3, 4, 4], [1, 1, 1, 1, 1, 1], None),
    ],
)
def test_ends_of_text_are_predicted_as_asked(ends: Any, ids: list[int], counts: list[int], documents: Any) -> None:
    batch = Rows.of([ONE], TOKENIZER, 6, ends).batch([0], TOKENIZER.byte_lengths, "cpu")
    assert batch.targets.tolist() == [ids]
    assert batch.inputs.tolist() == [[4, *ids[:-1]]]
    assert (batch.mask is None and all(counts)) or batch.mask.int().tolist() == [counts]  # type: ignore[union-attr]
    assert ("documents" in batch.columns) == (documents is not None)
    if documents:
        assert batch.columns["documents"].tolist() == [documents]


def test_holes_are_filled_up_to_their_slots() -> None:
    puzzle = Puzzle("([])[]", ((1, 3), (4, 6)), "short")
    rows = Rows.of([puzzle], TOKENIZER, 10, "none", slots=4)
    assert rows.ids.tolist() == [[0, 2, 3, 4, 4, 1, 2, 3, 4, 4]]
    assert rows.counts.astype(int).tolist() == [[0, 1, 1, 1, 1, 0, 1, 1, 1, 1]]
    with pytest.raises(DataError, match="2 tokens, and has 1 slots"):
        Rows.of([puzzle], TOKENIZER, 10, "none", slots=1)


def test_a_row_that_is_too_short_is_an_error() -> None:
    with pytest.raises(DataError, match="takes 5 tokens, and a row has 4"):
        Rows.of([ONE], TOKENIZER, 4, "one")


def test_a_recipe_that_does_not_fit_its_task_is_refused() -> None:
    for change, said in {
        "train.length=15": "takes 16 tokens",
        'tokenizer={name="symbols", symbols="123"}': 'use "01234"',
        "tokenizer=bpe": 'symbols = "01234"',
        "budget={tokens=10}": "depends on its puzzles",
        'source.train_levels=["odd"]': "use easy, hard",
    }.items():
        with pytest.raises(RecipeError, match=said):
            Recipe.from_json(TREE).with_(change)


def test_levels_that_never_come_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"do not come up, only \d+ beside the \d+ held out \(levels: grade 8\); lower"):
        live(
            tmp_path,
            task={"name": "sudoku", "size": 4, "givens": [8, 8], "levels_by": "grade"},
            train_levels=["grade 8"],
        )


def test_bytes_read_them_too(tmp_path: Path) -> None:
    recipe = Recipe.from_json({**TREE, "tokenizer": "bytes"})
    ctx = Context(Rng(0), tmp_path, get("tokenizer", "bytes")(), 257, batch=4, length=16)  # type: ignore[arg-type]
    batch = next(recipe.source.build(ctx).batches(ctx))
    assert set(np.unique(batch.targets.numpy())) <= set(b"1234")

"""Lengths and distinct right texts of what a decoder writes from nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isoflop.core.context import Context
from isoflop.core.contracts import Completion, DecoderPart, Subject
from isoflop.core.errors import UsageError
from isoflop.core.registry import get
from isoflop.core.rng import Rng
from isoflop.evals.metrics.length_distance import LengthDistance, total_variation
from isoflop.evals.metrics.unique_valid import UniqueValid

WORDS = [[0, 1], [0, 1], [0, 0, 1, 1], [1, 0]]
"""Ids of ()()(())( and so on over the symbols ()[]: two copies, another right one, and a wrong one."""


class SaysWords(DecoderPart):
    name = "says_words"

    def build(self, ctx: Any = None) -> Any:
        return self

    def complete(self, model: Any, prompts: Any, budget: int, rng: Any, **_: Any) -> Any:
        for i, prompt in enumerate(prompts):
            assert prompt == [4]
            yield Completion(i, 0, WORDS[i % len(WORDS)], [], "stop")


def posed(cache: Path, task: dict[str, Any]) -> tuple[Subject, Any]:
    source: Any = get("source", "task").model_validate({"task": task, "examples": 4, "heldout": 3})
    tokenizer: Any = get("tokenizer", "symbols")(symbols=source.task.symbols)
    ctx = Context(Rng(0), cache, tokenizer, tokenizer.vocabulary, batch=2, length=20)
    return Subject(None, None, ctx), source.build(ctx).heldout()  # type: ignore[arg-type]


def test_lengths_and_right_texts_are_counted(tmp_path: Path) -> None:
    subject, held = posed(tmp_path, {"name": "brackets", "pairs": [1, 4]})
    assert UniqueValid(SaysWords(), 8).measure(subject, held, Rng(0)).value == 2 / 8
    lengths = [len(puzzle.text) for level in held.values() for puzzle in level.puzzles]
    found = LengthDistance(SaysWords(), 8).measure(subject, held, Rng(0))
    assert found.value == pytest.approx(total_variation([2, 2, 4, 2], lengths))


def test_what_shows_something_is_refused(tmp_path: Path) -> None:
    subject, held = posed(tmp_path, {"name": "addition", "digits": 1})
    with pytest.raises(UsageError, match="show something"):
        UniqueValid(SaysWords(), 4).measure(subject, held, Rng(0))


def test_total_variation_is_a_distance() -> None:
    draw = np.random.default_rng(0)
    a, b = (draw.integers(0, 5, 30).tolist() for _ in range(2))
    assert total_variation(a, a) == 0
    assert total_variation(a, b) == total_variation(b, a)
    assert total_variation([1], [2]) == 1

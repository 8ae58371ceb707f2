"""Accuracy by length: each length apart, rows as long as it needs, whatever training's were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from isoflop.core.context import Context
from isoflop.core.contracts import Subject
from isoflop.core.cost import Cost, Work
from isoflop.core.errors import RecipeError
from isoflop.core.recipe import Recipe
from isoflop.core.rng import Rng
from isoflop.evals.metrics.accuracy_by_length import AccuracyByLengthPart
from isoflop.objectives.losses.next_token import NextTokenPart
from isoflop.train.run import train

TASK = {"name": "prefix_parity", "lengths": [1, 4], "evaluate": [3, 6, 12]}
TREE: dict[str, Any] = {
    "source": {"name": "task", "task": TASK, "examples": 40, "heldout": 8},
    "tokenizer": {"name": "symbols", "symbols": "01="},
    "model": {"name": "shared_convolution", "d_model": 8},
    "metrics": ["accuracy_by_length"],
    "budget": {"steps": 2},
    "train": {"batch": 4, "length": 7},
}


class Counts(torch.nn.Module):
    """Knows parities of words of up to ``limit`` bits, and says 0 for longer ones; ends each text."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit, self.head, self.lengths = limit, torch.eye(4), list[int]()

    def hidden(self, tokens: torch.Tensor, seen: Any = None) -> torch.Tensor:
        self.lengths.append(tokens.shape[1])
        ones, bits = (tokens == 1).cumsum(1), (tokens < 2).cumsum(1)
        said = torch.where(bits > self.limit, 0, ones % 2)
        said = torch.where((tokens == 2).cumsum(1) > (tokens == 2), 3, said)  # behind the answer the text ends
        return torch.nn.functional.one_hot(said, 4).float()

    def flops(self, batch: int, length: int, pattern: Any = None) -> Work:
        return Work(forward=Cost(flops=batch * length))


def test_each_length_is_measured_apart_in_rows_that_fit_it(tmp_path: Path) -> None:
    recipe = Recipe.from_json(TREE)
    ctx = Context(Rng(0), tmp_path, recipe.tokenizer, 4, batch=4, length=7)
    held, model = recipe.source.build(ctx).heldout(), Counts(limit=6)
    subject = Subject(model, NextTokenPart().build(ctx.having(models={"policy": model})), ctx)
    found = AccuracyByLengthPart(puzzles=5, batch=3).build(ctx).measure(subject, held, Rng(0))
    even: Any = held["12"]
    share = sum(puzzle.answers == ("0",) for puzzle in even.puzzles[:5]) / 5
    assert {size: each.value for size, each in found.domains.items()} == {"3": 1.0, "6": 1.0, "12": share}
    assert model.lengths == [6, 6, 9, 9, 15, 15], "the word, =, its parity and the end"
    assert found.n == 15
    assert found.cost.flops == 5 * (6 + 9 + 15)
    assert list(AccuracyByLengthPart().record(found)["domains"]) == ["3", "6", "12"]


def test_a_run_keeps_every_length_with_unit_and_direction(tmp_path: Path) -> None:
    run = train(Recipe.from_json(TREE), tmp_path)
    kept = run.metrics("evaluation")[-1]["metrics"]["accuracy_by_length"]
    assert list(kept["domains"]) == ["3", "6", "12"]
    assert (kept["unit"], kept["higher_is_better"]) == ("of puzzles right", True)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"source": "stdlib"}, "accuracy_by_length needs source to be PosesPuzzles"),
        ({"model": "transformer", "objective": "masked"}, "accuracy_by_length needs objective to be Predicts"),
        ({"train": {"length": 6}}, "the longest puzzle takes 7 tokens"),
    ],
)
def test_what_it_cannot_measure_is_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(RecipeError, match=problem):
        Recipe.from_json({**TREE, **changes})

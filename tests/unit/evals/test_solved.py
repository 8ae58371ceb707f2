"""Solve rate: the task judges, level by level, for decoders of both kinds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from isoflop.core.context import Context
from isoflop.core.contracts import Completion, DecoderPart, Filling, Subject
from isoflop.core.errors import RecipeError
from isoflop.core.recipe import Recipe
from isoflop.core.rng import Rng
from isoflop.data.tasks.addition import AdditionPart
from isoflop.data.tasks.maze import MazePart
from isoflop.decode.decoders.margin import MarginPart
from isoflop.evals.metrics.solved import SolveRate
from isoflop.models.patterns.full import FullPattern

TREE: dict[str, Any] = {
    "source": {"name": "task", "task": {"name": "addition", "digits": 2}, "examples": 20, "heldout": 6},
    "tokenizer": {"name": "symbols", "symbols": "0123456789+="},
    "model": "transformer",
    "objective": "masked",
    "metrics": [{"name": "solved", "decoder": "margin"}],
    "budget": {"steps": 1},
    "train": {"batch": 4, "length": 9},
}


class Knows(torch.nn.Module):
    """Adds easy sums rightly, and says 0 wherever a carry runs far."""

    def __init__(self, task: AdditionPart) -> None:
        super().__init__()
        self.task, self.head = task, torch.nn.Parameter(torch.zeros(14, 1))

    def forward(self, tokens: Any, seen: Any = None) -> Any:
        out = torch.zeros(*tokens.shape, 14)
        for row, ids in enumerate(tokens.tolist()):
            a, b = ("".join(map(str, ids[i : i + 2])) for i in (0, 3))
            answer = str(int(a) + int(b)).zfill(3) if int(a[1]) + int(b[1]) < 10 else "000"
            for place, digit in enumerate(answer, 6):
                out[row, place, int(digit)] = 9.0
        return out


def test_each_level_is_judged_by_the_task(tmp_path: Path) -> None:
    recipe = Recipe.from_json(TREE)
    filling = Filling(mask=13, ids=13, pattern=FullPattern())
    ctx = Context(Rng(0), tmp_path, recipe.tokenizer, 14, batch=4, length=9, filling=filling)
    source: Any = recipe.source.build(ctx)
    model = Knows(source.task)
    subject = Subject(model, None, ctx)  # type: ignore[arg-type]
    found = SolveRate(MarginPart(), 6).measure(subject, source.heldout(), Rng(0))
    held = source.heldout()
    right = {
        level: sum(int(p.text[1]) + int(p.text[4]) < 10 for p in held[level].puzzles) / len(held[level].puzzles)
        for level in held
    }
    assert {level: measured.value for level, measured in found.domains.items()} == right
    assert found.n == sum(len(level.puzzles) for level in held.values())


def test_well_formed_is_the_tasks_weaker_judgement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe.from_json({**TREE, "metrics": [{"name": "well_formed", "decoder": "margin"}]})
    filling = Filling(mask=13, ids=13, pattern=FullPattern())
    ctx = Context(Rng(0), tmp_path, recipe.tokenizer, 14, batch=4, length=9, filling=filling)
    source: Any = recipe.source.build(ctx)
    subject, metric = Subject(Knows(source.task), None, ctx), recipe.metrics[0].build(ctx)  # type: ignore[arg-type]
    solved = SolveRate(MarginPart(), 6).measure(subject, source.heldout(), Rng(0)).value
    assert metric.measure(subject, source.heldout(), Rng(0)).value == solved < 1, "by default it asks the same"
    monkeypatch.setattr(AdditionPart, "formed", lambda self, puzzle, text: len(text) == 9)
    assert metric.measure(subject, source.heldout(), Rng(0)).value == 1


class Writes(torch.nn.Module):
    """Stands for a decoder's model: what it says depends on nothing."""

    head = torch.nn.Parameter(torch.zeros(13, 1))


class Scripted(DecoderPart):
    """Says a fixed string of ids after each prompt, as long as it is let."""

    name = "scripted"
    said: tuple[int, ...]

    def build(self, ctx: Any = None) -> Any:
        return self

    def complete(self, model: Any, prompts: Any, budget: int, rng: Any, *, first: int = 0, listen: Any = None) -> Any:
        for i, prompt in enumerate(prompts, first):
            assert prompt[0] == 12, "a prompt follows an end of text"
            ids: list[int] = []
            for token in self.said[:budget]:
                ids.append(token)
                if listen(i, 0, token):
                    break
            yield Completion(i, 0, ids, [], "told")


def test_a_decoder_that_writes_is_given_as_much_room_as_the_answer_takes(tmp_path: Path) -> None:
    recipe = Recipe.from_json({**TREE, "objective": "next_token", "metrics": ["bits_per_byte"]})
    ctx = Context(Rng(0), tmp_path, recipe.tokenizer, 13, batch=4, length=9)
    source: Any = recipe.source.build(ctx)
    found = SolveRate(Scripted(said=(0, 4, 6, 9, 9)), 6).measure(Subject(Writes(), None, ctx), source.heldout(), Rng(0))  # type: ignore[arg-type]
    held = source.heldout()
    assert found.value == sum(p.text.endswith("=046") for d in held.values() for p in d.puzzles) / found.n


def test_a_decoder_that_does_not_fit_the_objective_is_refused() -> None:
    with pytest.raises(RecipeError, match="decoder sample writes from left to right"):
        Recipe.from_json({**TREE, "metrics": [{"name": "solved", "decoder": "sample"}]})
    with pytest.raises(RecipeError, match="decoder margin fills in what is hidden"):
        Recipe.from_json({**TREE, "objective": "next_token"})
    with pytest.raises(RecipeError, match="judges one sample of each question"):
        Recipe.from_json({**TREE, "metrics": [{"name": "solved", "decoder": {"name": "margin", "samples": 2}}]})
    with pytest.raises(RecipeError, match="needs source to be PosesPuzzles"):
        Recipe.from_json({**TREE, "source": "stdlib"})


class Grows(torch.nn.Module):
    """Wants 40 tokens in every gap, and keeps what it was shown."""

    def __init__(self, vocab: int) -> None:
        super().__init__()
        self.head, self.seen = torch.nn.Parameter(torch.eye(vocab)), list[list[int]]()

    def hidden(self, sequence: Any, seen: Any = None) -> Any:
        self.seen += sequence.tolist()
        return torch.zeros(*sequence.shape, len(self.head))

    def owned(self, vectors: Any, there: Any) -> Any:
        return torch.full(vectors.shape[:2], 40.0)


def test_a_model_that_inserts_is_not_told_how_long_a_hole_is(tmp_path: Path) -> None:
    """It is shown what the puzzle shows, nothing before it, and each hole may take as much as the longest text."""
    task = {"name": "maze", "size": 5, "goals": [3]}
    symbols = MazePart(size=5, goals=(3,)).symbols
    recipe = Recipe.from_json(
        {
            **TREE,
            "source": {"name": "task", "task": task, "examples": 20, "heldout": 3},
            "tokenizer": {"name": "symbols", "symbols": symbols},
            "objective": {"name": "flexmdm", "times": 2},
            "metrics": [{"name": "solved", "decoder": {"name": "insertion", "steps": 6}}],
            "train": {"batch": 4, "length": 40},
        }
    )
    filling = recipe.objective.filling(recipe.vocab_size)
    assert filling is not None
    ctx = Context(Rng(0), tmp_path, recipe.tokenizer, recipe.vocab_size, batch=4, length=40, filling=filling)
    source: Any = recipe.source.build(ctx)
    held, model = source.heldout(), Grows(recipe.vocab_size)
    metric = recipe.metrics[0].build(ctx)
    assert metric.measure(Subject(model, None, ctx), held, Rng(0)).n == 3  # type: ignore[arg-type]
    questions = ["".join(puzzle.question) for puzzle in held["3 goals"].puzzles]
    shown = [source.tokenizer.encode(question).tolist() for question in questions]
    assert [row[1:] for row in model.seen[:3]] == shown, "behind the time stands what is shown, and nothing else"
    longest = max(len(puzzle.text) for puzzle in held["3 goals"].puzzles)
    assert max(len(row) for row in model.seen) > longest + 1, "a hole takes more than its answer"

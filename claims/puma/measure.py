"""Steps to solve half of small Sudokus: random masks against masks that follow where the model is sure.

Both arms train the same model on the same puzzles with the same loss and cost a step; they differ in what is hidden.
Every fifty steps, held-out puzzles are filled in greedily, one cell a call, where the model is surest.

Places are told by learned positions: by rotary ones alone a grid of masks looks the same everywhere. A first run
without them solved 0.36, 0.31 and 0.35 of the puzzles by margin after 1,400 steps on random masks, and 0.21 and 0.20
on progressive ones, where it was stopped.
"""

from __future__ import annotations

import json
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from isoflop.core.recipe import Recipe
from isoflop.core.rng import Rng
from isoflop.store.run import Run
from isoflop.train.build import assemble

SEEDS, STEPS, EVERY, LEVEL, FEW = (1, 2, 3), 350, 50, 0.5, 5
TASK = {"name": "task", "task": {"name": "sudoku", "size": 4}, "examples": 12_000, "heldout": 100}
ARMS = {"random": TASK, "progressive": {"name": "progressive", "source": TASK, "phases": 8}}
SCORES = {
    "margin": lambda top, draw: top[..., 0] - top[..., 1],
    "top": lambda top, draw: top[..., 0],
    "random": lambda top, draw: torch.from_numpy(draw.random(top.shape[:2])),
}


def recipe_of(arm: str, seed: int) -> Recipe:
    """The same run but for what is hidden."""
    mixer = {"name": "attention", "heads": 4}
    return Recipe.from_json(
        {
            "seed": seed,
            "source": ARMS[arm],
            "tokenizer": {"name": "symbols", "symbols": "01234"},
            "model": {"name": "transformer", "d_model": 64, "layers": 2, "mixer": mixer, "positions": 16},
            "objective": {"name": "masked", "corruption": "count"},
            "optimizer": {"name": "adamw", "lr": 0.003},
            "schedule": {"name": "warmup"},
            "budget": {"steps": STEPS},
            "train": {"batch": 32, "length": 16},
        }
    )


@torch.no_grad()
def solved(model: Any, filling: Any, level: Any, score: str, draw: np.random.Generator) -> np.ndarray[Any, Any]:
    """Which puzzles are solved: one cell a call, the likeliest digit where the score is highest."""
    mask = filling.mask
    x = torch.tensor([[mask if token is None else token for token in row] for row in level.templates()])
    rows = torch.arange(len(x))
    while bool((hidden := x == mask).any()):
        top = torch.softmax(filling.logits(model, x), -1).topk(2, -1)
        place = SCORES[score](top.values, draw).masked_fill(~hidden, -2).argmax(1)
        chosen = torch.where(hidden[rows, place], top.indices[rows, place, 0], x[rows, place])
        x[rows, place] = chosen
    texts = [level.tokenizer.decode(row.tolist()) for row in x]
    return np.array([level.task.right(puzzle, text) for puzzle, text in zip(level.puzzles, texts, strict=True)])


def curve(arm: str, seed: int, folder: Path) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Solve rates at every evaluation by score, and at the end by other measures."""
    recipe = recipe_of(arm, seed)
    loop = assemble(recipe, Run.open(folder / f"{arm}-{seed}", recipe))
    filling, level = recipe.objective.filling(recipe.vocab_size), loop.parts.source.heldout()["easy"]
    few = np.array([sum(end - start for start, end in puzzle.holes) >= 16 - FEW for puzzle in level.puzzles])
    rates: dict[str, list[float]] = {"margin": [0.0], "top": [0.0]}
    for step in range(1, STEPS + 1):
        loop.train_step()
        if step % EVERY == 0:
            found = {name: solved(loop.parts.model, filling, level, name, Rng(0).at()) for name in rates}
            for name, right in found.items():
                rates[name].append(float(right.mean()))
            print(arm, seed, step, {name: values[-1] for name, values in rates.items()}, flush=True)
    by_chance = solved(loop.parts.model, filling, level, "random", Rng(seed).at())
    return rates, {"random_order": float(by_chance.mean()), "hard": float(found["margin"][few].mean())}


def steps_to(rates: list[float]) -> float:
    """Steps at which the level is first reached, by a straight line between evaluations; beyond the end: the end."""
    for number, (before, after) in enumerate(pairwise(rates)):
        if after >= LEVEL:
            return EVERY * (number + (LEVEL - before) / (after - before))
    return float(STEPS)


def main(out: str) -> None:
    values: dict[str, list[float]] = {
        "ratio_margin": [],
        "ratio_top": [],
        "random_order_gain": [],
        "hard_gain": [],
    }
    notes, folder = [], Path(tempfile.mkdtemp())
    for seed in SEEDS:
        (random, random_end), (own, own_end) = (curve(arm, seed, folder) for arm in ARMS)
        for name in ("margin", "top"):
            values[f"ratio_{name}"].append(steps_to(random[name]) / steps_to(own[name]))
            notes.append(f"seed {seed}, {name}: random {random[name]}, progressive {own[name]}")
        for name in ("random_order", "hard"):
            values[f"{name}_gain"].append(own_end[name] - random_end[name])
            notes.append(f"seed {seed}, {name}: random {random_end[name]:.3f}, progressive {own_end[name]:.3f}")
    Path(out).write_text(json.dumps({"values": values, "notes": notes}))


if __name__ == "__main__":
    main(sys.argv[1])

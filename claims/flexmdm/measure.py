"""Balanced brackets of random length: masked diffusion of padded words against one that inserts, at equal FLOPs.

Places are told by learned positions: by rotary ones alone a row of masks looks the same everywhere. A first run without
them, stopped after a seed, had 0.26 balanced at distance 0.50 (padded) and 0.11 at 0.45 (growing).
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from isoflop.core.courses import course
from isoflop.core.recipe import Recipe
from isoflop.core.rng import Rng
from isoflop.models.insertion import expected_gaps, read, token_logits
from isoflop.store.run import Run
from isoflop.train.build import assemble, cost_and_steps
from isoflop.train.restore import trained
from isoflop.train.run import train

SEEDS, STEPS, SAMPLES, PAIRS = (1, 2, 3), 250, 300, 8
LENGTH = 2 * PAIRS + 1  # with an end of text behind the longest word
TASK = {"name": "brackets", "kinds": 2, "pairs": [1, PAIRS]}
ENDS = {"masked": "all", "flexmdm": "none"}


def recipe_of(objective: str, seed: int, budget: dict[str, Any], **changes: Any) -> Recipe:
    """The same run but for the objective, and for whether ends of text fill the rows."""
    mixer = {"name": "attention", "heads": 4}
    source = {"name": "task", "task": TASK, "examples": 20_000, "heldout": 50, "ends": ENDS[objective]}
    return Recipe.from_json(
        {
            "seed": seed,
            "source": source,
            "tokenizer": {"name": "symbols", "symbols": "()[]"},
            "model": {"name": "transformer", "d_model": 64, "layers": 3, "mixer": mixer, "positions": LENGTH + 1},
            "objective": objective,
            "optimizer": {"name": "adamw", "lr": 0.003},
            "budget": budget,
            "train": {"batch": 64, "length": LENGTH, "evaluations": 1},
            **changes,
        }
    )


@torch.no_grad()
def padded(model: Any, filling: Any, draw: np.random.Generator, surest: bool) -> list[list[int]]:
    """One token a call, at temperature 1: in random order, which is the model's law, or where the model is surest."""
    x = torch.full((SAMPLES, LENGTH), filling.mask)
    rows = torch.arange(SAMPLES)
    for _ in range(LENGTH):
        p = torch.softmax(filling.logits(model, x).double(), -1)
        score = p.amax(-1) if surest else torch.from_numpy(draw.random(x.shape))
        place = score.masked_fill(x != filling.mask, -1).argmax(1)
        x[rows, place] = drawn(p[rows, place], draw)
    return x.tolist()  # type: ignore[no-any-return]


@torch.no_grad()
def growing(model: Any, filling: Any, draw: np.random.Generator, calls: int) -> list[list[int]]:
    """From nothing, in equal steps of time: hidden tokens are shown, and hidden ones are inserted."""
    rows, a, b = [[] for _ in range(SAMPLES)], course(filling.inserted), course(filling.unmasked)  # type: list[list[int]]
    for call in range(calls):
        t, later, last = call / calls, (call + 1) / calls, call == calls - 1
        lengths, widest = [len(row) for row in rows], max(1, max(map(len, rows)))
        x = torch.tensor([row + [filling.mask] * (widest - len(row)) for row in rows])
        times = torch.full((SAMPLES,), t)
        vectors = read(model, filling, x, torch.tensor(lengths), times)
        tokens = drawn(torch.softmax(token_logits(model, filling, vectors).double(), -1), draw).tolist()
        shows = draw.random(x.shape) < (b.at(later) - b.at(t)) / (1 - b.at(t))
        share = (a.at(later) - a.at(t)) / (1 - a.at(t))
        gaps = expected_gaps(model, vectors, torch.full((SAMPLES,), a.at(t))).numpy()
        comes = np.zeros_like(gaps, dtype=np.int64) if last else draw.poisson(gaps * share)
        for row, (ids, size) in enumerate(zip(rows, lengths, strict=True)):
            shown = [
                tokens[row][i] if token == filling.mask and (last or shows[row, i]) else token
                for i, token in enumerate(ids)
            ]
            more = (
                comes[row, : size + 1].tolist() if size + comes[row, : size + 1].sum() <= LENGTH else [0] * (size + 1)
            )
            pieces = [[filling.mask] * n + [token] for n, token in zip(more, shown, strict=False)]
            rows[row] = [token for piece in pieces for token in piece] + [filling.mask] * more[size]
    return rows


def drawn(p: torch.Tensor, draw: np.random.Generator) -> torch.Tensor:
    """An id for each distribution (..., ids)."""
    u = torch.from_numpy(draw.random(p.shape[:-1]))[..., None]
    return (p.cumsum(-1) < u * p.sum(-1, keepdim=True)).sum(-1).clamp_(max=p.shape[-1] - 1)


def judged(source: Any, found: list[list[int]]) -> tuple[float, float]:
    """Share of balanced words, and how far their lengths are from the true ones (total variation)."""
    eot, level = source.tokenizer.eot, next(iter(source.heldout().values()))
    words = [ids[: ids.index(eot)] if eot in ids else ids for ids in found]
    texts = [source.tokenizer.decode(ids) for ids in words]
    counts = np.bincount([len(text) for text in texts], minlength=LENGTH + 1) / len(texts)
    true = np.array([1 / PAIRS if n and n % 2 == 0 else 0.0 for n in range(LENGTH + 1)])
    right = [source.task.right(level.puzzles[0], text) for text in texts]
    return float(np.mean(right)), float(np.abs(counts - true).sum() / 2)


def measured(recipe: Recipe, root: Path, ways: dict[str, Any]) -> tuple[Run, dict[str, tuple[float, float]]]:
    """A run, and what each way of writing with its model comes to."""
    run = train(recipe.having(name=recipe.id), root)
    source, model = assemble(recipe, run).parts.source, trained(run).model.eval()
    filling = recipe.objective.filling(recipe.vocab_size)
    found = {way: judged(source, write(model, filling, Rng(recipe.seed)(way).at())) for way, write in ways.items()}
    print(recipe.seed, recipe.objective.name, found, flush=True)
    return run, found


def main(out: str) -> None:
    names = ["distance_ratio", "success_gain", "distance_ratio_few", "success_gain_few"]
    values: dict[str, list[float]] = {name: [] for name in [*names, "success_gain_surest", "success_gain_retrofit"]}
    notes, root = [], Path(tempfile.mkdtemp())
    budget = cost_and_steps(recipe_of("masked", 1, {"steps": STEPS}), root)[0].run(STEPS).flops
    for seed in SEEDS:
        found: dict[str, tuple[float, float]] = {}
        whole, half = {"flops": float(budget)}, {"flops": float(budget // 2)}
        ways = {"padded": lambda *a: padded(*a, surest=False), "surest": lambda *a: padded(*a, surest=True)}
        found |= measured(recipe_of("masked", seed, whole), root, ways)[1]
        ways = {"growing": lambda *a: growing(*a, calls=64), "few": lambda *a: growing(*a, calls=LENGTH)}
        found |= measured(recipe_of("flexmdm", seed, whole), root, ways)[1]
        first, _ = measured(recipe_of("masked", seed, half), root, {})
        ways = {"retrofit": lambda *a: growing(*a, calls=64)}
        found |= measured(recipe_of("flexmdm", seed, half, start=str(first.path)), root, ways)[1]
        notes += [f"seed {seed}, {way}: balanced {x[0]:.3f}, distance {x[1]:.3f}" for way, x in found.items()]
        for suffix, way in (("", "growing"), ("_few", "few")):
            values[f"distance_ratio{suffix}"].append(found[way][1] / found["padded"][1])
            values[f"success_gain{suffix}"].append(found[way][0] - found["padded"][0])
        values["success_gain_surest"].append(found["growing"][0] - found["surest"][0])
        values["success_gain_retrofit"].append(found["retrofit"][0] - found["padded"][0])
    Path(out).write_text(json.dumps({"values": values, "notes": notes}))


if __name__ == "__main__":
    main(sys.argv[1])

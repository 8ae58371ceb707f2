"""Error of a masked model against the exact posterior of its finite training set: on training masks, and on its own.

Given what is shown, the exact posterior of a hidden token is the share of the fitting training words that have it
there. The error is the mean over hidden tokens of KL(exact || model), on masks drawn as in training and on those that a
sampler in random order meets, as long as a training word fits them.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from isoflop.core.recipe import Recipe
from isoflop.core.rng import Rng
from isoflop.store.run import Run
from isoflop.train.build import assemble

SEEDS, STEPS, WORDS, PAIRS, DRAWS = (1, 2, 3), 1500, 60, 5, 400
LENGTH = 2 * PAIRS + 1  # an end of text behind each word


def recipe_of(seed: int) -> Recipe:
    task = {"name": "brackets", "kinds": 2, "pairs": [PAIRS, PAIRS]}
    return Recipe.from_json(
        {
            "seed": seed,
            "source": {"name": "task", "task": task, "examples": WORDS, "heldout": 20, "ends": "one"},
            "tokenizer": {"name": "symbols", "symbols": "()[]"},
            "model": {
                "name": "transformer",
                "d_model": 64,
                "layers": 2,
                "mixer": {"name": "attention", "heads": 4},
            },
            "objective": {"name": "masked", "corruption": "count"},
            "optimizer": {"name": "adamw", "lr": 0.003},
            "budget": {"steps": STEPS},
            "train": {"batch": 32, "length": LENGTH},
        }
    )


def exact(x: torch.Tensor, words: torch.Tensor, mask: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The exact posterior (rows, length, ids) of each place, and whether any training word fits (rows,)."""
    fits = ((x[:, None] == words) | (x[:, None] == mask)).all(-1).double()
    chances = torch.einsum("rw,wlv->rlv", fits, torch.nn.functional.one_hot(words, mask).double())
    return chances / fits.sum(1).clamp(min=1)[:, None, None], fits.any(1)


def error(model: Any, filling: Any, x: torch.Tensor, words: torch.Tensor) -> tuple[float, int]:
    """Sum of KL(exact || model) over the hidden tokens of rows that a training word fits, in nats, and their number."""
    target, fits = exact(x, words, filling.mask)
    logs = torch.log_softmax(filling.logits(model, x).double(), -1)
    divergence = (torch.xlogy(target, target) - target * logs).sum(-1)
    counted = (x == filling.mask) & fits[:, None]
    return float(divergence[counted].sum()), int(counted.sum())


@torch.no_grad()
def measured(seed: int, folder: Path) -> dict[str, float]:
    recipe = recipe_of(seed)
    loop = assemble(recipe, Run.open(folder / str(seed), recipe))
    for _ in range(STEPS):
        with torch.enable_grad():
            loop.train_step()
    source, filling, model = loop.parts.source, recipe.objective.filling(recipe.vocab_size), loop.parts.model
    stream = source.batches(loop.ctx.having(batch=WORDS))
    words, draw = torch.unique(next(stream).targets, dim=0), Rng(seed)("samples").at()
    true = words[torch.from_numpy(draw.integers(len(words), size=DRAWS))]
    order = torch.from_numpy(draw.permuted(np.tile(np.arange(LENGTH), (DRAWS, 1)), axis=1))
    own, rows = torch.full((DRAWS, LENGTH), filling.mask), torch.arange(DRAWS)
    totals, outside = np.zeros((2, 2)), 0.0
    for call in range(LENGTH):
        seen = true.masked_fill(order >= call, filling.mask)  # as many shown as the sampler has by now
        totals += [error(model, filling, seen, words), error(model, filling, own, words)]
        outside += float((~exact(own, words, filling.mask)[1]).double().mean()) / LENGTH
        place = (order == call).int().argmax(1)
        p = torch.softmax(filling.logits(model, own).double(), -1)[rows, place].cumsum(-1)
        own[rows, place] = (p < torch.from_numpy(draw.random((DRAWS, 1)))).sum(-1).clamp_(max=filling.ids - 1)
    new = own[~(own[:, None] == words).all(-1).any(1)]
    puzzle = next(iter(source.heldout().values())).puzzles[0]
    texts = [source.tokenizer.decode(ids[:-1]) for ids in new.tolist() if ids[-1] == source.tokenizer.eot]
    balanced = [source.task.right(puzzle, text) for text in texts] + [False] * (len(new) - len(texts))
    (trained, count), (met, number) = totals
    return {
        "error_ratio": (met / max(number, 1)) / (trained / count),
        "outside_share": outside,
        "balanced_new": float(np.mean(balanced)) if balanced else 0.0,
    }


def main(out: str) -> None:
    folder = Path(tempfile.mkdtemp())
    found = [measured(seed, folder) for seed in SEEDS]
    Path(out).write_text(json.dumps({"values": {name: [each[name] for each in found] for name in found[0]}}))


if __name__ == "__main__":
    main(sys.argv[1])

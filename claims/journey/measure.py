"""Eight times to prune at equal training FLOPs, and a law in the mean number of weights against one in their number.

``python measure.py OUT`` trains below ``runs``. Each schedule prunes a model's matrices to a fifth of their weights
between two shares of its steps; each is given the FLOPs of a dense run of ``DENSE`` steps, so that earlier pruning
leaves more steps. Rates are searched for each schedule on a seed of its own. Dense runs of three sizes and three
lengths fit both laws; all pruned runs are left out and foretold by them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from isoflop.core.recipe import Recipe
from isoflop.laws import AverageN, Chinchilla
from isoflop.laws.forms.average_n import mean_parameters
from isoflop.ledger.budgets import step_cost
from isoflop.store.run import Run
from isoflop.train.run import train

SEEDS, TUNING, ROOT = (1, 2, 3, 4), 101, Path("runs")
RATES = (0.008, 0.016, 0.032)
SCHEDULES = ((0, 0.25), (0, 0.5), (0, 0.75), (0.25, 0.5), (0.25, 0.75), (0.25, 1), (0.5, 0.75), (0.5, 1))
PUBLISHED = (0.25, 0.75)
SPARSITY, WIDTH, DENSE = 0.8, 64, 300
WIDTHS, LENGTHS = (24, 40, 64), (75, 150, 300)
BATCH, LENGTH = 8, 64


def recipe_of(seed: int, rate: float, width: int, **changes: Any) -> Recipe:
    """A model of this width over bytes."""
    tree = {
        "name": "journey",
        "seed": seed,
        "source": {"name": "stdlib", "heldout_bytes": 32768},
        "tokenizer": "bytes",
        "model": {
            "name": "transformer",
            "d_model": width,
            "layers": 2,
            "mixer": {"name": "attention", "heads": 4},
            "feed_forward": {"name": "swiglu", "hidden": 8 * width // 3},
        },
        "optimizer": {"name": "adamw", "lr": rate},
        "schedule": "cosine",
        "train": {"batch": BATCH, "length": LENGTH, "evaluations": 1, "checkpoints": 1},
        **changes,
    }
    return Recipe.from_json(tree, source="journey")


def weights_of(width: int) -> float:
    """Weights of the blocks' matrices."""
    return 2.0 * (4 * width**2 + 3 * width * (8 * width // 3))


def dense(seed: int, width: int, steps: int, rate: float) -> Run:
    return train(recipe_of(seed, rate, width, budget={"steps": steps}), ROOT)


def pruned(seed: int, times: tuple[float, float], rate: float, flops: float) -> Run:
    """A run whose matrices lose four fifths of their weights between two shares of its steps."""
    part = {"name": "magnitude", "sparsity": SPARSITY, "begin": times[0], "recover": 1 - times[1]}
    return train(recipe_of(seed, rate, WIDTH, budget={"flops": flops}, parametrization=part), ROOT)


def value(run: Run) -> float:
    return float(run.result["value"])


def searched(flops: float) -> tuple[dict[tuple[float, float], float], dict[int, float]]:
    """The best rate of each schedule, and of each width."""
    found, plain = {}, {}
    for times in SCHEDULES:
        tried = {rate: value(pruned(TUNING, times, rate, flops)) for rate in RATES}
        found[times] = min(tried, key=tried.__getitem__)
        print(f"{times}: {tried}", file=sys.stderr)
    for width in WIDTHS:
        tried = {rate: value(dense(TUNING, width, LENGTHS[1], rate)) for rate in RATES}
        plain[width] = min(tried, key=tried.__getitem__)
    return found, plain


def off(law: Chinchilla, column: str, fitted: dict[str, Any], asked: dict[str, Any]) -> float:
    """Mean size of the relative error of what a law foretells of runs that it has not seen."""
    fit = law.fit({column: fitted["N"], "D": fitted["D"], "loss": fitted["loss"]})
    return float(np.mean(np.abs(fit.predict({column: asked["N"], "D": asked["D"]}) / asked["loss"] - 1)))


def main(out: str) -> None:
    flops = float(step_cost(recipe_of(TUNING, RATES[0], WIDTH, budget={"steps": DENSE})).run(DENSE).flops)
    rates, plain = searched(flops)
    values: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        values.setdefault(name, []).append(float(value))

    tokens = BATCH * LENGTH
    start, end = weights_of(WIDTH), (1 - SPARSITY) * weights_of(WIDTH)
    for seed in SEEDS:
        runs = {times: pruned(seed, times, rates[times], flops) for times in SCHEDULES}
        bits = {times: value(run) for times, run in runs.items()}
        for (begin, finish), found in bits.items():
            note(f"bits_{begin * 100:.0f}_{finish * 100:.0f}", found)
        note("above_best", bits[PUBLISHED] - min(bits.values()))
        note("above_median", bits[PUBLISHED] - float(np.median(list(bits.values()))))
        cells = [(width, steps) for width in WIDTHS for steps in LENGTHS]
        known = [value(dense(seed, width, steps, plain[width])) for width, steps in cells]
        fitted = {
            "N": np.array([weights_of(width) for width, _ in cells]),
            "D": np.array([float(steps * tokens) for _, steps in cells]),
            "loss": np.array(known),
        }
        lengths = np.array([runs[times].figure("step") * tokens for times in SCHEDULES])
        asked = {"D": lengths, "loss": np.array([bits[times] for times in SCHEDULES])}
        begins, ends = np.array(SCHEDULES, float).T
        mean = mean_parameters(np.full(len(begins), start), np.full(len(begins), end), begins, ends)
        own = off(AverageN(), "N_avg", fitted, {**asked, "N": mean})
        others = [off(Chinchilla(), "N", fitted, {**asked, "N": np.full(len(begins), n)}) for n in (start, end)]
        note("error_average_n", own)
        note("error_start", others[0])
        note("error_end", others[1])
        note("average_n_saves", min(others) - own)
        print(f"seed {seed}: { ({k: round(v[-1], 4) for k, v in values.items()}) }", file=sys.stderr)
    notes = [
        f"rates of the schedules: {[rates[times] for times in SCHEDULES]}, of widths {WIDTHS}: {[*plain.values()]}"
    ]
    Path(out).write_text(json.dumps({"values": values, "notes": notes}))


if __name__ == "__main__":
    main(sys.argv[1])

"""Parity of words of up to 16 bits, learned by one shared cell and by a Transformer of equal FLOPs, asked up to 256.

Both predict one token, the parity behind "=", of the same training words. The cell trains for ``STEPS`` steps, and the
Transformer gets as many FLOPs as that took. Each has six trials on a tuning seed, three rates by two forms (a cell that
reads two or three positions; rotary positions or none), and the best on held-out words of 16 and 32 bits is chosen:
longer ones decide nothing before the end. A seed is right at a length if it answers 95 % of 200 held-out words there.
"""

from __future__ import annotations

import json
import sys
from itertools import product
from pathlib import Path
from typing import Any

from isoflop.core.recipe import Recipe
from isoflop.train.run import train

SEEDS, TUNING, STEPS, RIGHT = tuple(range(1, 11)), 101, 600, 0.95
TAUGHT, CHOOSING, BEYOND = 16, (16, 32), (64, 128, 256)
ROOT = Path("runs/rcnn")
CELLS: list[dict[str, Any]] = [
    {"model": {"name": "shared_convolution", "d_model": 16, "hidden": 32, "kernel": kernel}, "lr": lr}
    for kernel, lr in product((2, 3), (0.002, 0.004, 0.008))
]
TRANSFORMERS: list[dict[str, Any]] = [
    {
        "model": {
            "name": "transformer",
            "d_model": 32,
            "layers": 3,
            "mixer": {"name": "attention", "heads": 4, "position": position},
        },
        "lr": lr,
    }
    for position, lr in product(("rotary", "none"), (0.002, 0.004, 0.008))
]


def accuracies(form: dict[str, Any], seed: int, budget: dict[str, Any], lengths: tuple[int, ...]) -> tuple[Any, float]:
    """By length, and the FLOPs of training."""
    task = {"name": "prefix_parity", "lengths": [1, TAUGHT], "evaluate": lengths}
    recipe = Recipe.from_json(
        {
            "seed": seed,
            "source": {"name": "task", "task": task, "examples": 50_000, "heldout": 200, "ends": "none"},
            "tokenizer": {"name": "symbols", "symbols": "01="},
            "model": form["model"],
            "optimizer": {"name": "adamw", "lr": form["lr"]},
            "schedule": "wsd",
            "metrics": ["accuracy_by_length"],
            "budget": budget,
            "train": {"batch": 64, "length": TAUGHT + 2, "evaluations": 1},
        }
    )
    run = train(recipe, ROOT, threads=1)
    found = {int(length): share for length, share in run.metrics("evaluation")[-1]["domains"].items()}
    print(seed, form, {length: round(share, 3) for length, share in found.items()}, flush=True)
    return found, float(run.result["flops"])


def tuned(forms: list[dict[str, Any]], budget: dict[str, Any]) -> tuple[dict[str, Any], float]:
    """The form that answers most words of the lengths that choose, on the tuning seed; and its FLOPs."""
    tried = [(form, *accuracies(form, TUNING, budget, CHOOSING)) for form in forms]
    best = max(tried, key=lambda each: sum(each[1].values()))
    return best[0], best[2]


def main(out: str) -> None:
    ROOT.mkdir(parents=True, exist_ok=True)
    cell, flops = tuned(CELLS, {"steps": STEPS})
    budgets = {"cell": {"steps": STEPS}, "transformer": {"flops": flops}}
    forms = {"cell": cell, "transformer": tuned(TRANSFORMERS, budgets["transformer"])[0]}
    values: dict[str, list[float]] = {}
    for seed in SEEDS:
        spent, right = {}, {}
        for name, form in forms.items():
            found, spent[name] = accuracies(form, seed, budgets[name], (*CHOOSING, *BEYOND))
            for length, share in found.items():
                values.setdefault(f"{name}_{length}", []).append(share)
            right[name] = float(all(found[length] >= RIGHT for length in BEYOND))
            values.setdefault(f"{name}_right", []).append(right[name])
            values.setdefault(f"{name}_learned", []).append(float(found[TAUGHT] >= RIGHT))
        values.setdefault("right_over_transformer", []).append(right["cell"] - right["transformer"])
        values.setdefault("flops_ratio", []).append(spent["transformer"] / spent["cell"])
    notes = [f"{STEPS} steps of 64 words; chosen: {json.dumps(forms)}"]
    Path(out).write_text(json.dumps({"values": values, "notes": notes}))


if __name__ == "__main__":
    main(sys.argv[1])

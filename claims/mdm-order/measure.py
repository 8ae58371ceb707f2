"""Solve rates of the same weights in five orders, beside autoregressive models of equal compute.

A masked diffusion model is trained on Sudoku in place; held-out puzzles are filled in greedily, one cell a call. Two
autoregressive models of the same width and depth get the same FLOPs on the same puzzles, written as row, column and
digit of each cell: row by row, and as human strategies fill the cells. ``--scale gpu`` is 9x9 with 6M parameters.

All models are told places by learned positions: by rotary ones alone a grid of masks looks the same everywhere.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from isoflop.core.contracts import Subject
from isoflop.core.recipe import Recipe
from isoflop.core.registry import get
from isoflop.core.rng import Rng
from isoflop.evals.metrics.solved import SolveRate
from isoflop.store.run import Run
from isoflop.train.build import assemble
from isoflop.train.restore import restore
from isoflop.train.run import train

SEEDS, TUNING, EVERY, ENOUGH = (1, 2, 3), 101, 200, 0.10
ORDERS: dict[str, dict[str, Any]] = {
    "random": {"name": "random_order"},
    "left_to_right": {"name": "margin", "block": 1},
    "entropy": {"name": "entropy"},
    "top": {"name": "top_probability"},
    "margin": {"name": "margin"},
}
SCALES: dict[str, dict[str, Any]] = {
    "cpu": {"size": 6, "width": 112, "layers": 4, "batch": 64, "examples": 40_000, "most": 4000, "device": "cpu"},
    "gpu": {"size": 9, "width": 256, "layers": 8, "batch": 512, "examples": 400_000, "most": 20_000, "device": "cuda"},
}


def recipe_of(scale: dict[str, Any], seed: int, budget: dict[str, Any], order: str = "") -> Recipe:
    """A run; with ``order`` an autoregressive one on moves in this order."""
    length, task = scale["size"] ** 2 * (3 if order else 1), {"name": "sudoku", "size": scale["size"]}
    if order:
        task |= {"layout": "moves", "order": order}
    source = {"name": "task", "task": task, "examples": scale["examples"], "variants": 16, "heldout": 200}
    return Recipe.from_json(
        {
            "seed": seed,
            "source": source,
            "tokenizer": {"name": "symbols", "symbols": "0123456789"[: scale["size"] + 1]},
            "model": {
                "name": "transformer",
                "d_model": scale["width"],
                "layers": scale["layers"],
                "mixer": {"name": "attention", "heads": 4},
                "positions": length,
            },
            "objective": "next_token" if order else "masked",
            "optimizer": {"name": "adamw", "lr": 0.002},
            "schedule": {"name": "warmup"},
            "budget": budget,
            "train": {
                "batch": scale["batch"],
                "length": length,
                "precision": "bf16",
                "device": scale["device"],
                "evaluations": 1,
            },
        }
    )


def rates(session: Any, decoder: dict[str, Any], puzzles: int) -> dict[str, float]:
    """Solve rate by level."""
    fields = {"batch": 100, **{key: value for key, value in decoder.items() if key != "name"}, "temperature": 0.0}
    metric = SolveRate(get("decoder", decoder["name"])(**fields), puzzles)  # type: ignore[arg-type]
    parts = session.parts
    subject = Subject(parts.model, parts.objective, session.ctx)
    found = metric.measure(subject, parts.source.heldout(), Rng(0))
    return {level: measured.value for level, measured in found.domains.items()}


def steps_of(scale: dict[str, Any], folder: Path) -> int:
    """The first multiple of ``EVERY`` steps at which a random order solves enough easy puzzles on the tuning seed."""
    recipe = recipe_of(scale, TUNING, {"steps": scale["most"]})
    loop = assemble(recipe, Run.open(folder / "tuning", recipe))
    for step in range(1, scale["most"] + 1):
        loop.train_step()
        if step % EVERY == 0:
            rate = rates(loop, ORDERS["random"], 60)["easy"]
            print("tuning seed", step, rate, flush=True)
            if rate >= ENOUGH:
                return step
    raise SystemExit(f"a random order solves less than {ENOUGH:.0%} after {scale['most']} steps")


def main(out: str, name: str, root: str) -> None:
    scale, folder = SCALES[name], Path(root)
    folder.mkdir(parents=True, exist_ok=True)
    chosen = folder / f"steps-{name}.json"
    steps = json.loads(chosen.read_text()) if chosen.exists() else steps_of(scale, folder)
    chosen.write_text(json.dumps(steps))
    table: dict[str, list[dict[str, float]]] = {}
    for seed in SEEDS:
        run = train(recipe_of(scale, seed, {"steps": steps}), folder, threads=1)
        session, flops = restore(run), float(run.result["flops"])
        for order, decoder in ORDERS.items():
            table.setdefault(order, []).append(rates(session, decoder, 200))
        for order in ("rows", "solver"):
            arm = restore(train(recipe_of(scale, seed, {"flops": flops}, order), folder, threads=1))
            table.setdefault(f"autoregressive {order}", []).append(rates(arm, {"name": "sample"}, 200))
        print(seed, {order: found[-1] for order, found in table.items()}, flush=True)
    easy, hard = (
        {order: [each[level] for each in found] for order, found in table.items()} for level in ("easy", "hard")
    )
    pairs = list(zip(easy["random"], easy["margin"], strict=True))
    gains = [max(m / max(r, 1e-9) / 3, (1 - r) / max(1 - m, 1e-9) / 2) for r, m in pairs]
    values = {
        "gain": [min(gain, 100.0) for gain in gains],
        "difference": [m - r for r, m in pairs],
        "hard_difference": minus(hard["margin"], hard["random"]),
        "over_top": minus(easy["margin"], easy["top"]),
        "solver_order": minus(easy["autoregressive solver"], easy["autoregressive rows"]),
        "over_autoregressive": minus(easy["margin"], easy["autoregressive solver"]),
    }
    notes = [f"{steps} steps; easy and hard solve rates by seed:"]
    notes += [f"{order}: easy {easy[order]}, hard {hard[order]}" for order in table]
    Path(out).write_text(json.dumps({"values": values, "notes": notes}))


def minus(ours: list[float], theirs: list[float]) -> list[float]:
    """Differences, seed by seed."""
    return [a - b for a, b in zip(ours, theirs, strict=True)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out")
    parser.add_argument("--scale", default="cpu", choices=SCALES)
    parser.add_argument("--root", default="runs/mdm-order", help="where runs lie; finished ones are not repeated")
    given = parser.parse_args()
    main(given.out, given.scale, given.root)

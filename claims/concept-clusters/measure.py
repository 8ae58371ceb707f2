"""Concept clusters: models on 30 % of a pool, taken by clusters or at random, and on the whole pool.

``python measure.py OUT`` wants ``texts/concept-clusters`` (texts.py) and trains below ``runs``. For each seed models of
``STEPS`` on what is kept by complexity (the documents at the rim first, the nearest, or any), by the same with random
projections instead of the singular value decomposition, on as many documents at random, for half to four times as many
steps, and on the whole pool. Values are bits per byte, the mean over documentation and code.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from isoflop.core.recipe import Recipe
from isoflop.core.registry import get
from isoflop.data.engine.scoring import Selection
from isoflop.data.loader import heldout_of
from isoflop.pipelines.selection import SelectedRun, chosen, train_on
from isoflop.store.run import Run
from isoflop.train.restore import trained
from isoflop.train.run import train

SEEDS = (1, 2, 3)
STEPS = 200
UNIFORM = (0.5, 1, 2, 4)
KEEP = 0.3
CLUSTERS: dict[str, Any] = {"clusters": 20, "keep": KEEP, "dim": 32, "words": "svd"}
ARMS: dict[str, dict[str, Any]] = {
    "hard": {},
    "any": {"order": "random"},
    "easy": {"order": "easy"},
    "random": {"words": "random"},
}
TEXTS, ROOT = Path("texts/concept-clusters"), Path("runs")
POOL = [str(TEXTS / "pool.jsonl")]


def recipe(name: str, seed: int, steps: int) -> Recipe:
    """The one recipe of all models: 0.13M parameters over bytes."""
    tree = {
        "name": f"concepts-{name}",
        "seed": seed,
        "source": {"name": "jsonl", "paths": POOL, "deduplicate": "none"},
        "tokenizer": "bytes",
        "model": {"name": "transformer", "d_model": 64, "layers": 2, "tied": False},
        "optimizer": {"name": "adamw", "lr": 0.01},
        "schedule": "cosine",
        "budget": {"steps": steps},
        "train": {"batch": 8, "length": 128},
    }
    return Recipe.from_json(tree, source=name)


def bits(run: Run, texts: dict[str, str]) -> float:
    """Mean over the kinds of text of bits per byte."""
    found = trained(run, device="cpu")
    held = {kind: heldout_of(text, found.tokenizer) for kind, text in texts.items()}
    return float(np.mean([each.value for each in found.measure(held)["bits_per_byte"].domains.values()]))


def arm(name: str, seed: int, documents: int, steps: int, scorer: str, **keys: Any) -> tuple[SelectedRun, float]:
    """A model on what a scorer keeps, and the share of documentation in it."""
    part: Any = get("scorer", scorer)(seed=seed, **keys)
    found, bill = chosen(POOL, part, Selection(documents=documents), ROOT / "concepts")
    return train_on(recipe(name, seed, steps), found, bill, ROOT), documentation(found)


def documentation(folder: Path) -> float:
    """Share of documents that are documentation."""
    from isoflop.data.engine.inputs import rows_of, units_of

    kinds = [row.record["domain"] for unit in units_of([str(folder)]) for row in rows_of(unit)]  # type: ignore[union-attr]
    return float(np.mean([kind == "documentation" for kind in kinds]))


def needed(value: float, steps: list[float], values: list[float]) -> float:
    """Steps on uniform text for a value; beyond the last ones, the last ones."""
    order = np.argsort(values)
    return float(np.exp(np.interp(value, np.array(values)[order], np.log(np.array(steps)[order]))))


def main(out: str) -> None:
    rows = [json.loads(line) for line in (TEXTS / "held_out.jsonl").read_text(encoding="utf-8").splitlines()]
    texts = {
        kind: "\n".join(row["text"] for row in rows if row["domain"] == kind) for kind in ("documentation", "code")
    }
    count = round(KEEP * len((TEXTS / "pool.jsonl").read_text(encoding="utf-8").splitlines()))
    values: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        values.setdefault(name, []).append(float(value))

    for seed in SEEDS:
        lengths = [STEPS * factor for factor in UNIFORM]
        ladder = [arm("uniform", seed, count, int(steps), "random")[0] for steps in lengths]
        known = [bits(made.run, texts) for made in ladder]
        for factor, value in zip(UNIFORM, known, strict=True):
            note(f"bits_uniform_{factor:g}x", value)
        whole, uniform = bits(train(recipe("whole", seed, STEPS), ROOT), texts), known[lengths.index(STEPS)]
        note("bits_whole", whole)
        reached = {}
        for name, keys in ARMS.items():
            made, share = arm(name, seed, count, STEPS, "clusters", **{**CLUSTERS, **keys})
            reached[name] = bits(made.run, texts)
            tokens = needed(reached[name], lengths, known) / STEPS
            note(f"bits_{name}", reached[name])
            note(f"tokens_{name}", tokens)
            note(f"flops_{name}", tokens * made.training / made.flops)
            note(f"selection_over_training_{name}", made.selection["all"] / made.training)
            note(f"documentation_{name}", share)
        note("clusters_less_uniform", reached["hard"] - uniform)
        note("clusters_less_whole", reached["hard"] - whole)
        note("hard_less_any", reached["hard"] - reached["any"])
        note("svd_less_random", reached["hard"] - reached["random"])
        print(f"seed {seed}: { ({k: round(v[-1], 3) for k, v in values.items()}) }", file=sys.stderr)
    notes = [f"{count:,} documents are kept; multipliers of tokens end at {UNIFORM[-1]} and {UNIFORM[0]}"]
    Path(out).write_text(json.dumps({"values": values, "notes": notes}))


if __name__ == "__main__":
    main(sys.argv[1])

"""CoLoR-Filter: two small models choose the text of a model, which is held against random text of the same pool.

``python measure.py OUT`` wants ``texts/color-filter`` (texts.py) and trains below ``runs``. For each seed: a prior on
the pool, a conditional model from it on a part of the target; both score the pool; models are trained for ``STEPS`` on
what is chosen, and on random text for half to four times as many. A multiplier is how many times more tokens, or FLOPs
with those of selection, random text needs for the same bits per byte of the held-out text, from straight lines in log
steps.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from isoflop.core.recipe import Recipe
from isoflop.core.registry import get
from isoflop.data.engine.inputs import rows_of, units_of
from isoflop.data.engine.scoring import Selection
from isoflop.data.loader import heldout_of
from isoflop.pipelines.selection import SelectedRun, chosen, train_on
from isoflop.store.run import Run
from isoflop.train.restore import trained
from isoflop.train.run import train

SEEDS = (1, 2, 3)
STEPS = 200
RANDOM = (0.5, 1, 2, 4)
TAU = 8
TEXTS, ROOT = Path("texts/color-filter"), Path("runs")
POOL, TARGET = [str(TEXTS / "pool.jsonl")], [str(TEXTS / "target.jsonl")]


def recipe(name: str, seed: int, steps: int, files: list[str], **more: Any) -> Recipe:
    """The one recipe of all models: 0.13M parameters over bytes."""
    tree = {
        "name": f"color-{name}",
        "seed": seed,
        "source": {"name": "jsonl", "paths": files, "deduplicate": "none"},
        "tokenizer": "bytes",
        "model": {"name": "transformer", "d_model": 64, "layers": 2, "tied": False},
        "optimizer": {"name": "adamw", "lr": 0.01},
        "schedule": "cosine",
        "budget": {"steps": steps},
        "train": {"batch": 8, "length": 128},
    }
    return Recipe.from_json(tree | more, source=name)


def bits(run: Run, text: str) -> float:
    """Bits per byte of held-out text."""
    found = trained(run, device="cpu")
    return float(found.measure({"held_out": heldout_of(text, found.tokenizer)})["bits_per_byte"].value)


def purity(documents: Path) -> float:
    """Share of text that is documentation."""
    sizes: dict[str, int] = {}
    for unit in units_of([str(documents)]):
        for row in rows_of(unit):
            sizes[row.record["domain"]] = sizes.get(row.record["domain"], 0) + len(row.text)  # type: ignore[union-attr]
    return sizes.get("documentation", 0) / sum(sizes.values())


def auxiliaries(seed: int) -> dict[str, Run]:
    """Prior and conditional model."""
    prior = train(recipe("prior", seed, STEPS, POOL), ROOT)
    tuned = {"start": str(prior.path), "optimizer": {"name": "adamw", "lr": 0.003}}
    return {"prior": prior, "conditional": train(recipe("conditional", seed, STEPS // 8, TARGET, **tuned), ROOT)}


def arm(name: str, seed: int, models: dict[str, Run], **keep: Any) -> SelectedRun:
    """A model trained on what a scorer chooses."""
    part: Any = get("scorer", name)(**({"seed": seed} if name == "random" else {}))
    asked = {use: models[use] for use in part.uses}
    texts = dict.fromkeys(part.fits, TARGET)
    found, bill = chosen(POOL, part, Selection(**keep), ROOT / "color-filter", texts=texts, models=asked)
    return train_on(recipe(name, seed, STEPS, POOL), found, bill, ROOT)


def needed(value: float, steps: list[float], values: list[float]) -> float:
    """Steps of random text for a value; beyond the last ones, the last ones."""
    order = np.argsort(values)
    return float(np.exp(np.interp(value, np.array(values)[order], np.log(np.array(steps)[order]))))


def main(out: str) -> None:
    text = "\n".join(json.loads(line)["text"] for line in (TEXTS / "held_out.jsonl").read_text().splitlines())
    values: dict[str, list[float]] = {}
    pure = purity(TEXTS / "pool.jsonl")

    def note(name: str, value: float) -> None:
        values.setdefault(name, []).append(value)

    for seed in SEEDS:
        models = auxiliaries(seed)
        lengths = [STEPS * factor for factor in RANDOM]
        runs = [train(recipe("random", seed, int(steps), POOL), ROOT) for steps in lengths]
        random = [bits(run, text) for run in runs]
        for factor, value in zip(RANDOM, random, strict=True):
            note(f"bits_random_{factor:g}x", value)
        reached: dict[str, float] = {}
        for label, name, keep in (
            ("color", "color_filter", {"ratio": TAU}),
            ("color_half", "color_filter", {"ratio": TAU / 2}),
            ("batched", "color_filter", {"ratio": TAU, "rule": "batched", "batch": 128}),
            ("conditional", "conditional_only", {"ratio": TAU}),
            ("dsir", "dsir", {"ratio": TAU}),
        ):
            made = arm(name, seed, models, **keep)
            reached[label] = bits(made.run, text)
            tokens = needed(reached[label], lengths, random) / STEPS
            note(f"bits_{label}", reached[label])
            note(f"tokens_{label}", tokens)
            note(f"flops_{label}", tokens * made.training / made.flops)
            note(f"selection_over_training_{label}", made.selection["all"] / made.training)
            note(f"purity_{label}", purity(made.documents) / pure)
        note("color_less_conditional", reached["color"] - reached["conditional"])
        note("tau_8_less_tau_4", reached["color"] - reached["color_half"])
        print(f"seed {seed}: { ({k: round(v[-1], 3) for k, v in values.items()}) }", file=sys.stderr)
    notes = [f"the pool is {pure:.1%} documentation; multipliers of tokens end at {RANDOM[-1]} and {RANDOM[0]}"]
    Path(out).write_text(json.dumps({"values": values, "notes": notes}))


if __name__ == "__main__":
    main(sys.argv[1])

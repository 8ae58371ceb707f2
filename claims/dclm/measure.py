"""DCLM: one fixed recipe on what competing filters leave of one pool, against random text of it.

``python measure.py OUT`` wants ``texts/dclm`` (texts.py, that of color-filter) and trains below ``runs``. Every filter
that ranks keeps an eighth of the pool; heuristics keep what passes them. For each seed one model on each, of ``STEPS``,
and on random text for half to four times as many; the reference of perplexity is a model of random text.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from isoflop.core.recipe import Recipe
from isoflop.core.registry import get
from isoflop.data.engine.cleaning import chain_of, clean
from isoflop.data.engine.inputs import rows_of, units_of
from isoflop.data.engine.jobs import DOCUMENTS, JobSettings
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
CHAINS = ("gopher", "dclm")
NONE = {"fitting": 0, "scoring": 0, "all": 0}
TEXTS, ROOT = Path("texts/dclm"), Path("runs")
POOL, TARGET = [str(TEXTS / "pool.jsonl")], [str(TEXTS / "target.jsonl")]


def recipe(name: str, seed: int, steps: int, files: list[str], **more: Any) -> Recipe:
    """The one recipe of all models: 0.13M parameters over bytes."""
    tree = {
        "name": f"dclm-{name}",
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


def heuristics(name: str) -> Path:
    """What a published chain of heuristics leaves."""
    out = ROOT / f"dclm-clean-{name}"
    clean(units_of(POOL), chain_of(name), JobSettings(out))
    return out / DOCUMENTS


def arm(name: str, seed: int, models: dict[str, Run], **keep: Any) -> SelectedRun:
    """A model trained on what a scorer chooses."""
    part: Any = get("scorer", name)(**({"seed": seed} if name == "random" else {}))
    asked = {use: models[use] for use in part.uses}
    texts = dict.fromkeys(part.fits, TARGET)
    found, bill = chosen(POOL, part, Selection(**keep), ROOT / "dclm-selected", texts=texts, models=asked)
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
        lengths = [STEPS * factor for factor in RANDOM]
        runs = [train(recipe("random", seed, int(steps), POOL), ROOT) for steps in lengths]
        random = [bits(run, text) for run in runs]
        models = {"reference": runs[lengths.index(STEPS)]}
        made = {name: train_on(recipe(name, seed, STEPS, POOL), heuristics(name), NONE, ROOT) for name in CHAINS}
        for label, name in (("classifier", "quality"), ("dsir", "dsir"), ("perplexity", "perplexity")):
            made[label] = arm(name, seed, models, ratio=TAU)
        for factor, value in zip(RANDOM, random, strict=True):
            note(f"bits_random_{factor:g}x", value)
        reached = {label: bits(each.run, text) for label, each in made.items()}
        for label, each in made.items():
            tokens = needed(reached[label], lengths, random) / STEPS
            note(f"bits_{label}", reached[label])
            note(f"tokens_{label}", tokens)
            note(f"flops_{label}", tokens * each.training / each.flops)
            note(f"purity_{label}", purity(each.documents) / pure)
        note("classifier_less_random", reached["classifier"] - random[lengths.index(STEPS)])
        note("classifier_less_heuristics", reached["classifier"] - min(reached[name] for name in CHAINS))
        note("classifier_less_perplexity", reached["classifier"] - reached["perplexity"])
        print(f"seed {seed}: { ({k: round(v[-1], 3) for k, v in values.items()}) }", file=sys.stderr)
    notes = [f"the pool is {pure:.1%} documentation; multipliers of tokens end at {RANDOM[-1]} and {RANDOM[0]}"]
    Path(out).write_text(json.dumps({"values": values, "notes": notes}))


if __name__ == "__main__":
    main(sys.argv[1])

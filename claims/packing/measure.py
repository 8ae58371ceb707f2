"""Packing: models on documents that are packed, padded, or joined end to end, for steps of as many positions.

``python measure.py OUT`` wants ``texts/packing`` (texts.py) and trains below ``runs``. For each seed one model of
``STEPS`` on windows that are packed and on text that is joined, and on padded documents for one to four times as many
steps; bits per byte are of held-out documents, each read by itself.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from isoflop.core.contracts import TokenBatch
from isoflop.core.recipe import Recipe
from isoflop.data.padding import DocumentRows
from isoflop.data.streams import Stream
from isoflop.store.run import Run
from isoflop.train.restore import restore, trained
from isoflop.train.run import train

SEEDS = (1, 2, 3)
STEPS = 100
PADDED = (1, 2, 4)
BATCH, LENGTH = 8, 256
TEXTS, ROOT = Path("texts/packing"), Path("runs")


def recipe(name: str, seed: int, steps: int) -> Recipe:
    """The one recipe of all models: 0.13M parameters over bytes."""
    source: dict[str, Any] = {"name": "jsonl", "paths": [str(TEXTS / "train.jsonl")], "deduplicate": "none"}
    if name == "packed":
        source = {"name": "packed", "source": source}
    if name == "padded":
        source = {"name": "padded", "source": source, "ends": "one"}
    tree = {
        "name": f"packing-{name}",
        "seed": seed,
        "source": source,
        "tokenizer": "bytes",
        "model": {"name": "transformer", "d_model": 64, "layers": 2, "tied": False},
        "optimizer": {"name": "adamw", "lr": 0.01},
        "schedule": "cosine",
        "budget": {"steps": steps},
        "train": {"batch": BATCH, "length": LENGTH},
    }
    return Recipe.from_json(tree, source=name)


def rows_of(texts: list[str], tokenizer: Any) -> DocumentRows:
    """Documents as rows of their own."""
    ids = [np.append(np.asarray(tokenizer.encode(text), np.int64), tokenizer.eot) for text in texts]
    return DocumentRows.of(Stream(np.concatenate([[tokenizer.eot], *ids]), tokenizer), LENGTH, every=False)


@torch.no_grad()
def bits(run: Run, texts: list[str]) -> float:
    """Bits per byte of documents, each read by itself."""
    found = trained(run, device="cpu")
    rows, objective = rows_of(texts, found.tokenizer), found.recipe.objective.build(found.ctx)
    nats = size = 0.0
    for at in range(0, len(texts), 64):
        batch = rows.batch(range(at, min(at + 64, len(texts))))
        nats += float(objective.loss(batch).total)
        size += batch.text_bytes
    return nats / size / float(np.log(2))


@torch.no_grad()
def seen_of_others(run: Run) -> float:
    """How far a packed batch's loss lies from that of its documents one by one, as a share of it."""
    session = restore(run, device="cpu")
    objective = session.parts.objective
    batch = next(session.parts.source.batches(session.ctx))
    mask = torch.ones_like(batch.inputs, dtype=torch.bool) if batch.mask is None else batch.mask
    apart, documents = 0.0, batch.columns["documents"]
    for row in range(len(documents)):
        for number in documents[row].unique().tolist():
            chosen = documents[row] == number
            inputs, targets, counts = (each[row][chosen][None] for each in (batch.inputs, batch.targets, mask))
            apart += float(objective.loss(TokenBatch(inputs, targets, 1, counts)).total) if counts.any() else 0.0
    return abs(float(objective.loss(batch).total) / apart - 1)


def filled(run: Run, steps: int) -> float:
    """Share of a run's positions of which something was predicted."""
    return float(run.ledger["train"]["tokens"]) / (steps * BATCH * LENGTH)


def speed(run: Run) -> float:
    """Tokens that were predicted in a second of training."""
    return float(run.ledger["train"]["tokens"]) / float(run.ledger["train"]["seconds"])


def needed(value: float, steps: list[int], values: list[float]) -> float:
    """Steps of padded documents for a value; beyond the last ones, the last ones."""
    order = np.argsort(values)
    return float(np.exp(np.interp(value, np.array(values)[order], np.log(np.array(steps)[order]))))


def main(out: str) -> None:
    lines = (TEXTS / "held_out.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    values: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        values.setdefault(name, []).append(float(value))

    for seed in SEEDS:
        lengths = [STEPS * factor for factor in PADDED]
        ladder = [train(recipe("padded", seed, steps), ROOT) for steps in lengths]
        known = [bits(run, texts) for run in ladder]
        packed, joined = (train(recipe(name, seed, STEPS), ROOT) for name in ("packed", "joined"))
        reached = {"packed": bits(packed, texts), "joined": bits(joined, texts)}
        for factor, value in zip(PADDED, known, strict=True):
            note(f"bits_padded_{factor}x", value)
        for name, value in reached.items():
            note(f"bits_{name}", value)
        note("filled", filled(packed, STEPS))
        note("filled_padded", filled(ladder[0], STEPS))
        note("seen_of_others", seen_of_others(packed))
        note("steps", needed(reached["packed"], lengths, known) / STEPS)
        note("steps_joined", needed(reached["joined"], lengths, known) / STEPS)
        note("throughput", speed(packed) / speed(ladder[0]))
        note("flops_packed_over_padded", packed.ledger["train"]["flops"] / ladder[0].ledger["train"]["flops"])
        note("apart_less_joined", reached["packed"] - reached["joined"])
        print(f"seed {seed}: { ({k: round(v[-1], 6) for k, v in values.items()}) }", file=sys.stderr)
    notes = [f"multipliers of steps end at {PADDED[-1]} and {PADDED[0]}; {len(texts)} documents are held out"]
    Path(out).write_text(json.dumps({"values": values, "notes": notes}))


if __name__ == "__main__":
    main(sys.argv[1])

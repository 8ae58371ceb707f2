"""One small text read many times: weight decay, four members, and one student of them; and how much text that saves.

``python measure.py OUT`` wants ``texts/infinite-compute`` (texts.py) and trains below ``runs``. Weight decay and
epochs are searched together on a seed of its own. The ordinary recipe keeps its weight decay and searches the epochs
alone, on one, two, four and eight times the text: its curve says how much text the others are worth.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from isoflop.core.recipe import Recipe
from isoflop.data.loader import HeldOutText, heldout_of
from isoflop.store.run import Run
from isoflop.train.restore import trained
from isoflop.train.run import train

SEEDS, TUNING, MEMBERS = (1, 2, 3), 101, 4
DECAYS, ORDINARY, EPOCHS = (0.1, 0.3, 1.0, 3.0), 0.1, (3, 6, 12)
PARTS: dict[int, tuple[int, ...]] = {1: EPOCHS, 2: (2, 4, 8), 4: (1, 2, 4), 8: (1, 2)}
"""How many times as much text, and the epochs that the ordinary recipe tries on it."""
RATE, WEIGHTS = 0.008, (0.5, 1.0)
BATCH, LENGTH = 8, 64
TEXTS, ROOT = Path("texts/infinite-compute"), Path("runs")


def run_of(seed: int, part: int, epochs: int, decay: float, **changes: Any) -> Run:
    """A model of 0.1M weights over bytes that reads a part so many times."""
    path = TEXTS / f"part-{part}.jsonl"
    size = sum(len(json.loads(line)["text"].encode()) for line in path.read_text().splitlines())
    tree = {
        "name": f"infinite-compute-{part}",
        "seed": seed,
        "source": {"name": "jsonl", "paths": [str(path)], "deduplicate": "none", "heldout_share": 0.02},
        "tokenizer": "bytes",
        "model": {
            "name": "transformer",
            "d_model": 64,
            "layers": 2,
            "mixer": {"name": "attention", "heads": 4},
            "feed_forward": {"name": "swiglu", "hidden": 176},
        },
        "optimizer": {"name": "adamw", "lr": RATE, "weight_decay": decay},
        "schedule": "cosine",
        "budget": {"steps": max(1, epochs * size // (BATCH * LENGTH))},
        "train": {"batch": BATCH, "length": LENGTH, "evaluations": 1, "checkpoints": 1},
        **changes,
    }
    return train(Recipe.from_json(tree, source="infinite-compute"), ROOT)


def taught(seed: int, members: list[Run], epochs: int, decay: float, weight: float) -> Run:
    """One model that learns the mean distribution of several, on the text that all of them read."""
    names = [f"member{number}" for number in range(len(members))]
    models = {name: {"run": str(member.path)} for name, member in zip(names, members, strict=True)}
    objective = {"name": "distill", "teachers": names, "weight": weight}
    return run_of(seed, 1, epochs, decay, objective=objective, models=models)


@torch.no_grad()
def bits(runs: list[Run], text: str) -> float:
    """Bits per byte of a text under the mean of the models' distributions."""
    found = [trained(run, device="cpu") for run in runs]
    assert found[0].tokenizer is not None
    held: HeldOutText = heldout_of(text, found[0].tokenizer)
    total = 0.0
    for batch in held.windows(LENGTH, 64):
        logs = [torch.log_softmax(each.model(batch.inputs).float(), -1) for each in found]
        mean = torch.logsumexp(torch.stack(logs), 0) - math.log(len(logs))
        lost = -mean.gather(-1, batch.targets[..., None])[..., 0]
        total += float(lost.sum() if batch.mask is None else (lost * batch.mask).sum())
    return total / math.log(2) / held.text_bytes


def worth(value: float, curve: dict[int, float]) -> float:
    """How many times the text the ordinary recipe needs for a value; at most what it was tried on."""
    parts = np.array(sorted(curve))
    falling = np.minimum.accumulate([curve[part] for part in parts])
    return float(2.0 ** np.interp(-value, -falling, np.log2(parts)))


def searched(text: str) -> tuple[float, int, dict[int, int], float]:
    """Weight decay with its epochs, the epochs of the ordinary recipe on each part, and the soft loss's weight."""
    found = {(wd, e): bits([run_of(TUNING, 1, e, wd)], text) for wd in DECAYS for e in EPOCHS}
    decay, epochs = min(found, key=found.__getitem__)
    ordinary = {}
    for part, tried in PARTS.items():
        each = {e: bits([run_of(TUNING, part, e, ORDINARY)], text) for e in tried}
        ordinary[part] = min(each, key=each.__getitem__)
    members = [run_of(1000 * TUNING + k, 1, epochs, decay) for k in range(MEMBERS)]
    soft = {weight: bits([taught(TUNING, members, epochs, decay, weight)], text) for weight in WEIGHTS}
    print(f"decays {found}, ordinary epochs {ordinary}, soft {soft}", file=sys.stderr)
    return decay, epochs, ordinary, min(soft, key=soft.__getitem__)


def main(out: str) -> None:
    text = "\n".join(json.loads(line)["text"] for line in (TEXTS / "held_out.jsonl").read_text().splitlines())
    text = text[:40_000]
    decay, epochs, ordinary, weight = searched(text)
    values: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        values.setdefault(name, []).append(float(value))

    for seed in SEEDS:
        members = [run_of(1000 * seed + k, 1, epochs, decay) for k in range(MEMBERS)]
        alone = float(np.mean([bits([member], text) for member in members]))
        counts = np.arange(1, MEMBERS + 1)
        grown = np.array([alone, *(bits(members[:count], text) for count in counts[1:])])
        limit = np.polyfit(1 / counts, grown, 1)[1]
        student = bits([taught(seed, members, epochs, decay, weight)], text)
        curve = {part: bits([run_of(seed, part, e, ORDINARY)], text) for part, e in ordinary.items()}
        note("bits_ordinary", curve[1])
        note("bits_member", alone)
        note("bits_ensemble", grown[-1])
        note("bits_student", student)
        note("asymptote", limit)
        note("decay_gain", curve[1] - alone)
        note("ensemble_gain", alone - grown[-1])
        note("kept", (alone - student) / (alone - grown[-1]))
        note("data_member", worth(alone, curve))
        note("data_ensemble", worth(grown[-1], curve))
        note("data_asymptote", worth(limit, curve))
        note("decay_over_ordinary", decay / ORDINARY)
        print(f"seed {seed}: { ({k: round(v[-1], 4) for k, v in values.items()}) } curve {curve}", file=sys.stderr)
    notes = [
        f"weight decay {decay}, {epochs} epochs, soft loss {weight}; ordinary {ORDINARY}, epochs by part {ordinary}",
        "text saved lies between 1 and 8, the shortest and the longest part on which the ordinary recipe was tried",
    ]
    Path(out).write_text(json.dumps({"values": values, "notes": notes}))


if __name__ == "__main__":
    main(sys.argv[1])

"""Calibration of a model that learns labels from examples in its context, before and after recalibration.

``python measure.py OUT`` trains below ``runs``. An episode gives each of four letters one of two labels; its text is
letters with their labels, some of which are wrong: one in twenty where the model is trained, one in four where it is
asked. The probability of a label is that over both labels. Calibrators see other items than errors are measured on.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from isoflop.core.recipe import Recipe
from isoflop.core.rng import Rng
from isoflop.evals.calibration import Binning, PlattScaling, calibration_error, temperature_of, top
from isoflop.train.restore import trained
from isoflop.train.run import train

SEEDS = (1, 2, 3)
STEPS = 1500
SHOTS = (0, 1, 2, 4, 8, 16)
ITEMS, CALIBRATION = 2000, 1000
LETTERS, LABELS = b"abcd", b"XY"
TRAINED, ASKED = 0.05, 0.25
"""Share of labels that are wrong."""
EPISODES, EXAMPLES = 10_000, 40
BINS = 10
ROOT = Path("runs")
Array = npt.NDArray[np.float64]


def episodes(draw: np.random.Generator, count: int, examples: int, wrong: float) -> tuple[Any, Any]:
    """Letters and labels, (count, examples) each, by their numbers."""
    letters = draw.integers(len(LETTERS), size=(count, examples))
    right = np.take_along_axis(draw.integers(2, size=(count, len(LETTERS))), letters, axis=1)
    return letters, right ^ (draw.random((count, examples)) < wrong)


def written(letters: Any, labels: Any) -> npt.NDArray[np.uint8]:
    """The bytes of episodes, (count, 3 * examples): a letter, its label, and a blank."""
    blanks = np.full(letters.shape, ord(" "), np.uint8)
    found = [np.frombuffer(LETTERS, np.uint8)[letters], np.frombuffer(LABELS, np.uint8)[labels], blanks]
    return np.stack(found, axis=-1).reshape(len(letters), -1)


def recipe(seed: int, file: Path) -> Recipe:
    """0.13M parameters over bytes."""
    tree = {
        "name": "icl",
        "seed": seed,
        "source": {"name": "packed", "source": {"name": "jsonl", "paths": [str(file)], "deduplicate": "none"}},
        "tokenizer": "bytes",
        "model": {"name": "transformer", "d_model": 64, "layers": 2, "tied": False},
        "optimizer": {"name": "adamw", "lr": 0.003},
        "schedule": "cosine",
        "budget": {"steps": STEPS},
        "train": {"batch": 8, "length": 128},
    }
    return Recipe.from_json(tree, source="icl")


@torch.no_grad()
def answers(found: Any, draw: np.random.Generator, shots: int, count: int) -> tuple[Array, Any]:
    """Log odds of both labels of the last letter, (count, 2), and the labels that it has."""
    letters, labels = episodes(draw, count, shots + 1, ASKED)
    ids = torch.from_numpy(written(letters, labels)[:, :-2].astype(np.int64))
    inputs = torch.cat([torch.full((count, 1), found.tokenizer.eot), ids], dim=1)
    logits = [found.model(inputs[at : at + 250])[:, -1, list(LABELS)] for at in range(0, count, 250)]
    return torch.log_softmax(torch.cat(logits).double(), dim=-1).numpy(), labels[:, -1]


def errors(found: Any, rng: Rng, shots: int) -> dict[str, float]:
    """Calibration errors of a number of examples: as the model is, and by each calibrator; and its accuracy."""
    known, asked = (rng(name).at(shots) for name in ("calibration", "items"))
    (before, truth), (odds, labels) = answers(found, known, shots, CALIBRATION), answers(found, asked, shots, ITEMS)
    (sure, right), (confidence, outcome) = top(np.exp(before), truth), top(np.exp(odds), labels)
    cooled = odds / temperature_of(before, truth)
    cooled = np.exp(cooled - np.logaddexp.reduce(cooled, axis=1, keepdims=True))
    ways = {
        "plain": confidence,
        "temperature": top(cooled, labels)[0],
        "platt": PlattScaling.fit(sure, right)(confidence),
        "histogram": Binning.fit(sure, right, bins=BINS)(confidence),
        "binning": Binning.scaled(sure, right, bins=BINS)(confidence),
    }
    made = {name: calibration_error(each, outcome, bins=BINS) for name, each in ways.items()}
    return {**made, "accuracy": float(outcome.mean()), "confidence": float(confidence.mean())}


def main(out: str) -> None:
    ROOT.mkdir(exist_ok=True)
    values: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        values.setdefault(name, []).append(float(value))

    for seed in SEEDS:
        rng, file = Rng(seed)("icl"), ROOT / f"icl-{seed}.jsonl"
        lines = written(*episodes(rng("training").at(), EPISODES, EXAMPLES, TRAINED))
        file.write_text("".join(json.dumps({"text": line.tobytes().decode()}) + "\n" for line in lines))
        found = trained(train(recipe(seed, file), ROOT), device="cpu")
        made = {shots: errors(found, rng, shots) for shots in SHOTS}
        for shots, each in made.items():
            for name, value in each.items():
                note(f"{name}_{shots}", value)
        plain = np.array([each["plain"] for each in made.values()])
        mended = plain - [each["binning"] for each in made.values()]
        note("mended_at_8", mended[SHOTS.index(8)])
        note("least_mended", mended.min())
        note("rise", plain.max() - plain[0])
        note("fall", plain.max() - plain[-1])
        note("binning_less_temperature", np.mean([each["binning"] - each["temperature"] for each in made.values()]))
        print(f"seed {seed}: { ({k: round(v[-1], 3) for k, v in values.items()}) }", file=sys.stderr)
    notes = [f"{len(LETTERS)} letters, {len(LABELS)} labels; {ITEMS:,} items a number of examples"]
    Path(out).write_text(json.dumps({"values": values, "notes": notes}))


if __name__ == "__main__":
    main(sys.argv[1])

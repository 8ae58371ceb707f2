"""WRAP: a model on real text alone, on real text and its rephrasings one to one, and on rephrasings alone.

``python measure.py OUT`` wants ``texts/wrap`` (texts.py) and trains below ``runs``. For each seed one model of
``STEPS`` on each mixture, and on real text for half to four times as many. Held out is other documentation: as it is
(plain), and rewritten as questions and answers by the same rules, which have seen nothing of either.
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from isoflop.core.recipe import Recipe
from isoflop.data.engine.inputs import units_of
from isoflop.data.engine.jobs import DOCUMENTS, JobSettings
from isoflop.data.engine.rephrasing import Rephrasing, rephrase
from isoflop.data.engine.templates import TemplateRephraser
from isoflop.data.loader import heldout_of
from isoflop.store.run import Run
from isoflop.train.restore import trained
from isoflop.train.run import train

SEEDS = (1, 2, 3)
STEPS = 200
REAL = (0.5, 1, 2, 4)
STYLES = ("easy", "qa")
TEXTS, ROOT = Path("texts/wrap"), Path("runs")


def recipe(name: str, seed: int, steps: int, file: Path) -> Recipe:
    """The one recipe of all models: 0.13M parameters over bytes."""
    tree = {
        "name": f"wrap-{name}",
        "seed": seed,
        "source": {"name": "jsonl", "paths": [str(file)], "deduplicate": "none"},
        "tokenizer": "bytes",
        "model": {"name": "transformer", "d_model": 64, "layers": 2, "tied": False},
        "optimizer": {"name": "adamw", "lr": 0.01},
        "schedule": "cosine",
        "budget": {"steps": steps},
        "train": {"batch": 8, "length": 128},
    }
    return Recipe.from_json(tree, source=name)


def bits(run: Run, text: str) -> float:
    """Bits per byte of held-out text."""
    found = trained(run, device="cpu")
    return float(found.measure({"held_out": heldout_of(text, found.tokenizer)})["bits_per_byte"].value)


def rephrased(name: str, style: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A file's documents with their rephrasings, and what is known of these."""
    out = ROOT / f"wrap-{name}-{style}"
    how = Rephrasing((style,))
    tests = units_of([str(TEXTS / "held_out.jsonl")]) if name == "real" else ()
    found = rephrase(units_of([str(TEXTS / f"{name}.jsonl")]), TemplateRephraser(), how, JobSettings(out), tests)
    (part,) = (out / DOCUMENTS).iterdir()
    with gzip.open(part) as file:
        return [json.loads(line) for line in file], found


def written(name: str, rows: list[dict[str, Any]]) -> Path:
    """A file of what one arm is trained on."""
    path = ROOT / f"wrap-{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def needed(value: float, steps: list[float], values: list[float]) -> float:
    """Steps of real text for a value; beyond the last ones, the last ones."""
    order = np.argsort(values)
    return float(np.exp(np.interp(value, np.array(values)[order], np.log(np.array(steps)[order]))))


def main(out: str) -> None:
    ROOT.mkdir(exist_ok=True)
    held, _ = rephrased("held_out", "qa")
    texts = {
        "plain": "\n".join(row["text"] for row in held if row["kind"] == "real"),
        "questions": "\n".join(row["text"] for row in held if row["kind"] == "rephrased"),
    }
    arms, notes = {}, list[str]()
    for style in STYLES:
        rows, found = rephrased("real", style)
        arms[f"mix_{style}"] = written(f"mix-{style}", rows)
        arms[f"{style}_alone"] = written(f"{style}-alone", [row for row in rows if row["kind"] == "rephrased"])
        counts = found["counts"]
        share = counts["rephrased_bytes"] / (counts["rephrased_bytes"] + counts["real_bytes"])
        left = {name[10:]: counts[name] for name in counts if name.startswith("rephrased.")}
        notes.append(f"{style}: {share:.1%} of the mixture is rephrased, {found['copied']:.1%} of it copied; {left}")
    real = written("real", [row for row in rows if row["kind"] == "real"])
    values: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        values.setdefault(name, []).append(value)

    for seed in SEEDS:
        lengths = [STEPS * factor for factor in REAL]
        ladder = [train(recipe("real", seed, int(steps), real), ROOT) for steps in lengths]
        made = {name: train(recipe(name.replace("_", "-"), seed, STEPS, file), ROOT) for name, file in arms.items()}
        for kind, text in texts.items():
            known = [bits(run, text) for run in ladder]
            for factor, value in zip(REAL, known, strict=True):
                note(f"bits_real_{factor:g}x_on_{kind}", value)
            for name, run in made.items():
                value = bits(run, text)
                note(f"bits_{name}_on_{kind}", value)
                note(f"tokens_{name}_on_{kind}", needed(value, lengths, known) / STEPS)
        last = {name: found[-1] for name, found in values.items()}
        for kind in texts:
            mixed = last[f"bits_mix_qa_on_{kind}"]
            note(f"mix_qa_less_real_on_{kind}", mixed - last[f"bits_real_1x_on_{kind}"])
            note(f"qa_alone_less_mix_qa_on_{kind}", last[f"bits_qa_alone_on_{kind}"] - mixed)
        mean = {name: np.mean([last[f"bits_{name}_on_{kind}"] for kind in texts]) for name in ("real_1x", *arms)}
        for style in STYLES:
            note(f"mix_{style}_less_real_on_both", float(mean[f"mix_{style}"] - mean["real_1x"]))
        note("mix_qa_less_mix_easy_on_both", float(mean["mix_qa"] - mean["mix_easy"]))
        print(f"seed {seed}: { ({k: round(v[-1], 3) for k, v in values.items()}) }", file=sys.stderr)
    Path(out).write_text(json.dumps({"values": values, "notes": notes}))


if __name__ == "__main__":
    main(sys.argv[1])

"""DataComp on text: what filters leave of one pool, each trained on by a small and by a larger fixed recipe.

``python measure.py OUT`` wants ``texts/datacomp`` (texts.py, that of color-filter) and trains below ``runs``. Filters
that rank keep an eighth of the pool, heuristics keep what passes them, and "both" is the classifier's half of that;
"none" is the whole pool.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from scipy.stats import spearmanr

from isoflop.core.recipe import Recipe
from isoflop.core.registry import get
from isoflop.data.engine.cleaning import chain_of, clean
from isoflop.data.engine.contamination import decontaminate
from isoflop.data.engine.inputs import units_of
from isoflop.data.engine.jobs import DOCUMENTS, JobSettings
from isoflop.data.engine.scoring import Selection
from isoflop.data.loader import heldout_of
from isoflop.pipelines.selection import chosen, train_on
from isoflop.store.run import Run
from isoflop.train.restore import trained

SEEDS = (1, 2, 3)
SCALES = {"small": (32, 100), "large": (64, 400)}
"""Width and steps."""
TAU = 8
NONE = {"all": 0}
TEXTS, ROOT = Path("texts/datacomp"), Path("runs")
POOL, TARGET, HELD_OUT = ([str(TEXTS / f"{name}.jsonl")] for name in ("pool", "target", "held_out"))


def recipe(name: str, seed: int, width: int, steps: int) -> Recipe:
    """The one recipe of a scale."""
    tree = {
        "name": f"datacomp-{name}",
        "seed": seed,
        "source": {"name": "jsonl", "paths": POOL, "deduplicate": "none"},
        "tokenizer": "bytes",
        "model": {"name": "transformer", "d_model": width, "layers": 2, "tied": False},
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


def heuristics(name: str) -> Path:
    """What a published chain of heuristics leaves."""
    out = ROOT / f"datacomp-clean-{name}"
    clean(units_of(POOL), chain_of(name), JobSettings(out))
    return out / DOCUMENTS


def ranked(pool: list[str], name: str, ratio: float, **keys: Any) -> tuple[Path, dict[str, int]]:
    """What a scorer keeps of files, and its bill."""
    part: Any = get("scorer", name)(**keys)
    return chosen(pool, part, Selection(ratio=ratio), ROOT / "datacomp", texts=dict.fromkeys(part.fits, TARGET))


def filtered(seed: int) -> dict[str, tuple[Path, dict[str, int]]]:
    """The documents that each filter leaves, and what choosing them took."""
    passed = heuristics("gopher")
    return {
        "none": ranked(POOL, "random", 1, seed=seed),
        "length": ranked(POOL, "length", TAU),
        "gopher": (passed, NONE),
        "c4": (heuristics("c4"), NONE),
        "dsir": ranked(POOL, "dsir", TAU),
        "classifier": ranked(POOL, "quality", TAU, seed=seed),
        "both": ranked([str(passed)], "quality", 2, seed=seed),
    }


def main(out: str) -> None:
    lines = Path(HELD_OUT[0]).read_text(encoding="utf-8").splitlines()
    text = "\n".join(json.loads(line)["text"] for line in lines[::3])
    clear = decontaminate(units_of(POOL), units_of(HELD_OUT), JobSettings(ROOT / "datacomp-contamination"))["counts"]
    values: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        values.setdefault(name, []).append(float(value))

    for seed in SEEDS:
        left = filtered(seed)
        reached: dict[str, dict[str, float]] = {}
        for scale, (width, steps) in SCALES.items():
            reached[scale] = {}
            for name, (documents, bill) in left.items():
                made = train_on(recipe(name, seed, width, steps), documents, bill, ROOT)
                reached[scale][name] = bits(made.run, text)
                note(f"bits_{name}_{scale}", reached[scale][name])
                note(f"selection_over_training_{name}_{scale}", made.selection["all"] / made.training)
        small, large = reached["small"], reached["large"]
        best = min(small, key=lambda name: small[name])
        note("rank_correlation", spearmanr(list(small.values()), list(large.values())).statistic)
        note("regret", large[best] - min(large.values()))
        note("chosen_less_none", large[best] - large["none"])
        note("both_less_one", large["both"] - min(large["gopher"], large["classifier"]))
        print(f"seed {seed}: best {best} { ({k: round(v[-1], 3) for k, v in values.items()}) }", file=sys.stderr)
    shared = clear["documents"] - clear["kept"]
    notes = [f"{shared} of {clear['documents']} documents of the pool share 13 words in a row with held-out text"]
    Path(out).write_text(json.dumps({"values": values, "notes": notes}))


if __name__ == "__main__":
    main(sys.argv[1])

"""QQT: the law of each part of a pool, fitted to runs on it alone, asked for mixtures that are then trained.

``python measure.py OUT`` wants ``texts/qqt`` (texts.py) and trains below ``runs``. For each seed one model at each of
``SINGLE`` steps on every part alone, and at each of ``MIXED`` on the best two and on all three. Parts repeat as
often as the steps ask for.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from isoflop.core.recipe import Recipe
from isoflop.data.loader import heldout_of
from isoflop.laws.forms.qqt import best_pools, fit_pools
from isoflop.store.run import Run
from isoflop.train.restore import trained
from isoflop.train.run import train

SEEDS = (1, 2, 3)
SINGLE = (40, 80, 160, 320, 640)
MIXED = (40, 160, 640)
PARTS = (1, 2, 3)
TOKENS = 8 * 128
"""Of a step."""
TEXTS, ROOT = Path("texts/qqt"), Path("runs")


def recipe(seed: int, steps: int, parts: tuple[int, ...]) -> Recipe:
    """The one recipe of all models: 0.13M parameters over bytes."""
    tree = {
        "name": f"qqt-{'-'.join(map(str, parts))}",
        "seed": seed,
        "source": {
            "name": "jsonl",
            "paths": [str(TEXTS / f"part-{part}.jsonl") for part in parts],
            "deduplicate": "none",
            "heldout_share": 0.02,
        },
        "tokenizer": "bytes",
        "model": {"name": "transformer", "d_model": 64, "layers": 2, "tied": False},
        "optimizer": {"name": "adamw", "lr": 0.01},
        "schedule": "cosine",
        "budget": {"steps": steps},
        "train": {"batch": 8, "length": 128},
    }
    return Recipe.from_json(tree, source="qqt")


def bits(run: Run, text: str) -> float:
    """Bits per byte of held-out text."""
    found = trained(run, device="cpu")
    return float(found.measure({"held_out": heldout_of(text, found.tokenizer)})["bits_per_byte"].value)


def pool_bytes(part: int) -> int:
    """Bytes of a part's text."""
    rows = (TEXTS / f"part-{part}.jsonl").read_text(encoding="utf-8").splitlines()
    return sum(len(json.loads(row)["text"].encode()) for row in rows)


def main(out: str) -> None:
    text = "\n".join(json.loads(line)["text"] for line in (TEXTS / "held_out.jsonl").read_text().splitlines())
    size = float(np.mean([pool_bytes(part) for part in PARTS]))
    values: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        values.setdefault(name, []).append(float(value))

    for seed in SEEDS:
        known = {}
        for parts in ((1,), (2,), (3,), (1, 2), (1, 2, 3)):
            for steps in SINGLE if len(parts) == 1 else MIXED:
                known[parts, steps] = bits(train(recipe(seed, steps, parts), ROOT), text)
                note(f"bits_{'_'.join(map(str, parts))}_at_{steps}", known[parts, steps])
        seen, pool = np.array(SINGLE, float) * TOKENS, np.full(len(SINGLE), size)
        errors = [np.array([known[(part,), steps] for steps in SINGLE]) / 8 for part in PARTS]
        fits = fit_pools([{"seen": seen, "pool": pool, "error": error} for error in errors])
        mixtures = [(1,), (1, 2), (1, 2, 3)]
        regrets, misses = [], []
        for steps in MIXED:
            count, foretold = best_pools(fits, steps * TOKENS, size)
            reached = [known[parts, steps] for parts in mixtures]
            regrets.append(reached[count - 1] - min(reached))
            misses += [abs(8 * a - b) for a, b in zip(foretold[1:], reached[1:], strict=True)]
            note(f"chosen_at_{steps}", count)
        small, large = MIXED[0], MIXED[-1]
        note("one_less_all_small", known[(1,), small] - known[(1, 2, 3), small])
        note("more_less_one_large", min(known[(1, 2), large], known[(1, 2, 3), large]) - known[(1,), large])
        note("regret", max(regrets))
        note("error_of_mixtures", np.mean(misses))
        print(f"seed {seed}: { ({k: round(v[-1], 3) for k, v in values.items()}) }", file=sys.stderr)
    notes = [f"a part has {size:,.0f} bytes; {MIXED[-1]} steps are {MIXED[-1] * TOKENS / size:.1f} epochs of one"]
    Path(out).write_text(json.dumps({"values": values, "notes": notes}))


if __name__ == "__main__":
    main(sys.argv[1])

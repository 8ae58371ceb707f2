"""Which share of training should be quantised, by tokens a weight's byte; and whether its warm-up can be left out.

``python measure.py OUT`` trains below ``runs``. A run of D steps is divided: 1 - f of them in full precision with a
schedule of their own, then f of them with rounded weights, warmed up and decayed once more. For each seed and each D
every share is trained; the best one lies where a parabola through the best value and its neighbours, over ln f, is
lowest. Fused runs, at ``FUSED``, keep the rate up to the first rounded step and decay it from there on.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np

from isoflop.core.recipe import Recipe
from isoflop.laws import QatFraction
from isoflop.store.run import Run
from isoflop.train.run import train

SEEDS, TUNING, ROOT = (1, 2, 3), 101, Path("runs")
BITS = 3
STEPS = (48, 112, 263, 616, 1440)
SHARES = (0.04, 0.1, 0.2, 0.4, 0.8)
FUSED = (263, 616)
RATES, FACTORS = (0.004, 0.008, 0.016, 0.032), (0.25, 0.5, 1.0)
FUSED_RATES = (0.001, 0.002, *RATES, 0.064)
"""As many trials as the two phases have together."""
LATER = 1000
"""Added to the seed of the second phase, so that its text comes in another order than the first one's."""
BATCH, LENGTH, WIDTH = 8, 64, 48
ROUNDED = {"name": "integer", "bits": BITS}


def trained(seed: int, steps: int, rate: float, **changes: Any) -> Run:
    """A run of ``steps`` steps over bytes, cosine unless ``changes`` says otherwise."""
    tree = {
        "name": f"qat-{steps}",
        "seed": seed,
        "source": {"name": "stdlib", "heldout_bytes": 32768},
        "tokenizer": "bytes",
        "model": {
            "name": "transformer",
            "d_model": WIDTH,
            "layers": 2,
            "mixer": {"name": "attention", "heads": 4},
            "feed_forward": {"name": "swiglu", "hidden": 128},
        },
        "optimizer": {"name": "adamw", "lr": rate},
        "schedule": "cosine",
        "budget": {"steps": steps},
        "train": {"batch": BATCH, "length": LENGTH, "evaluations": 1, "checkpoints": 1},
        **changes,
    }
    return train(Recipe.from_json(tree, source="qat"), ROOT)


def value(run: Run) -> float:
    return float(run.result["value"])


def separate(seed: int, steps: int, share: float, rates: tuple[float, float]) -> float:
    """Bits per byte of rounded weights after two phases, each with a schedule of its own."""
    rounded = max(1, round(share * steps))
    first = trained(seed, steps - rounded, rates[0])
    return value(trained(seed + LATER, rounded, rates[1], start=str(first.path), parametrization=ROUNDED))


def fused(seed: int, steps: int, share: float, rate: float) -> float:
    """The same of one run whose rate decays while weights are rounded."""
    rounded = max(2, round(share * steps))
    part = {**ROUNDED, "begin": 1 - rounded / steps}
    return value(
        trained(seed, steps, rate, schedule={"name": "wsd", "decay": rounded, "final": 0.1}, parametrization=part)
    )


def best_share(values: list[float]) -> float:
    """Where the parabola through the best share and its neighbours is lowest; at an end, that end."""
    at = int(np.argmin(values))
    if at in (0, len(SHARES) - 1):
        return SHARES[at]
    x, y = np.log(SHARES[at - 1 : at + 2]), values[at - 1 : at + 2]
    curve = np.polyfit(x, y, 2)
    return float(np.exp(np.clip(-curve[1] / (2 * curve[0]), x[0], x[-1])))


def searched() -> tuple[tuple[float, float], float]:
    """Rates of the two phases, and of fused runs, the same number of trials each: at a fifth, on the tuning seed."""
    middle, rounded = STEPS[2], round(0.2 * STEPS[2])
    plain = {rate: value(trained(TUNING, middle - rounded, rate)) for rate in RATES}
    rate = min(plain, key=plain.__getitem__)
    again = {factor: separate(TUNING, middle, 0.2, (rate, factor * rate)) for factor in FACTORS}
    factor = min(again, key=again.__getitem__)
    whole = {rate: fused(TUNING, middle, 0.2, rate) for rate in FUSED_RATES}
    print(f"full precision {plain}, rounded {again}, fused {whole}", file=sys.stderr)
    return (rate, factor * rate), min(whole, key=whole.__getitem__)


def main(out: str) -> None:
    rates, fused_rate = searched()
    weights = 2 * (4 * WIDTH**2 + 3 * WIDTH * 128)
    tokens = np.array(STEPS, float) * BATCH * LENGTH
    per_byte = np.log(tokens / (weights * BITS / 8))
    values: dict[str, list[float]] = {}
    shares = []

    def note(name: str, value: float) -> None:
        values.setdefault(name, []).append(float(value))

    for seed in SEEDS:
        found = {(d, f): separate(seed, d, f, rates) for d in STEPS for f in SHARES}
        best = [best_share([found[d, f] for f in SHARES]) for d in STEPS]
        shares.append(best)
        note("slope", np.polyfit(per_byte, best, 1)[0])
        for d, share in zip(STEPS, best, strict=True):
            note(f"best_share_at_{d}", share)
        gaps = [min(fused(seed, d, f, fused_rate) for f in SHARES) - min(found[d, f] for f in SHARES) for d in FUSED]
        note("fused_less_separate", np.mean(gaps))
        print(
            f"seed {seed}: { {f'{d}/{f}': round(v, 4) for (d, f), v in found.items()} } fused {gaps}", file=sys.stderr
        )
    seen = per_byte > math.log(1.1)  # the law is one of more than a token a byte
    table = {
        "N": np.full(len(SEEDS) * seen.sum(), float(weights)),
        "D": np.tile(tokens[seen], len(SEEDS)),
        "bits": np.full(len(SEEDS) * seen.sum(), float(BITS)),
        "fraction": np.array(shares)[:, seen].ravel(),
    }
    fit = QatFraction().fit(table)
    notes = [
        f"rates: {rates[0]} in full precision, {rates[1]} rounded, {fused_rate} fused",
        f"ln S of the lengths: {per_byte.round(2).tolist()}; f* = exp(-a / ln S) with a = {fit.params['a']:.2f}",
    ]
    Path(out).write_text(json.dumps({"values": values, "notes": notes}))


if __name__ == "__main__":
    main(sys.argv[1])

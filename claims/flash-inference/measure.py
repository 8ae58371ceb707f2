"""Online decoding of long convolutions beside the lazy and the eager way: the measurements of the claim.

The ways and how they are timed are those of ``benchmarks/convolution_decode.py``. Values are one a turn: up to 2,048
positions a turn's times are medians of nine. Lengths take turns within a turn, so that what else the machine does falls
on all of them.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import convolution_decode as bench
from isoflop.models.convolution import causal_convolution
from isoflop.models.online_convolution import OnlineConvolution, step_cost

TURNS, MODEL_TURNS, INNER = 5, 3, 9
MODELS = (16_384, 65_536)
CHECKED = 4096


def error(seed: int) -> float:
    """Largest difference from the sum in float64, over the largest output."""
    taps = bench.filters(CHECKED)
    y = torch.randn(CHECKED, 1, bench.CHANNELS, generator=torch.Generator().manual_seed(seed))
    conv = OnlineConvolution(taps)
    found = torch.stack([conv.step(each) for each in y])[:, 0].double()
    wanted = causal_convolution(y.permute(1, 2, 0).double(), taps.t().double())[0].t()
    return float((found - wanted).abs().max() / wanted.abs().max())


def growth(block: int) -> float:
    """Largest over smallest ratio of counted operations to L log^2 L, from 2,048 to 65,536 positions."""
    total, shares = 0, []
    for place in range(65_536):
        cost = step_cost(place, 1, block)
        total += cost.executed + cost.elementwise
        length = place + 1
        if length >= 2048 and not length & place:
            shares.append(total / (length * (length.bit_length() - 1) ** 2))
    return max(shares) / min(shares)


def crossover(ratios: dict[int, float]) -> float:
    """The length from which on it is at least 1.1 times as fast; infinite if it never is."""
    found = float("inf")
    for length in sorted(ratios, reverse=True):
        if ratios[length] < 1.1:
            break
        found = length
    return float(found)


@torch.no_grad()
def main(out: str) -> None:
    torch.set_num_threads(1)
    values: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        values.setdefault(name, []).append(value)

    load = os.getloadavg()[0]
    forms: dict[int, dict[str, str]] = {}
    for turn in range(TURNS):
        ratios = {}
        for length in bench.LENGTHS:
            row = bench.mixer(length, INNER if length <= bench.WHOLE else 1)
            ratios[length] = row["ratio"]
            note(f"mixer_{length}", row["ratio"])
            for way, name in bench.ways(row["seconds"]).items():
                forms.setdefault(length, {})[way] = name.split()[-1]
                note(f"microseconds_{way}_{length}", 1e6 * row["seconds"][name] / length)
        note("slowest", 1 / min(ratios.values()))
        note("crossover", crossover(ratios))
        note("error", error(turn))
        block = row["block"]
        note("growth", growth(block))
    for _ in range(MODEL_TURNS):
        for length in MODELS:
            row = bench.model(length, 1, {way: forms[length][way] for way in bench.OTHERS})
            note(f"model_{length}", row["ratio"])
            for way, spent in row["seconds"].items():
                note(f"model_microseconds_{way}_{length}", 1e6 * spent / length)
    notes = [
        f"blocks of {block} positions; processor seconds; the machine's load was {load:.1f} before and "
        f"{os.getloadavg()[0]:.1f} after, on {os.cpu_count()} processors"
    ]
    axes = {
        "microseconds": {"across": "positions decoded", "up": "microseconds a token, the mixer alone"},
        "model_microseconds": {"across": "positions decoded", "up": "microseconds a token, a model of four layers"},
    }
    Path(out).write_text(json.dumps({"values": values, "axes": axes, "notes": notes}))


if __name__ == "__main__":
    main(sys.argv[1])

"""FLOP/s of the three products of a linear layer in fp32, bf16 and fp16: what half precision is worth on this machine.

    python benchmarks/precision.py [--smoke] [--turns 15] [--json benchmarks/results/precision.json]

As the table of Mixed-precision training on microcontrollers, which counts MACs a cycle of each product and pass; here
no cycles are counted, so the figures are FLOP/s of a core's time (a multiply-add is 2). ``forward`` is x W', ``input``
g W, ``weight`` g' x, each on the operands as they lie after a forward pass. One thread; the types take turns, in an
order that turns around, and the medians are given, beside fp32's of the same turn.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from optim_step import environment

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SHAPES = {"small": (1024, 64, 176), "middle": (2048, 512, 512), "wide": (1024, 768, 2048)}
"""Tokens, and the layer's width on either side."""
LEAST = 0.02
"""Seconds that are timed at once, at least."""


def products(shape: tuple[int, int, int], kind: torch.dtype) -> dict[str, Any]:
    """The three products, each a function without arguments."""
    tokens, inner, outer = shape
    draw = torch.Generator().manual_seed(0)
    x, w, g = (torch.randn(*s, generator=draw).to(kind) for s in ((tokens, inner), (outer, inner), (tokens, outer)))
    return {"forward": lambda: x @ w.t(), "input": lambda: g @ w, "weight": lambda: g.t() @ x}


def rate(act: Any, flops: int, repeats: int) -> float:
    """FLOPs a second of the process's time."""
    start = time.process_time()
    for _ in range(repeats):
        act()
    return flops * repeats / max(time.process_time() - start, 1e-9)


def measured(shape: tuple[int, int, int], turns: int, least: float) -> dict[str, dict[str, float]]:
    """For each product the rate of each type, and its share of fp32's."""
    flops = 2 * shape[0] * shape[1] * shape[2]
    acts = {name: products(shape, kind) for name, kind in TYPES.items()}
    found = {}
    for product in ("forward", "input", "weight"):
        repeats = {name: max(1, round(least * rate(acts[name][product], flops, 1) / flops)) for name in TYPES}
        rates: dict[str, list[float]] = {name: [] for name in TYPES}
        for turn in range(turns):
            for name in sorted(TYPES, reverse=bool(turn % 2)):
                rates[name].append(rate(acts[name][product], flops, repeats[name]))
        row = {name: statistics.median(each) for name, each in rates.items()}
        for name in ("bf16", "fp16"):
            row[f"{name} / fp32"] = statistics.median(a / b for a, b in zip(rates[name], rates["fp32"], strict=True))
        found[product] = row
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="tiny shapes, one turn: only that everything runs")
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--json", type=Path, help="also write the result here")
    args = parser.parse_args()
    torch.set_num_threads(1)
    shapes = {"tiny": (8, 8, 8)} if args.smoke else SHAPES
    turns, least = (1, 0.0) if args.smoke else (args.turns, LEAST)
    found = {
        "environment": environment(),
        "turns": turns,
        "shapes": {
            name: dict(zip(("tokens", "input", "output"), shape, strict=True)) for name, shape in shapes.items()
        },
        "flops_per_second": {name: measured(shape, turns, least) for name, shape in shapes.items()},
    }
    text = json.dumps(found, indent=1)
    print(text)
    if args.json:
        args.json.write_text(text + "\n")


if __name__ == "__main__":
    main()

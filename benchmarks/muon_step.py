"""CPU seconds of a step of our Muon beside torch's, and of the ways to iterate one matrix.

    python benchmarks/muon_step.py [--smoke] [--pairs 20] [--json benchmarks/results/muon_step.json]

One thread, float32 matrices, bfloat16 iterations. Every pair times both sides, in turn first and second; reported are
medians and the median of the pairs' ratios. ``ways`` is what ``optim/orthogonal.py`` chose its sizes by: seconds beside
torch's iteration, of one matrix after the other by whole products, by halves, and of all as one stack.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.optim._muon import _zeropower_via_newtonschulz

from isoflop.optim import Muon
from isoflop.optim.orthogonal import QUINTIC, _by_halves, _by_wholes, _lying, per_step
from optim_step import environment

Shapes = list[tuple[int, int]]
MODELS: dict[str, Shapes] = {
    "demo, width 64": [(64, 64)] * 8 + [(176, 64)] * 4 + [(64, 176)] * 2,
    "width 192": [(192, 192)] * 16 + [(512, 192)] * 8 + [(192, 512)] * 4,
    "width 256": [(256, 256)] * 8 + [(1024, 256)] * 2 + [(256, 1024)] * 2,
    "width 320": [(320, 320)] * 8 + [(1280, 320)] * 2 + [(320, 1280)] * 2,
    "width 384": [(384, 384)] * 4 + [(1536, 384)] * 4 + [(384, 1536)] * 4,
    "no two alike": [(60 + i, 64) for i in range(14)],
}
WAYS: list[tuple[tuple[int, int], int]] = [
    ((64, 64), 8),
    ((64, 176), 6),
    ((128, 512), 4),
    ((192, 512), 4),
    ((256, 256), 4),
    ((256, 1024), 4),
    ((320, 320), 4),
    ((320, 1280), 4),
    ((384, 384), 4),
    ((384, 1536), 4),
]
TRIPLES = per_step(QUINTIC, 5)


def seconds(act: Callable[[], Any]) -> float:
    start = time.process_time()
    act()
    return time.process_time() - start


def steps(shapes: Shapes, pairs: int) -> dict[str, float]:
    """Medians of both sides' steps, and of the ratio ours / torch's."""
    draw = torch.Generator().manual_seed(0)
    sides = {}
    for label, cls in (("ours", Muon), ("torch", torch.optim.Muon)):
        params = [torch.nn.Parameter(0.02 * torch.randn(shape, generator=draw)) for shape in shapes]
        sides[label] = (cls(params, lr=1e-3, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"), params)
    sides["ours"][0].check_gradients = False  # as in a training loop, and as torch's
    spent: dict[str, list[float]] = {label: [] for label in sides}
    for t in range(pairs + 2):
        for label in sorted(sides, reverse=bool(t % 2)):
            optimizer, params = sides[label]
            for p in params:
                p.grad = 1e-3 * torch.randn(p.shape, generator=draw)
            taken = seconds(optimizer.step)
            if t > 1:  # the first steps allocate
                spent[label].append(taken)
    ratios = [mine / theirs for mine, theirs in zip(spent["ours"], spent["torch"], strict=True)]
    medians = {label: statistics.median(times) for label, times in spent.items()}
    return {**medians, "ratio": statistics.median(ratios)}


def ways(shape: tuple[int, int], count: int, pairs: int) -> dict[str, float]:
    """Seconds of each way beside torch's iteration, for ``count`` matrices of ``shape``."""
    draw = torch.Generator().manual_seed(0)
    matrices = [torch.randn(shape, generator=draw) for _ in range(count)]
    acts: dict[str, Callable[[], Any]] = {
        "torch": lambda: [_zeropower_via_newtonschulz(g, QUINTIC, 5, 1e-7) for g in matrices],
        "wholes": lambda: [_by_wholes(_lying(g, torch.bfloat16, 1e-7), TRIPLES) for g in matrices],
        "halves": lambda: [_by_halves(_lying(g, torch.bfloat16, 1e-7), TRIPLES) for g in matrices],
        "stack": lambda: _by_wholes(_lying(torch.stack(matrices), torch.bfloat16, 1e-7), TRIPLES),
    }
    spent = [{way: seconds(act) for way, act in acts.items()} for _ in range(pairs + 1)][1:]
    return {way: statistics.median(row[way] / row["torch"] for row in spent) for way in acts if way != "torch"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="the smallest shapes, one pair: only that it runs")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--json", type=Path, help="also write the results here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    pairs, models = (1, {"demo, width 64": MODELS["demo, width 64"]}) if options.smoke else (options.pairs, MODELS)
    where = environment()
    found: dict[str, Any] = {"environment": where, "pairs": pairs, "steps": {}, "ways": {}}
    if where["load"] > 0.5:
        print(f"the machine is busy (load {where['load']:.1f}): compare ratios only")
    for name, shapes in models.items():
        row = found["steps"][name] = steps(shapes, pairs)
        print(f"{name:16} ours {1e3 * row['ours']:7.2f} ms  torch {1e3 * row['torch']:7.2f} ms  {row['ratio']:.3f}")
    for shape, count in WAYS[:1] if options.smoke else WAYS:
        row = found["ways"][f"{count} x {list(shape)}"] = ways(shape, count, pairs)
        print(f"{count} x {shape!s:12}", "  ".join(f"{way} {ratio:.2f}" for way, ratio in row.items()))
    found["load_after"] = os.getloadavg()[0]
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

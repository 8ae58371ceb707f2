"""Losses of one small fp32 run on a device beside those on the CPU, step by step.

    python benchmarks/same_on_gpu.py [--device cuda] [--root DIR] [--out FILE]

Products of float32 are computed in float32 (torch's default); what remains is the order of sums, which training
amplifies from step to step. The exit status is 1 where a loss of the first ten steps differs by more than 1e-4 of
itself.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from isoflop.core.files import write_json
from isoflop.core.recipe import Recipe
from isoflop.store.environment import environment
from isoflop.train.devices import device_name
from isoflop.train.run import train

STEPS, FIRST, TOLERANCE = 50, 10, 1e-4


def losses(device: str, root: Path) -> list[float]:
    """Training losses of every step."""
    changes = (f"budget.steps={STEPS}", f'train.device="{device}"', "train.evaluations=1", f"name=on-{device}")
    run = train(Recipe.load("small", *changes), root)
    return [float(row["loss"]) for row in run.metrics("step")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--root", type=Path, default=None, help="directory for the two runs; default: one that goes")
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = args.root or Path(scratch)
        here, there = losses("cpu", root), losses(args.device, root)
    differences = [abs(a - b) / abs(a) for a, b in zip(here, there, strict=True)]
    first, last = max(differences[:FIRST]), max(differences)
    print(f"largest relative difference: {first:.1e} in the first {FIRST} steps, {last:.1e} in {STEPS}")
    if args.out is not None:
        found = environment("stat", device=device_name(args.device))
        date = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(args.out, {"date": date, "environment": found, "relative_differences": differences})
    return int(not first <= TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())

"""Seconds of the online convolution's tiles, by how many numbers are transformed at once.

    python benchmarks/convolution_tiles.py [--json benchmarks/results/convolution_tiles.json]

One thread, fp32, one sequence, 256 channels, four layers whose tiles are due together: a tile of U inputs and U
outputs is a transform of 2 U numbers for each channel. Limits take turns; reported are medians of the processor's
seconds. ``all`` transforms the four layers in one call, whatever their size; ``a token`` is what tiles take a token of
65,536, over all sizes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path

import torch

from convolution_decode import CHANNELS, LAYERS, filters
from isoflop.core.files import write_json
from isoflop.models import online_convolution
from isoflop.models.online_convolution import Kernel, OnlineConvolution
from isoflop.models.tiles import tile_at
from isoflop.store.environment import environment

LENGTH = 65_536
LIMITS = {"all": 1 << 40, **{f"2^{power}": 1 << power for power in range(16, 22)}}


def seconds(convolutions: list[OnlineConvolution], size: int, limit: int) -> float:
    """CPU seconds of one tile, of as many as take as long as one of 4,096."""
    online_convolution.AT_ONCE = limit
    count = max(1, 4096 // size)
    start = time.process_time()
    for _ in range(count):
        online_convolution._give(convolutions, tile_at(size))
    return (time.process_time() - start) / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    load, rows, total = os.getloadavg()[0], list[dict[str, object]](), dict.fromkeys(LIMITS, 0.0)
    with torch.no_grad():
        kernels = [Kernel(filters(LENGTH)) for _ in range(LAYERS)]
        convolutions = [OnlineConvolution(kernel, 1, LENGTH) for kernel in kernels]
        size = kernels[0].block
        while size < LENGTH:
            spent: dict[str, list[float]] = {name: [] for name in LIMITS}
            for turn in range(arguments.repeats + 1):
                for name in list(LIMITS) if turn % 2 else reversed(LIMITS):
                    taken = seconds(convolutions, size, LIMITS[name])
                    spent[name] += [taken] if turn else []  # the first turn makes spectra
            medians = {name: statistics.median(times) for name, times in spent.items()}
            rows.append({"size": size, "seconds": medians})
            total = {name: each + medians[name] * (LENGTH // (2 * size)) / LENGTH for name, each in total.items()}
            print(size, {name: f"{1000 * each:.2f} ms" for name, each in medians.items()}, flush=True)
            size *= 2
    print("a token:", {name: f"{1e6 * each:.1f} us" for name, each in total.items()})
    if arguments.json:
        facts = {"channels": CHANNELS, "layers": LAYERS, "rows": rows, "a token": total}
        written = {"environment": environment(), "load_before": load, "load_after": os.getloadavg()[0], **facts}
        write_json(arguments.json, json.loads(json.dumps(written, default=str)))


if __name__ == "__main__":
    main()

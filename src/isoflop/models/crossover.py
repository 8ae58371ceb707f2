"""Which way of giving from position to position is quicker on this machine, by block size: timed once, then kept."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ..core.errors import DataError
from ..core.files import write_json
from ..core.reading import read_json

SIZES = tuple(1 << k for k in range(4, 12))
"""Blocks among which is chosen."""
WIDEST = 512
"""Channels beyond which both ways take times in proportion."""
AROUND = 4
"""Seconds of a tile over those of its transforms, timed again and again: one that comes seldom finds its memory in no
cache, or not yet mapped, inputs are gathered before it, and a block is begun behind it."""


def block_of(taps: Tensor) -> int:
    """The block within which pushing is quicker than transforms, for filters like ``taps`` (n, channels).

    Timed at first use, in a few dozen milliseconds, and kept in the user's cache directory, so that the same machine
    always rounds the same way.
    """
    wide = 1 << max(taps.shape[1] - 1, 1).bit_length()  # nearly equal widths share what was timed
    return _block_of(min(wide, WIDEST), taps.dtype, str(taps.device))


@functools.cache
def _block_of(channels: int, dtype: torch.dtype, device: str) -> int:
    threads = torch.get_num_threads()
    key = f"{platform.machine()} torch {torch.__version__} {device} {dtype} {threads} threads, {channels} channels"
    file = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "isoflop" / "convolution_blocks.json"
    known: dict[str, int] = {}
    with contextlib.suppress(DataError):  # nothing was timed here yet, or the file is not ours: it is written anew
        known = read_json(file, dict[str, int])
    if known.get(key) in SIZES:
        return known[key]
    found = quickest_block(timed(channels, dtype, device))
    with contextlib.suppress(OSError):  # a machine without such a directory times again
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, {**known, key: found})
    return found


def quickest_block(table: dict[int, tuple[float, float]]) -> int:
    """The first size whose tile is quicker by transforms than by pushing; the largest if none is.

    Args:
        table: size -> seconds of a tile's sums by pushing, and of its transforms.

    Example:
        >>> quickest_block({16: (1.0, 2.0), 32: (4.0, 3.0), 64: (16.0, 3.9)})
        64
    """
    return next((size for size, (pushed, transformed) in table.items() if AROUND * transformed < pushed), max(table))


def timed(channels: int, dtype: torch.dtype, device: str) -> dict[int, tuple[float, float]]:
    """Size U -> seconds in which U inputs give to the next U outputs, by pushing and by transforms.

    Each input of a block twice as large is pushed to U outputs more, so that is what pushing costs.
    """
    largest = SIZES[-1]
    y = torch.zeros(1, channels, largest, dtype=dtype, device=device)
    rows = torch.zeros(2 * largest, 1, channels, dtype=dtype, device=device)
    taps, one, found = torch.zeros_like(rows), torch.zeros_like(rows[0]), {}
    for size in SIZES:
        spectrum = torch.fft.rfft(y[0, :, :size], 2 * size)

        def transform(size: int = size, spectrum: Tensor = spectrum) -> None:
            there = torch.fft.rfft(y[..., :size], 2 * size)
            there *= spectrum
            y[..., :size] += torch.fft.irfft(there, 2 * size)[..., size:]

        def push(outputs: int) -> float:
            return _least(lambda: rows[:outputs].addcmul_(taps[:outputs], one))

        found[size] = size * max(0.0, push(3 * size // 2) - push(size // 2)), _least(transform)
    return found


def _least(run: Callable[[], object], repeats: int = 5) -> float:
    """Seconds of the quickest of a few runs."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)

"""How fast this machine multiplies matrices, for model-FLOP utilisation and estimates of time."""

from __future__ import annotations

import time

import torch

LIMIT = 0.6
"""Seconds that a measurement may take."""
SHARE = 0.05
"""Seconds for the products of one size, where it has more than ``CALLS`` of them in that time."""
CALLS = 5
"""Least number of products of each size: the first ones set up kernels, fault pages in and wake threads."""
SIZES = (256, 512, 1024, 2048, 4096, 8192)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def matmul_rate(device: str = "cpu", precision: str = "fp32", threads: int | None = None) -> float:
    """FLOP/s of the fastest square product that was tried, the largest sizes only as time allows.

    Args:
        device: "cpu", "cuda" or "cuda:1".
        precision: "fp32" or "bf16".
        threads: of the CPU, during the measurement; default as set.
    """
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        return _fastest(torch.device(device), DTYPES[precision])
    finally:
        torch.set_num_threads(before)


def _fastest(device: torch.device, dtype: torch.dtype) -> float:
    generator = torch.Generator().manual_seed(0)
    start, best, last = time.perf_counter(), 0.0, 0.0
    for size in SIZES:
        if time.perf_counter() - start + CALLS * 8 * last > LIMIT:  # twice the size is eight times the work
            break
        row, column = torch.rand(2, size, generator=generator).to(device, dtype)
        a = torch.outer(column, row)  # quicker than to draw every entry
        out = torch.empty_like(a)
        began, calls = time.perf_counter(), 0
        while calls < CALLS or time.perf_counter() - began < SHARE:
            last, calls = _seconds(a, out), calls + 1
            best = max(best, 2 * size**3 / last)
    return best


def _seconds(a: torch.Tensor, out: torch.Tensor) -> float:
    wait(a.device)
    start = time.perf_counter()
    torch.mm(a, a, out=out)
    wait(a.device)
    return time.perf_counter() - start


def wait(device: torch.device | str) -> None:
    """Return when everything queued on ``device`` is done; a CPU queues nothing."""
    if torch.device(device).type != "cpu":
        torch.accelerator.synchronize(device)

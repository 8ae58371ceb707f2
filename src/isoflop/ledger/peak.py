"""How fast this machine multiplies matrices, for model-FLOP utilisation and estimates of time."""

from __future__ import annotations

import time

import torch

LIMIT = 0.3
"""Seconds that a measurement may take."""
SIZES = (256, 512, 1024, 2048, 4096, 8192)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def matmul_rate(device: str = "cpu", precision: str = "fp32", threads: int | None = None) -> float:
    """FLOP/s of the fastest square product that was tried, the largest sizes only as time allows.

    Args:
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
    generator = torch.Generator(device).manual_seed(0)
    start, best, last = time.perf_counter(), 0.0, 0.0
    for size in SIZES:
        if time.perf_counter() - start + 3 * 8 * last > LIMIT:  # twice eightfold work, and the operands
            break
        a = torch.randn(size, size, device=device, dtype=dtype, generator=generator)
        out = torch.empty_like(a)
        for _ in range(2):  # the first call of a size may set up its kernel
            last = _seconds(a, out)
            best = max(best, 2 * size**3 / last)
    return best


def _seconds(a: torch.Tensor, out: torch.Tensor) -> float:
    _wait(a.device)
    start = time.perf_counter()
    torch.mm(a, a, out=out)
    _wait(a.device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()

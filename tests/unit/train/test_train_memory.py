"""Freed memory stays while a run lasts, and goes back afterwards."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROBE = """
import resource
import torch
from isoflop.train.memory import kept_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16 << 20)  # 64 MiB: 16,384 pages of 4 KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1])

with kept_memory():
    for _ in range(20):  # an aligned block fits into one that was freed only when neighbours are free too
        faults()
    kept, during = faults(), resident()
print(kept, faults(), during - resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts page faults as Linux does")
@pytest.mark.parametrize("variables", [{}, {"MALLOC_TOP_PAD_": "0"}], ids=["ours", "the user's"])
def test_pages_are_faulted_in_once_while_kept_and_given_back_after(variables: dict[str, str]) -> None:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    job = subprocess.run(
        [sys.executable, "-c", PROBE], env=inherited | variables, capture_output=True, text=True, check=True
    )
    kept, afterwards, returned = map(int, job.stdout.split())
    assert afterwards > 10_000
    if variables:
        assert kept > 10_000
    else:
        assert kept < 1_000
        assert returned > 10_000

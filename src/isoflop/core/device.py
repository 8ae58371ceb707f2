"""A device as a recipe names it: ``cpu``, ``cuda``, ``cuda:1``, ``mps``, ``xpu``."""

from __future__ import annotations

import os
import resource
import sys
from dataclasses import dataclass
from pathlib import Path

KINDS = ["cpu", "cuda", "mps", "xpu"]
"""Kinds of devices that a recipe may name."""


@dataclass(frozen=True)
class Device:
    """A device by kind and number; whether this machine has it, ``train.devices`` knows.

    Args:
        kind: one of ``KINDS``.
        index: which one of its kind, counted from 0.

    Example:
        >>> Device.of("cuda:1")
        Device(kind='cuda', index=1)
    """

    kind: str
    index: int = 0

    @classmethod
    def of(cls, name: str) -> Device:
        """The device that torch calls ``name``."""
        kind, _, index = name.partition(":")
        return cls(kind, int(index or 0))

    @property
    def is_cpu(self) -> bool:
        return self.kind == "cpu"

    @property
    def is_cuda(self) -> bool:
        return self.kind == "cuda"


def physical_memory() -> int:
    """Bytes of this machine's main memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def peak_memory() -> int:
    """Bytes of main memory that this process has held at most; what a run before it held counts too."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        # The count that POSIX offers begins, on Linux, with what the parent held when it started this process.
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

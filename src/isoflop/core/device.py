"""A device as a recipe names it: ``cpu``, ``cuda``, ``cuda:1``, ``mps``, ``xpu``."""

from __future__ import annotations

import os
from dataclasses import dataclass

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

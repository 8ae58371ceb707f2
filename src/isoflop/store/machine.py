"""Speeds measured on this machine, remembered beside the runs so that planning need not measure again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..core.errors import DataError
from ..core.files import read_json, write_json
from .environment import cpu_model


def remembered(root: Path, what: str, measure: Callable[[], float], *, threads: int, device: str = "cpu") -> float:
    """The value of ``what`` (such as "matmul fp32", FLOP/s) on this processor with so many threads.

    Measured by ``measure()`` the first time, then read from ``<root>/machine.json``; delete that file to measure anew.
    """
    path = root / "machine.json"
    key = f"{what} | {cpu_model() if device == 'cpu' else device} | {threads} threads"
    if key not in (known := _known(path)):
        value = measure()
        write_json(path, {**_known(path), key: value})
        return value
    return known[key]


def _known(path: Path) -> dict[str, float]:
    """What is remembered; a file that is missing, broken or holds anything but numbers is as good as none."""
    try:
        tree: Any = read_json(path)
    except DataError:
        return {}
    if not isinstance(tree, dict):
        return {}
    return {k: float(v) for k, v in tree.items() if isinstance(v, int | float) and not isinstance(v, bool)}

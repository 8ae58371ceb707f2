"""Where a run was made: versions, commit, processor, threads, and what must agree for a resumed run to be exact."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from ..core.device import Device
from ..core.recipe import Train
from .records import Change

Determinism = Literal["exact", "order", "stat"]

_PACKAGES = ("isoflop", "torch", "numpy", "safetensors", "tokenizers")
_PREFIXES = ("OMP_", "KMP_", "GOMP_", "MKL_", "OPENBLAS_", "ONEDNN_", "DNNL_", "MALLOC_", "GLIBC_", "PYTORCH_", "TORCH")
_NAMES = ("LD_PRELOAD", "CUBLAS_WORKSPACE_CONFIG", "CUDA_VISIBLE_DEVICES")
DECIDE_BYTES = ("isoflop", "commit", "dirty", "torch", "numpy", "machine", "cpu", "device", "threads", "determinism")
"""What must agree for a run's bytes to be the same a second time."""


def determinism(train: Train) -> Determinism:
    """What may be expected of a second run on the same type of machine with the same number of threads.

    "exact": the same bytes. "order": the same samples and budget, losses within rounding. "stat": within the seeds'
    noise (GPUs, whose kernels add in any order, and compiled models).
    """
    return "exact" if Device.of(train.device).is_cpu and not train.compile else "stat"


def environment(level: Determinism = "exact", **facts: Any) -> dict[str, Any]:
    """JSON values that describe a run in this process; ``facts`` adds or replaces entries (``device`` ...).

    ``threads`` is OMP_NUM_THREADS or the usable cores.

    Example:
        >>> facts = environment(device="cpu")
        >>> facts["device"], facts["threads"] > 0
        ('cpu', True)
    """
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    threads = int(wanted) if wanted.isdecimal() else cores()
    return {**process(), "threads": threads, "device": "cpu", "determinism": level, **facts}


def process() -> dict[str, Any]:
    """JSON values that describe this process, whatever it runs. Imports none of the packages that it names."""
    return {
        **{name: _version(name) for name in _PACKAGES},
        **checkout(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "machine": platform.machine(),
        "cpu": cpu_model(),
        "cores": cores(),
        "variables": _variables(),
    }


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """What differs of everything that decides a run's bytes."""
    both = {key: (before.get(key), now.get(key)) for key in DECIDE_BYTES}
    return [Change(key=key, before=old, after=new) for key, (old, new) in both.items() if old != new]


def changes_of(event: Mapping[str, Any]) -> list[Change]:
    """The changes that an event tells of; those of the first release are texts, whose values stay texts."""
    changes: list[Change | str] = event.get("changes", [])
    return [_change_of(change) if isinstance(change, str) else change for change in changes]


def told(change: Change) -> str:
    """A change in words: "threads: 1 -> 2"."""
    return f"{change['key']}: {change['before']} -> {change['after']}"


def _change_of(text: str) -> Change:
    key, _, both = text.partition(": ")
    before, _, after = both.partition(" -> ")
    return Change(key=key, before=before, after=after)


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def cpu_model() -> str:
    """The processor's name as its maker gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


@functools.cache
def checkout() -> dict[str, Any]:
    """``commit`` and ``dirty`` of the git checkout that isoflop runs from; None without.

    Dirty: a tracked file was changed, or a file that git does not know lies among the sources, where it is a part.
    """
    root = Path(__file__).parents[3]
    nothing = {"commit": None, "dirty": None}
    if not ((root / ".git").exists() and (root / "src" / "isoflop").is_dir()):
        return nothing
    commit, changes = _git(root, "rev-parse", "HEAD"), _git(root, "status", "--porcelain", "--untracked-files=no")
    unknown = _git(root, "ls-files", "--others", "--exclude-standard", "src/isoflop")
    if commit is None:
        return nothing
    return {"commit": commit, "dirty": None if changes is None or unknown is None else bool(changes or unknown)}


def _variables() -> dict[str, str]:
    """Environment variables that may change speed or bytes; where caches lie does not, and torch sets that itself."""
    wanted = {k: v for k, v in sorted(os.environ.items()) if k.startswith(_PREFIXES) or k in _NAMES}
    return {k: v for k, v in wanted.items() if not k.endswith("_CACHE_DIR")}


def _git(root: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None

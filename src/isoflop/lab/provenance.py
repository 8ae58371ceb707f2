"""What made the runs of a study: code, machine and settings, and on what of it they differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..core.digests import digest
from ..store.environment import DECIDE_BYTES, changes_of
from ..store.results import RunRow, abridged
from ..store.run import Run

Environments = Mapping[str, Mapping[str, Any]]
"""By the key that rows name them with."""
DECIDE_SECONDS = ("isoflop", "commit", "dirty", "torch", "cpu", "device", "threads")
"""What must agree for the seconds of two runs to be comparable."""


def made_by(run: Run) -> dict[str, Any]:
    """A run's environment; what differed where it went on elsewhere is a list, in the order in which it was met.

    What its first steps were made in comes first, if it took them over from a run that was made elsewhere.
    """
    made = dict(run.environment)
    for event in run.events("environment"):
        for change in changes_of(event):
            key, after = change["key"], change["after"]
            met = made[key] if isinstance(made.get(key), list) else [made.get(key)]
            made[key] = met if str(after) in map(str, met) else [*met, after]  # texts in runs of the first release
    for event in run.events("lengthened"):
        for change in changes_of(event):
            key, before = change["key"], change["before"]
            met = made[key] if isinstance(made.get(key), list) else [made.get(key)]
            made[key] = met if str(before) in map(str, met) else [before, *met]
    return made


def key_of(environment: Mapping[str, Any]) -> str:
    """What rows name an environment with."""
    return digest(dict(environment))[:12]


def environments_of(root: Path, rows: Iterable[RunRow]) -> dict[str, dict[str, Any]]:
    """Each environment that rows name, once, from the runs under ``root``."""
    runs = {row.environment: row.run for row in rows if row.environment}
    return {key: made_by(Run.read(root / run)) for key, run in runs.items()}


def counted(rows: Iterable[RunRow], known: Environments, key: str) -> Counter[str]:
    """How many runs were made with each value of ``key``, as far as that is known."""
    runs = {row.run: known[row.environment] for row in rows if row.environment in known}
    return Counter(abridged(environment[key]) for environment in runs.values() if key in environment)


def listed(counts: Mapping[str, int]) -> str:
    """Values with the number of their runs."""
    return ", ".join(f"{value} ({count} run{'s' if count > 1 else ''})" for value, count in counts.items())


def mixture(rows: Iterable[RunRow], known: Environments) -> str:
    """What makes the seconds of runs incomparable, such as "cpu: A (3 runs), B (1 run)"; "" if nothing does."""
    rows = list(rows)
    for key in DECIDE_SECONDS:
        counts = counted(rows, known, key)
        moved = any(isinstance(known[row.environment].get(key), list) for row in rows if row.environment in known)
        if len(counts) > 1 or moved:
            return f"{key}: {listed(counts)}"
    return ""


def remarks(rows: Iterable[RunRow], known: Environments, now: Mapping[str, Any]) -> list[str]:
    """A sentence for every key on which the runs differ from each other, or from the process ``now``."""
    rows, said = list(rows), []
    for key in DECIDE_BYTES:
        counts = counted(rows, known, key)
        here = abridged(now[key]) if key in now else ""
        if len(counts) > 1:
            said.append(f"not all runs were made alike: {key} {listed(counts)}")
        elif here and counts and here not in counts:
            said.append(f"the runs were made elsewhere or by other code: {key} {listed(counts)}, here {here}")
    return said

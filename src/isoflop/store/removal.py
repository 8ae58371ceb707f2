"""Removing a run: never one that a study's result or another run stands on; one that never began makes room."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from ..core.errors import DataError, UsageError
from ..core.files import disk_errors
from ..core.reading import read_json
from .names import printable
from .pipelines import PIPELINE, PipelineResult
from .results import STUDY, StudyResult
from .run import Run, run_directories


def standing_on(run: Run, root: Path) -> Iterator[str]:
    """What below ``root`` needs a run: studies and pipelines that count it, runs whose recipe names its weights.

    One of them that cannot be read is said to need it: nobody knows that it does not.
    """
    for place in sorted(root.glob(f"*/{STUDY}")):
        name = f"study {printable(place.parent.name)}"
        try:
            if any(row.recipe_hash == run.hash for row in StudyResult.read(place).runs):
                yield name
        except DataError:
            yield f"{name} (perhaps: it cannot be read)"
    for place in sorted(root.glob(f"*/{PIPELINE}")):
        name = f"pipeline {printable(place.parent.name)}"
        try:
            result: PipelineResult = read_json(place, PipelineResult)
            if any(run.hash in (row.identity, *row.ancestors) for row in result.rows):
                yield name
        except DataError:
            yield f"{name} (perhaps: it cannot be read)"
    for directory in run_directories(root):
        name = f"run {printable(directory.name)}"
        try:
            other = Run.read(directory).resolved
            named = [other.get("start"), *(other.get("models") or {}).values()]
            if any(isinstance(reference, dict) and reference.get("recipe") == run.hash for reference in named):
                yield name
        except (DataError, AttributeError):
            yield f"{name} (perhaps: it cannot be read)"


def remove(run: Run, root: Path, *, force: bool = False) -> None:
    """Remove a run's directory, in one move: a process that is killed meanwhile leaves none or the whole of it listed.

    Args:
        run: what to remove.
        root: where studies and other runs that may need it lie.
        force: remove it whatever stands on it.

    Raises:
        UsageError: something stands on it, or a process works on it.
        StorageError: the disk refused.

    Example, with ``recipe`` a recipe of nine steps:
        >>> run = Run.open("runs", recipe)
        >>> remove(run, Path("runs"))
        >>> run.path.exists()
        False
    """
    needed = [] if force else list(standing_on(run, root))
    if needed:
        fix = "keep it, or remove it with --force"
        raise UsageError(f"is what {', '.join(needed)} stands on", where=str(run.path), fix=fix)
    _discard(run)


def make_room(path: Path, recipe: str) -> None:
    """Remove a run that ended before its first step from ``path``, unless it is of the recipe with that hash.

    What failed so left a directory that says why, and nothing that anybody could want: its name is free for another.

    Raises:
        UsageError: a process works on it.
        StorageError: the disk refused.
        DataError: it cannot be read.
    """
    if os.path.lexists(path / "resolved.json"):
        run = Run.read(path)
        if run.hash != recipe and not run.begun:
            _discard(run)


def _discard(run: Run) -> None:
    gone = run.path.parent / f".{run.path.name}.removed-{os.getpid()}"
    with disk_errors(run.path):
        with run.lock():
            run.path.rename(gone)
        shutil.rmtree(gone)

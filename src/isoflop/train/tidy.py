"""Freeing the disk of what no result stands on: the optimizer's state of runs that a finished study counts.

Weights, averages, metrics and ledgers stay, so that every result can still be evaluated, generated from, started from.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from ..core.files import PARTIAL, disk_errors, write_json
from ..core.reading import read_json
from ..store import checkpoint
from ..store.results import STUDY, StudyResult
from ..store.run import Run, run_directories
from .ancestors import evaluated
from .restore import context_of
from .session import OPTIMIZER
from .state import load_tensors, save_tensors, tensors_of

_STATE, _TENSORS = "state.json", "state.safetensors"


@dataclass(frozen=True)
class Freed:
    """What is to be freed of one checkpoint: ``tensors`` of its state, of ``size`` bytes in all."""

    run: Run
    directory: Path
    tensors: frozenset[str]
    size: int


def clearable(root: Path) -> Iterator[Freed]:
    """Optimizers' states below ``root`` that nothing needs any more.

    Those of finished runs that a study's result counts, but for runs with whose optimizer another recipe goes on
    (``start.optimizer``), and optimizers without whose state the weights that are evaluated would be others.

    Raises:
        DataError: a study or a run cannot be read: nobody knows what it needs.
    """
    runs = [Run.read(directory) for directory in run_directories(root)]
    counted = {row.recipe_hash for place in sorted(root.glob(f"*/{STUDY}")) for row in StudyResult.read(place).runs}
    starts = [run.resolved.get("start") for run in runs]
    kept = {start.get("recipe") for start in starts if isinstance(start, dict) and start.get("optimizer")}
    for run in runs:
        if run.hash in counted - kept and run.finished:
            for step in run.steps:
                yield from _of(run, step, run.path / checkpoint.FOLDER / str(step))


def clear(freed: Freed) -> None:
    """Remove the optimizer's state from a checkpoint, which stays whole if the process is killed meanwhile.

    Raises:
        UsageError: a process works on the run.
        StorageError: the disk refused.
    """
    directory = freed.directory
    with freed.run.lock(), checkpoint.replacing(directory, (_STATE, _TENSORS)):
        tree = read_json(directory / _STATE)
        tree["parts"].pop(OPTIMIZER, None)
        write_json(directory / _STATE, tree)
        left = {name: tensor for name, tensor in _held(directory).items() if name not in freed.tensors}
        partial = directory / f"{PARTIAL}{_TENSORS}"
        if left:
            save_tensors(partial, left)
        with disk_errors(directory):
            partial.replace(directory / _TENSORS) if left else (directory / _TENSORS).unlink(missing_ok=True)
    freed.run.event("cleared", message=f"optimizer's state of checkpoint {directory.name}: {freed.size} bytes")


def _of(run: Run, step: int, directory: Path) -> Iterator[Freed]:
    if checkpoint.damage(directory, digests=False):
        return
    parts = read_json(directory / _STATE)["parts"]
    others = {name for key, part in parts.items() if key != OPTIMIZER for name in tensors_of(part)}
    held = _held(directory)
    gone = frozenset(held.keys() - others)
    cut_off = _STATE not in checkpoint.digests(directory)  # a clearing that was killed before its end
    if (gone or cut_off) and not (OPTIMIZER in parts and _is_evaluated(run, step, directory)):
        yield Freed(run, directory, gone, sum(held[name].nbytes for name in gone))


def _held(directory: Path) -> dict[str, torch.Tensor]:
    path = directory / _TENSORS
    return load_tensors(path) if path.exists() else {}


def _is_evaluated(run: Run, step: int, directory: Path) -> bool:
    """Whether the weights that are evaluated depend on the optimizer's state, as those of schedule-free rules do."""
    recipe, _, ctx = context_of(run, directory, "cpu")
    whole, bare = (
        evaluated(recipe, step, directory, ctx, without=without)[0].state_dict() for without in ((), (OPTIMIZER,))
    )
    return any(not torch.equal(tensor, bare[name]) for name, tensor in whole.items())

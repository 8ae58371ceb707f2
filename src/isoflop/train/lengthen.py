"""A run that goes on from one of the same recipe with another budget, where no step of that would have been otherwise.

A constant rate does not know how long the run is, and one that decays at the end does not before the decay: the first
steps of a long run are those of a short one, to the bit. What was spent on them is on the bill like any other step.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..core.digests import digest
from ..core.errors import DataError
from ..core.recipe import Recipe, hash_of
from ..store import checkpoint
from ..store.environment import differences, told
from ..store.run import Run, run_directories
from .loop import Loop
from .session import OPTIMIZER
from .state import load_tree

_TIMES = ("evaluations", "checkpoints", "keep")
"""Keys of ``train`` that say when something is looked at or kept, and change no step."""


def lengthen(loop: Loop) -> None:
    """Let a run that has no checkpoint yet begin with the longest piece that another one has of it, and say so."""
    run, refused = loop.run, None
    if run.begun:
        return
    pieces: list[tuple[int, Run]] = []
    for other in _others(loop.recipe, run):
        same = [step for step in other.steps if _same_so_far(loop, other, step)]
        pieces += [(step, other) for step in same]
        if other.steps and not same:
            refused = other
    for step, other in sorted(pieces, key=lambda piece: -piece[0]):
        if _whole(other, step):
            _take_over(run, other, step)
            return
    if refused is not None and run.warn is not None:
        run.warn(
            f"{run.path}: begins at step 0, though {refused.path} is the same recipe with another budget: its schedule "
            f"{loop.recipe.schedule.name} or another part goes by the length of the run; "
            f"start={refused.path} would go on from its weights"
        )


def _others(recipe: Recipe, run: Run) -> Iterator[Run]:
    """Runs beside ``run``, none at work, whose recipe differs in the budget, and else in nothing that changes a step.

    One of the same budget is none: who asks for that again under another name wants it made again.
    """
    tree = recipe.to_json()
    ours = _but_for_its_length(tree)
    for directory in run_directories(run.path.parent):
        if directory == run.path:
            continue
        try:
            other = Run.read(directory)
            longer = other.resolved["budget"] != tree["budget"]
            if longer and _but_for_its_length(other.resolved) == ours and other.state != "running":
                yield other
        except (DataError, TypeError, AttributeError, KeyError):  # a broken directory is no offer
            continue


def _but_for_its_length(tree: dict[str, Any]) -> str:
    settings = {key: value for key, value in tree["train"].items() if key not in _TIMES}
    return hash_of({**tree, "budget": digest(settings), "train": {}})


def _same_so_far(loop: Loop, other: Run, step: int) -> bool:
    """Whether the first ``step`` steps of another run are those of this one."""
    ours, theirs = loop.ctx.horizon, other.status.horizon
    if loop.knows_length or loop.parts.timed or (ours and step >= ours):
        return False
    factor = loop.recipe.schedule.factor
    return all(factor(t, ours) == factor(t, theirs) for t in range(step))


def _whole(other: Run, step: int) -> bool:
    directory = other.path / checkpoint.FOLDER / str(step)
    return not checkpoint.damage(directory) and OPTIMIZER in load_tree(directory, "state")["parts"]


def _take_over(run: Run, other: Run, step: int) -> None:
    """Copy what the other run had recorded and kept after ``step`` steps."""
    for record in other.metrics():
        if record.get("step", 0) <= step:
            run.record(**record)
    source = other.path / checkpoint.FOLDER / str(step)

    def write(directory: Path) -> None:
        for name in checkpoint.digests(source):
            shutil.copyfile(source / name, directory / name)

    changes = differences(other.environment, run.environment)
    run.save(step, write)
    run.event(
        "lengthened",
        message=f"from {other.path.name} at step {step}",
        changes=changes,
        run=other.path.name,
        recipe=other.hash,
        step=step,
        ledger=load_tree(source, "state")["parts"]["ledger"],
    )
    if run.warn is not None:
        elsewhere = f"; that was made elsewhere ({', '.join(map(told, changes))})" if changes else ""
        run.warn(
            f"{run.path}: goes on from {other.path} at step {step:,}, the same recipe with another budget{elsewhere}"
        )

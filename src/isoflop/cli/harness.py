"""What ``isoflop eval --harness`` does: local tasks of lm-evaluation-harness, measured, kept and shown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..core.digests import digest
from ..core.errors import UsageError
from ..core.reading import user_path
from .common import emit, find_run

if TYPE_CHECKING:
    from ..store.harness import HarnessResult
    from ..store.run import Run
    from ..train.restore import Trained


def on_tasks(
    load: Callable[[], Trained], name: str, root: Path, files: list[Path], limit: int | None, json: bool
) -> None:
    """Measure a model on tasks, keep the results beside it (a published model's in the root), and say them.

    Args:
        load: loads the model, once nothing else is known to be amiss.
        name: as the user named it.
        root: of runs.
        files: the tasks' YAML files.
        limit: only so many items of each.
        json: print JSON.
    """
    from ..evals.harness_tasks import read_task
    from ..store.harness import HARNESS, store

    tasks = [read_task(file) for file in files]
    if len({task.name for task in tasks}) < len(tasks):
        raise UsageError("two files have tasks of one name", where="--harness", fix="rename one: `task: other_name`")
    harness, found = _library(), load()
    objective = found.recipe.objective
    if any(pattern is not None for pattern in objective.patterns):
        what = f"was trained by {objective.name} to see what follows, and the harness asks for what comes next"
        raise UsageError(what, where=name, fix="`isoflop eval` without --harness measures it")
    model = harness.HarnessModel(found.model, found.tokenizer, length=found.reach, device=found.ctx.device)
    told = _identity(name, root)
    results: list[HarnessResult] = []
    for task in tasks:
        items = sum(map(len, task.splits.values()))
        typer.echo(f"{task.name}: {min(items, limit or items):,} items", err=True)
        (result,) = harness.measure(model, [task], limit=limit)
        results.append(result.model_copy(update={**told, "step": found.step}))
    file = (root if told["model"] else find_run(name, root).path) / HARNESS
    store(file, results)
    if json:
        emit([result.model_dump(mode="json") for result in results])
        return
    from ..report.harness import print_harness

    print_harness(results)


def _library() -> Any:
    """The module that needs the harness."""
    try:
        from ..evals import harness
    except ModuleNotFoundError as error:
        if str(error.name).startswith("isoflop"):
            raise
        what = f"needs the package {error.name}"
        raise UsageError(what, where="--harness", fix="pip install 'isoflop[eval]'") from error
    return harness


def _identity(name: str, root: Path) -> dict[str, str]:
    """What was measured: the digest of the weights, and a published model's directory."""
    from ..store import checkpoint
    from ..store.published import is_published

    if is_published(directory := user_path(name)):
        from ..models.hf.directory import Published

        return {"model": str(directory.resolve()), "weights": digest(list(Published(directory).identity()))}
    run: Run = find_run(name, root)
    there = run.checkpoint()
    return {"model": "", "weights": checkpoint.digests(there[1])["model.safetensors"] if there else ""}


def kept_results(name: str, root: Path) -> list[HarnessResult]:
    """What tasks gave for a run or a published model, the newest of each."""
    from ..store.harness import HARNESS, latest, stored
    from ..store.published import is_published

    if is_published(directory := user_path(name)):
        mine = [each for each in stored(root / HARNESS) if each.model == str(directory.resolve())]
        return latest(mine)
    return latest(stored(find_run(name, root).path / HARNESS))

"""Runs of a study that are made elsewhere: what is missing is written out, what comes back is checked and kept.

A run is known by the hash of its recipe, wherever it was made. What comes back is held to that hash, to the digests of
its checkpoint's files and of its weights, to the cost that its recipe has, and to the text that the study is made on.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ..core.digests import digest_file
from ..core.errors import DataError, IsoflopError, UsageError
from ..core.files import publish_directory, write_atomic, write_json
from ..core.recipe import Recipe
from ..ledger.budgets import whole_run
from ..store.checkpoint import damage
from ..store.names import printable
from ..store.results import RunRow
from ..store.run import Run, run_directories
from .compare import Journal, asked_run, run_study
from .corpus import Texts
from .study import Study
from .workers import Assignment, finished, row_of

WANTED = "runs.json"
"""The list of the runs that were written out."""
LEFT_OUT = shutil.ignore_patterns("lock", "charts", "report.html", ".*")
"""What is no part of a run's record."""


@dataclass
class Imported:
    """What became of the runs that came back.

    Attributes:
        kept: directories that are now below the root.
        refused: directory -> why it was not taken.
        other: directories of runs that the study does not wait for, or that are not finished.

    Example:
        >>> Imported().kept
        []
    """

    kept: list[Path] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    other: list[str] = field(default_factory=list)


def missing_runs(study: Study, root: Path) -> list[Assignment]:
    """The runs that a study waits for now; what follows depends on them. None: it can be concluded.

    Args:
        study: whose runs are asked for.
        root: directory of runs; those that are finished there are not missing.
    """
    missing: list[Assignment] = []

    def known(assignments: Sequence[Assignment]) -> Iterator[RunRow]:
        found = {job: finished(root, job.recipe) for job in assignments}
        missing.extend(job for job, run in found.items() if run is None)
        if missing:
            raise _Waiting
        for job, run in found.items():
            assert run is not None
            yield row_of(run, job, reused=True)

    with suppress(_Waiting):
        run_study(study, known, Journal(study.scale))
    return missing


class _Waiting(Exception):
    """A study asks for runs that are not there."""


def export_runs(study: Study, root: Path, out: Path) -> list[Assignment]:
    """Write the recipes of the runs that a study waits for now, to be made on any machine; which runs they are.

    Args:
        study: whose runs are asked for.
        root: directory of runs.
        out: a new directory, or an empty one; it takes a recipe a run, and a list of them.

    Raises:
        UsageError: the directory holds something, or a recipe stands on files of another run.
        StorageError: the disk refused.

    Example, with ``study`` a tiny study:
        >>> jobs = export_runs(study, Path("runs"), Path("out"))
        >>> len(jobs), Recipe.load(Path("out") / f"{jobs[0].recipe.id}.toml").hash == jobs[0].recipe.hash
        (12, True)
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError("exists already", where=str(out), fix="name another directory")
    jobs = missing_runs(study, root)
    if not jobs:
        return []
    for job in jobs:
        write_atomic(out / f"{job.recipe.id}.toml", job.recipe.to_toml())
    wanted = [{"file": f"{job.recipe.id}.toml", **asked_run(job).model_dump(mode="json")} for job in jobs]
    write_json(out / WANTED, {"study": study.name, "definition": study.to_toml(), "runs": wanted})
    return jobs


def import_runs(study: Study, root: Path, source: Path) -> Imported:
    """Take the finished runs of a study from another root, each checked; one that fails is refused, the others stay.

    Args:
        study: whose runs are wanted.
        root: directory of runs that takes them.
        source: directory of runs that were made elsewhere.

    Raises:
        DataError: ``source`` holds no runs.
        StorageError: the disk refused.
    """
    if not source.is_dir() or not (directories := run_directories(source)):
        raise DataError("holds no runs", where=str(source), fix="name the --root that they were made below")
    made, texts = Imported(), Texts(root)
    left = dict.fromkeys(directories)
    while wanted := {job.recipe.hash: job.recipe for job in missing_runs(study, root)}:
        before = len(made.kept)
        for place in list(left):
            try:
                run = Run.read(place)
                if run.hash not in wanted or not run.finished:
                    continue
                made.kept.append(_take(run, wanted[run.hash], root, texts))
            except IsoflopError as error:
                made.refused[printable(place.name)] = error.what
            del left[place]
        if len(made.kept) == before:
            break
    made.other = [printable(place.name) for place in left]
    return made


def _take(run: Run, recipe: Recipe, root: Path, texts: Texts) -> Path:
    """Copy a run below the root, and keep the copy if it is whole; its new directory."""
    place = root / run.path.name
    if place.exists():
        raise UsageError("a directory of this name is there already", where=str(place), fix="move one of them away")
    with publish_directory(place) as partial:
        shutil.copytree(run.path, partial, dirs_exist_ok=True, ignore=LEFT_OUT)
        copy = Run.read(partial)
        verify(copy, recipe)
        texts.check([copy])
    return place


def verify(run: Run, recipe: Recipe) -> None:
    """Hold a finished run to its recipe and to its own digests.

    Raises:
        DataError: it is not what its recipe makes, or not whole; says what differs.

    Example, with ``study`` a tiny study:
        >>> recipe = study.run_recipe("muon", 0, 1)
        >>> verify(Run.open("runs", recipe), recipe)
        Traceback (most recent call last):
        isoflop.core.errors.DataError: ...: is not finished
    """
    where = str(run.path)
    if run.hash != recipe.hash:
        raise DataError(f"is of recipe {run.id}, not {recipe.id}", where=where)
    if not run.finished:
        raise DataError("is not finished", where=where)
    if run.status.state == "diverged":
        if run.result.get("status") != "diverged":
            raise DataError("its status says that it diverged, its result does not", where=where)
        return
    _whole(run)
    _consistent(run, recipe)


def _whole(run: Run) -> None:
    """DataError unless the newest checkpoint's files have the digests that the checkpoint and the result say."""
    if not run.steps:
        raise DataError("has no checkpoint", where=str(run.path), fix="bring its directory as a whole")
    checkpoint = run.path / "checkpoints" / str(run.steps[0])
    if wrong := damage(checkpoint):
        raise DataError(f"is damaged: {wrong}", where=str(checkpoint))
    weights = digest_file(checkpoint / "model.safetensors")
    if weights != run.result.get("weights_sha256"):
        raise DataError("its weights are not those that its result was measured with", where=str(checkpoint))


def _consistent(run: Run, recipe: Recipe) -> None:
    """DataError unless value, steps and cost are told alike by result, curve, ledger and recipe."""
    evaluated = run.metrics("evaluation")
    last = evaluated[-1] if evaluated else {}
    for key in ("value", "step", "flops", "tokens"):
        if last.get(key) != run.result.get(key):
            told = f"{last.get(key)} at its last evaluation, {run.result.get(key)} in its result"
            raise DataError(f"tells two values of {key}: {told}", where=str(run.path))
    trained = sum(run.ledger.get(phase, {}).get("flops", 0) for phase in run.ledger if phase != "evaluation")
    if trained != run.result.get("flops"):
        raise DataError("its ledger and its result disagree on FLOPs", where=str(run.path))
    if recipe.budget.axis in ("text_bytes", "seconds") or not recipe.source.predicts_all:
        return  # what such a recipe takes is known only to whoever has the text
    steps, cost = whole_run(recipe)
    if (run.result.get("step"), run.result.get("flops")) != (steps, cost.flops):
        raise DataError("its steps or FLOPs are not those of its recipe", where=str(run.path))

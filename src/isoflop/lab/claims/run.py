"""The queue: claims' studies one after another, for hours if need be, beside other work; stopped, it goes on later.

What is finished below ``root`` is never trained again, so the queue itself keeps no state: a study without a result is
what is left to do.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import ValidationError

from ...core.digests import digest_file
from ...core.errors import DataError, IsoflopError, Stopped, UsageError, nearest
from ...core.files import write_json
from ...core.reading import complaint, read_json, user_path
from ...pipelines.pipeline import Pipeline
from ...pipelines.run import run as run_pipeline
from ...store.environment import process
from ...store.measured import MeasuredResult
from ..compare import Say, compare
from ..targets import TargetStudy, run_targets
from ..workers import ONE_THREAD, interpreter
from .claim import CPU
from .shelf import ShelvedClaim

TEXTS = "texts.py"
"""A script beside a claim that writes the texts of its studies into the folder that it is given."""


def run_claims(
    claims: Sequence[ShelvedClaim],
    root: Path | str,
    *,
    scale: str = CPU,
    jobs: int = 1,
    nice: int = 0,
    again: bool = False,
    say: Say = lambda line: None,
) -> list[IsoflopError]:
    """Run the studies of claims that have no result yet, and store each result beside its claim.

    Args:
        claims: in the order in which they are run.
        root: directory of runs.
        scale: "cpu", or one of the claims' own.
        jobs: worker processes of a study, one thread each; pipelines and scripts take one.
        nice: how much lower than now the priority of everything that runs is.
        again: also those that have a result; their finished runs are not repeated.
        say: called with lines of progress.

    Returns:
        What went wrong: a study that fails does not stop those after it.

    Raises:
        UsageError: a claim has no such scale; nothing was run.
        Stopped: a signal; the state of all runs is saved.
    """
    root = user_path(root)
    for shelved in claims:
        if scale != CPU and scale not in shelved.claim.scales:
            known = [CPU, *shelved.claim.scales]
            raise UsageError(f"has no scale {scale!r}", where=shelved.claim.name, fix=nearest(scale, known))
    if nice:
        os.nice(nice)
    failed: list[IsoflopError] = []
    for shelved in claims:
        for label in shelved.claim.studies:
            if shelved.place(label, scale).exists() and not again:
                continue
            say(f"{shelved.claim.name}: {label}")
            try:
                run_study(shelved, label, root, scale=scale, jobs=jobs, say=say)
            except Stopped:
                raise
            except IsoflopError as error:
                say(f"{shelved.claim.name}: {label}: {error}")
                failed.append(error)
    return failed


def run_study(
    shelved: ShelvedClaim, label: str, root: Path, *, scale: str = CPU, jobs: int = 1, say: Say = lambda line: None
) -> None:
    """Run one study of a claim and store its result beside the claim; the claim's bars are frozen before.

    Args:
        shelved: the claim.
        label: of the study.
        root: directory of runs.
        scale: "cpu", or one of the claim's own.
        jobs: worker processes of a study.
        say: called with lines of progress.
    """
    _write_texts(shelved, say)
    make = _made(shelved, label, root, scale, jobs, say)  # what is not legal is refused before anything is frozen
    shelved.freeze()
    write_json(shelved.place(label, scale), make().model_dump(mode="json"))


def _made(shelved: ShelvedClaim, label: str, root: Path, scale: str, jobs: int, say: Say) -> Callable[[], Any]:
    """What makes the result of a study, once it was found legal."""
    if shelved.kind(label) == "script":
        return lambda: measure(shelved.file(label))
    study = shelved.study(label, *shelved.claim.overrides(scale))
    if isinstance(study, Pipeline):
        return lambda: run_pipeline(study, root, progress=say)
    if isinstance(study, TargetStudy):
        return lambda: run_targets(study, root, workers=jobs, say=say)
    return lambda: compare(study, root, workers=jobs, progress=say)


def _write_texts(shelved: ShelvedClaim, say: Say) -> None:
    """Have the claim's texts written, where it has a script for that and they are not there yet."""
    script = shelved.folder / TEXTS
    place = Path("texts") / shelved.claim.name
    if script.is_file() and not place.exists():
        say(f"{shelved.claim.name}: texts into {place}")
        _execute(script, str(place))


def measure(script: Path) -> MeasuredResult:
    """Run a script that measures: it writes {"values": {name: [one a seed]}, "notes": [...]} to the path it is given.

    Beside them it may say what a family of values is drawn against: {"axes": {what: {"across": ..., "up": ...}}}, see
    ``MeasuredResult.families``.

    Args:
        script: a Python file beside a claim.

    Raises:
        DataError: it failed, or wrote something else.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with TemporaryDirectory() as folder:
        out = Path(folder) / "values.json"
        _execute(script, str(out))
        if not out.exists():
            raise DataError("ended without writing its values", where=str(script))
        told = read_json(out, dict[str, Any])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    made = {
        "name": script.stem,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "values": told.get("values"),
        "axes": told.get("axes", {}),
        "notes": told.get("notes", []),
        "script": digest_file(script),
        "environment": process(),
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
    }
    try:
        return MeasuredResult.model_validate_json(json.dumps(made))
    except ValidationError as error:
        raise DataError(f"did not write what it measured ({complaint(error)})", where=str(script)) from None


def _execute(script: Path, *arguments: str) -> None:
    """A script in an interpreter of its own, one thread, finding every module where this process does."""
    given = [str(script), *arguments]
    command = interpreter(f"import runpy; sys.argv = {given!r}; runpy.run_path({given[0]!r}, run_name='__main__')")
    done = subprocess.run(command, env={**os.environ, **ONE_THREAD}, stdout=2, check=False)
    if done.returncode < 0:
        raise Stopped(-done.returncode, "", "the same command goes on from here")
    if done.returncode:
        raise DataError(f"ended with code {done.returncode}", where=str(script), fix="see what it said above")

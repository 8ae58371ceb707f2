"""A study of forty short runs, its workers killed, its clock moved, stopped by ctrl-C: the same table.

Slow: every disturbance is followed by the same command in a new process, as a user would type it.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from isoflop.core.table import Table
from isoflop.store.results import StudyResult
from isoflop.store.run import Run

STUDY = """
name = "disturbed"
baseline = "adamw"
seeds = [1, 2, 3, 4, 5, 6, 7, 8]

[recipe]
source = { name = "hmm", text_bytes = 20000, heldout_bytes = 1000 }
tokenizer = "bytes"
model = { name = "transformer", d_model = 16, layers = 1, mixer = { name = "attention", heads = 2 } }
train = { batch = 2, length = 16, evaluations = 2, checkpoints = 4 }

[ladder]
axis = "steps"
rungs = [8, 16, 32]

[arms.muon]
overrides = ["optimizer=muon"]
rungs = [1]

[tuning]
seeds = [101]
points = 3
extensions = 0
"""
CLOCK = """
import datetime, os, time
_shift = float(os.environ.get("CLOCK_SHIFT", "0"))
if _shift:
    _time, _ns, _plain = time.time, time.time_ns, datetime.datetime
    time.time = lambda: _time() + _shift
    time.time_ns = lambda: _ns() + int(_shift * 1e9)

    class datetime_shifted(_plain):
        @classmethod
        def now(cls, tz=None):
            return _plain.now(tz) + datetime.timedelta(seconds=_shift)

    datetime.datetime = datetime_shifted
"""
"""A ``sitecustomize`` module: the clock of every process that finds it is moved."""
SPENT = ("seconds", "run")
"""Columns that tell when and under which name a run was made."""


def command(study: Path, root: Path, shift: float, modules: Path) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(modules), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, "-m", "isoflop", "compare", str(study), "--root", str(root), "--workers", "2"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, "CLOCK_SHIFT": str(shift)},
    )


def workers_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def disturb(process: subprocess.Popen[str], after: int, how: str) -> int:
    """Let so many runs end, then kill a worker or press ctrl-C; the command's exit code."""
    assert process.stderr is not None
    ended = 0
    for line in process.stderr:
        ended += line.startswith(("tuning ", "evaluation ")) and "finished before" not in line
        if ended >= after:
            break
    if how == "kill":
        for worker in workers_of(process.pid)[:1]:
            os.kill(worker, signal.SIGKILL)
    elif how == "ctrl-c":
        process.send_signal(signal.SIGINT)
    process.stderr.read()
    process.stderr.close()
    return process.wait()


def table(root: Path) -> list[tuple[tuple[str, object], ...]]:
    points = Table.read_csv(root / "disturbed" / "points.csv")
    kept = [name for name in points if name not in SPENT]
    return sorted(tuple((name, points[name][row]) for name in kept) for row in range(points.rows))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds a process's children in /proc")
def test_a_study_that_is_disturbed_again_and_again_ends_with_the_same_table(tmp_path: Path) -> None:
    study, modules = tmp_path / "study.toml", tmp_path / "modules"
    study.write_text(STUDY)
    modules.mkdir()
    (modules / "sitecustomize.py").write_text(CLOCK)
    calm, wild, draw = tmp_path / "calm", tmp_path / "wild", random.Random(5)
    assert disturb(command(study, calm, 0.0, modules), 10**6, "nothing") == 0
    plan = [("kill", 0.0), ("ctrl-c", 7200.0), ("kill", -86400.0), ("ctrl-c", 0.0), ("kill", 3600.0)]
    codes = [disturb(command(study, wild, shift, modules), draw.randint(2, 6), how) for how, shift in plan]
    assert all(codes), "every disturbance came before the end"
    assert codes.count(130) == 2
    assert disturb(command(study, wild, -3600.0, modules), 10**6, "nothing") == 0

    first, second = (StudyResult.read(root / "disturbed" / "study.json") for root in (calm, wild))
    assert len({run.run for run in second.runs}) >= 40
    assert table(wild) == table(calm)
    assert [run.recipe_hash for run in second.runs] == [run.recipe_hash for run in first.runs]
    by_tokens = [[row for row in result.multipliers if row.axis == "tokens"] for result in (first, second)]
    assert by_tokens[0] == by_tokens[1]
    for root in (calm, wild):
        runs = [Run.read(path.parent) for path in root.glob("[!.]*/resolved.json")]  # a leftover of a kill is no run
        assert len({run.hash for run in runs}) == len(runs), "a run was made twice"
        for run in runs:
            steps = [record["step"] for record in run.metrics("step")]
            assert steps == sorted(set(steps)), "a step was recorded twice"

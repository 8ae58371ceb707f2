"""Worker processes: longest first, nothing twice, clean ends, honest seconds. A stub stands for training."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from isoflop.core import registry
from isoflop.errors import DataError, IsoflopError, Stopped, UsageError
from isoflop.lab import corpus
from isoflop.lab.workers import Assignment, LocalWorkers, RunFailed, WorkerDied, finished, interpreter, row_of
from isoflop.store.run import Run

STUB = """
import os, signal, sys, time
from pathlib import Path
from isoflop.core.errors import DataError, NumericsError, Stopped
from isoflop.core.recipe import Recipe
from isoflop.lab.job import serve
from isoflop.store.run import Run

def task(job):
    recipe = Recipe.from_json(job["recipe"])
    run = Run.open(job["root"], recipe)
    run.event("started", workers=job["workers"], pid=os.getpid())
    print("noise on stdout must not be taken for an answer", flush=True)
    if recipe.seed == 65:
        os.write(int(sys.argv[-1]), b'{"status": "in a new way"}\\n')
    if recipe.seed == 66:
        os.kill(os.getpid(), signal.SIGKILL)
    if recipe.seed == 67:
        raise DataError("unreadable")
    if recipe.seed == 68:
        raise RuntimeError("surprise")
    if recipe.seed == 69:
        asked = []
        signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
        Path(job["root"], "waiting").touch()
        while not asked:
            time.sleep(0.01)
        run.event("saved")
        raise Stopped(15, "stopped")
    if recipe.seed == 70:
        run.set_status("diverged")
        raise NumericsError("diverged")
    point = dict(flops=10, hardware_flops=12, tokens=3, text_bytes=9, seconds=0.5, value=3.0, stderr=0.1, domains={})
    run.record("evaluation", step=4, metrics={}, **point)
    run.write_ledger({"train": {"flops": 10}})
    run.write_result({"status": "done", "fingerprint": ("a" if recipe.seed == 71 else "f") * 64, "heldout": "e" * 64})
    run.event("ended", seconds=2.0, cpu_seconds=1.5)
    run.set_status("done")

serve(task)
"""


@pytest.fixture
def stub(tmp_path) -> list[str]:
    path = tmp_path / "stub.py"
    path.write_text(STUB)
    return [sys.executable, str(path)]


def job(study, seed: int, rung: int = 0) -> Assignment:
    return Assignment(study.run_recipe("adamw", rung, seed), "adamw", rung, "evaluation")


def order(root: Path) -> list[tuple[int, int]]:
    """(pid, steps) of all starts, in order of time."""
    runs = [Run.read(path.parent) for path in root.glob("*/resolved.json")]
    starts = [(event["time"], event["pid"], run.recipe.budget.steps) for run in runs for event in run.events("started")]
    return [(pid, steps) for _, pid, steps in sorted(starts)]


def test_longest_runs_go_first_and_workers_are_reused(tiny, stub, tmp_path):
    root = tmp_path / "runs"
    with LocalWorkers(root, 1, command=stub) as workers:
        rows = list(workers([job(tiny, 1, 0), job(tiny, 1, 2), job(tiny, 1, 1)]))
    starts = order(root)
    assert [steps for _, steps in starts] == [16, 8, 4]
    assert len({pid for pid, _ in starts}) == 1
    assert sorted(row.rung for row in rows) == [0, 1, 2]
    assert {(row.fingerprint, row.heldout) for row in rows} == {("f" * 64, "e" * 64)}
    assert all(row.end.value == 3.0 and row.end.hardware_flops == 12 for row in rows)


def test_a_finished_run_is_never_repeated(tiny, stub, tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "_digests", lambda recipe, root: {"fingerprint": "f" * 64, "heldout": "e" * 64})
    jobs = [job(tiny, 1), job(tiny, 70)]
    for reused in (False, True):
        with LocalWorkers(tmp_path, 2, command=stub if not reused else ["/nothing/starts"]) as workers:
            rows = {row.seed: row for row in workers(jobs)}
        assert {row.reused for row in rows.values()} == {reused}
        assert (rows[1].status, rows[70].status) == ("done", "diverged")
        assert rows[70].end is None
    assert len(finished(tmp_path, jobs[0].recipe).events("started")) == 1


def test_a_text_that_changes_between_two_runs_ends_the_study(tiny, stub, tmp_path):
    with (
        LocalWorkers(tmp_path, 1, command=stub) as workers,
        pytest.raises(DataError, match=r"f{12} -> a{12}.*remove the"),
    ):
        list(workers([job(tiny, 1, 1), job(tiny, 71, 0)]))


def test_a_run_made_under_a_name_of_its_own_is_found(tiny, stub, tmp_path):
    given = job(tiny, 1)
    run = Run.open(tmp_path, given.recipe, name="mine")
    assert finished(tmp_path, given.recipe) is None
    run.set_status("done")
    assert finished(tmp_path, given.recipe).path.name == "mine"


def test_seconds_are_exclusive_only_if_every_start_was_alone(tiny, stub, tmp_path):
    for count, exclusive in ((1, True), (2, False)):
        with LocalWorkers(tmp_path / str(count), count, command=stub) as workers:
            (row,) = workers([job(tiny, 1)])
        assert row.exclusive is exclusive
        assert (row.cpu_seconds, row.wall_seconds) == (1.5, 2.0)
    run = Run.open(tmp_path / "1", tiny.run_recipe("adamw", 0, 1))
    run.event("started", workers=2)  # it was begun in company once
    assert not row_of(run, job(tiny, 1), reused=True).exclusive


def test_a_killed_worker_is_reported_with_its_run(tiny, stub, tmp_path):
    with LocalWorkers(tmp_path, 1, command=stub) as workers, pytest.raises(WorkerDied) as caught:
        list(workers([job(tiny, 66)]))
    assert "adamw, rung 0, seed 66: its worker process was killed by signal 9" in str(caught.value)
    assert caught.value.exit_code != 0


def test_a_failed_run_keeps_its_own_exit_code(tiny, stub, tmp_path):
    for seed, code, said in ((67, 3, "unreadable"), (68, 1, "unexpected RuntimeError: surprise")):
        with LocalWorkers(tmp_path, 1, command=stub) as workers, pytest.raises(RunFailed, match=said) as caught:
            list(workers([job(tiny, seed)]))
        assert caught.value.exit_code == code
        assert isinstance(caught.value, IsoflopError)


def test_where_an_error_arose_is_told_to_those_who_ask(tiny, stub, tmp_path, monkeypatch, capfd):
    for debug in ("", "1"):
        monkeypatch.setenv("ISOFLOP_DEBUG", debug)
        with LocalWorkers(tmp_path, 1, command=stub) as workers, pytest.raises(RunFailed, match="isoflop --debug"):
            list(workers([job(tiny, 68)]))
        assert ('raise RuntimeError("surprise")' in capfd.readouterr().err) == bool(debug)


PLUGIN = """
from isoflop.core.registry import part
from isoflop.optim.optimizers.adamw import AdamWPart

@part
class FarPart(AdamWPart):
    name = "far"
"""


def test_a_part_that_workers_would_not_know_is_refused_before_anything_runs(tiny, stub, tmp_path, monkeypatch):
    """They are interpreters of their own, and learn of foreign parts by ISOFLOP_PLUGINS alone."""
    info = tmp_path / "far-1.0.dist-info"
    info.mkdir()
    (tmp_path / "far_parts.py").write_text(PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: far\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[isoflop.parts]\nfar = far_parts\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setitem(registry._registered, "optimizer", dict(registry._registered["optimizer"]))
    importlib.import_module("far_parts")
    try:
        recipe = tiny.run_recipe("adamw", 0, 1).with_("optimizer=far")
        far = Assignment(recipe, "far", 0, "evaluation")
        root = tmp_path / "runs"
        with (
            LocalWorkers(root, 1, command=stub) as workers,
            pytest.raises(UsageError, match="optimizer far: is known only to this process, which imported far_parts"),
        ):
            list(workers([job(tiny, 1), far]))
        assert not root.exists()
        monkeypatch.setenv("ISOFLOP_PLUGINS", "far")
        with LocalWorkers(root, 1, command=stub) as workers:
            assert [row.status for row in workers([far])] == ["done"]
    finally:
        del sys.modules["far_parts"]


def test_an_answer_that_is_none_names_the_run_and_shows_what_came(tiny, stub, tmp_path):
    told = r"adamw, rung 0, seed 65: its worker process did not answer but said '{\"status\": \"in a new way\"}'"
    with LocalWorkers(tmp_path, 1, command=stub) as workers, pytest.raises(RunFailed, match=told):
        list(workers([job(tiny, 65)]))


NOISE = """
import atexit
print('{"status": "done"}', flush=True)
atexit.register(print, "[]", flush=True)
"""


@pytest.mark.parametrize("name", ["queue", "random", "selectors", "statistics", "tomllib"])
def test_a_worker_imports_what_its_parent_does(name, tiny, tmp_path, monkeypatch):
    """A user's module in the working directory is not found, whatever it is called; nor is what it prints an answer."""
    (tmp_path / f"{name}.py").write_text("raise RuntimeError('this module is the user's')")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(NOISE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"), prepend=os.pathsep)
    said = subprocess.run(
        interpreter(f"import {name}; print(sys.path, {name}.__file__)"), capture_output=True, text=True
    )
    noise, *answer = said.stdout.splitlines()[:-1]
    assert noise == '{"status": "done"}'
    assert answer == [f"{[str(entry) for entry in sys.path]} {importlib.import_module(name).__file__}"]


def test_a_study_trains_beside_a_users_modules(tiny, tmp_path, monkeypatch):
    (tmp_path / "queue.py").write_text(NOISE)
    (tmp_path / "sitecustomize.py").write_text(NOISE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    with LocalWorkers(tmp_path / "runs", 1) as workers:
        (row,) = workers([job(tiny, 1)])
    assert row.status == "done"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_lets_runs_save_and_then_stops(tiny, stub, tmp_path, number):
    def interrupt():
        while not (tmp_path / "waiting").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    sender = threading.Thread(target=interrupt)
    sender.start()
    with LocalWorkers(tmp_path, 1, command=stub) as workers, pytest.raises(Stopped) as caught:
        list(workers([job(tiny, 69), job(tiny, 1)]))
    sender.join()
    assert caught.value.exit_code == 128 + number
    run = Run.open(tmp_path, job(tiny, 69).recipe)
    assert run.events("saved")
    assert finished(tmp_path, job(tiny, 1).recipe) is None
    assert signal.getsignal(number) is before


def test_a_worker_saves_and_ends_when_its_study_is_gone(tiny, stub, tmp_path):
    given = job(tiny, 69)
    line = json.dumps({"recipe": given.recipe.to_json(), "root": str(tmp_path), "workers": 1}) + "\n"
    command = [*stub, "1"]  # the answers would go to stdout
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        process.stdin.write(line)
        process.stdin.flush()
        while not (tmp_path / "waiting").exists():
            time.sleep(0.01)
        process.stdin.close()  # as the system does when the study is killed
        process.wait(timeout=30)
    assert Run.open(tmp_path, given.recipe).events("saved")


def test_a_dying_study_takes_its_other_runs_down_gently(tiny, stub, tmp_path):
    with pytest.raises(WorkerDied), LocalWorkers(tmp_path, 2, command=stub) as workers:
        list(workers([job(tiny, 69), job(tiny, 66)]))
    deadline = time.monotonic() + 10
    run = Run.open(tmp_path, job(tiny, 69).recipe)
    while not run.events("saved") and run.events("started") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert run.events("saved") or not run.events("started")

"""Run directories: what they hold, whose they are, and that one process works on them at a time."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from isoflop.core.errors import DataError, RecipeError, StorageError, UsageError
from isoflop.core.files import append_jsonl, write_json
from isoflop.core.reading import read_json
from isoflop.core.recipe import Recipe
from isoflop.store import run as run_module
from isoflop.store.references import find_run
from isoflop.store.removal import standing_on
from isoflop.store.run import Run
from toy import TEXT, recipe

pytestmark = pytest.mark.usefixtures("toys")


def test_a_new_run_holds_its_recipe_its_environment_and_its_status(tmp_path: Path) -> None:
    run = Run.open(tmp_path / "runs", recipe(), text=TEXT)
    assert run.path == tmp_path / "runs" / f"first-{recipe().id}"
    assert (run.path / "recipe.toml").read_text() == TEXT
    assert Recipe.from_json(read_json(run.path / "resolved.json")) == recipe()
    assert run.environment["python"].startswith("3.")
    assert (run.status.state, run.state, run.finished) == ("created", "created", False)
    assert (run.status.pid, run.status.host) == (os.getpid(), socket.gethostname())
    assert (run.metrics(), run.events(), run.ledger, run.result, run.checkpoint()) == ([], [], {}, {}, None)


def test_without_its_text_a_recipe_is_written_out_and_reads_back(tmp_path: Path) -> None:
    run = Run.open(tmp_path, recipe())
    assert Recipe.load(run.path / "recipe.toml").hash == recipe().hash


def test_opening_again_finds_the_run_under_any_label_and_changes_nothing(tmp_path: Path) -> None:
    first = Run.open(tmp_path, recipe(), text=TEXT)
    before = {file.name: file.read_bytes() for file in first.path.iterdir()}
    again = Run.open(tmp_path, recipe('name="second"'), text="other text")
    assert again.path == first.path
    assert again.label == "first"
    assert {file.name: file.read_bytes() for file in first.path.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == [first.path.name]


def test_another_recipe_gets_another_directory(tmp_path: Path) -> None:
    first, second = Run.open(tmp_path, recipe()), Run.open(tmp_path, recipe("seed=4"))
    assert first.path != second.path


def test_what_a_killed_removal_leaves_is_no_run(tmp_path: Path) -> None:
    run, child = Run.open(tmp_path, recipe()), Run.open(tmp_path, recipe("seed=4"))
    child.path.rename(tmp_path / f".{child.path.name}.removed-4321")
    (tmp_path / ".broken.removed-1").mkdir()
    (tmp_path / ".broken.removed-1" / "resolved.json").write_text("{")
    assert run_module.run_directories(tmp_path) == [run.path]
    assert list(standing_on(run, tmp_path)) == []
    with pytest.raises(UsageError, match="no run is named '4321'"):
        find_run("4321", tmp_path)


def test_a_run_is_found_under_any_name_and_a_finished_one_first(tmp_path: Path) -> None:
    assert Run.find(tmp_path / "none", recipe()) is None
    mine = Run.open(tmp_path, recipe(), name="mine")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "resolved.json").write_text("{")
    for found in (Run.find(tmp_path, recipe("name=other")), Run.open(tmp_path, recipe())):
        assert found is not None
        assert found.path == mine.path
    assert Run.find(tmp_path, recipe("seed=4")) is None
    mine.path.rename(tmp_path / f"a-{recipe().id}")
    Run.open(tmp_path, recipe(), name="mine").set_status("done")
    assert Run.open(tmp_path, recipe()).path == tmp_path / "mine"
    (tmp_path / "mine" / "status.json").write_text("torn")
    assert Run.open(tmp_path, recipe()).path == tmp_path / f"a-{recipe().id}"


def test_a_named_directory_refuses_another_recipe_and_lists_every_changed_key(tmp_path: Path) -> None:
    Run.open(tmp_path, recipe(), name="mine")
    assert Run.open(tmp_path, recipe("name=other"), name="mine").path.name == "mine"
    with pytest.raises(RecipeError) as refusal:
        Run.open(tmp_path, recipe("optimizer.lr=0.5", "train.batch=9", "averaging=toy"), name="mine")
    changes = "\n".join(refusal.value.problems[1:])
    assert sorted(refusal.value.problems[1:]) == [
        "averaging.decay: absent -> 0.99",
        'averaging.name: absent -> "toy"',
        "optimizer.lr: 0.001 -> 0.5",
        "train.batch: 8 -> 9",
    ], changes
    assert refusal.value.source == str(tmp_path / "mine")


@pytest.mark.parametrize("name", ["../out", "a/b", "/abs", ".hidden", "a\x00b", "new\n", "x" * 65])
def test_a_name_that_is_no_path_component_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot name a directory"):
        Run.open(tmp_path / "runs", recipe(), name=name)
    assert list(tmp_path.iterdir()) == []


def test_reading_needs_no_parts_and_refuses_what_is_no_run(tmp_path: Path) -> None:
    run = Run.open(tmp_path, recipe())
    tree = read_json(run.path / "resolved.json")
    write_json(run.path / "resolved.json", {**tree, "optimizer": {"name": "of another version"}})
    assert Run.read(run.path).resolved["optimizer"] == {"name": "of another version"}
    with pytest.raises(DataError, match="not a run directory"):
        Run.read(tmp_path)
    for broken in ("", "{", "[1]", '"a"', "NaN", '{"a": NaN}', '{"a": "\\ud800"}', "[" * 100_000):
        (run.path / "resolved.json").write_text(broken)
        with pytest.raises(DataError, match=r"resolved\.json"):
            Run.read(run.path)


def test_status_keeps_what_is_not_given_and_refuses_what_is_none(tmp_path: Path) -> None:
    run = Run.open(tmp_path, recipe())
    created = run.status.created
    run.set_status("running", step=3, horizon=10)
    run.set_status("failed", message="disk gone")
    assert (run.status.state, run.status.step, run.status.horizon) == ("failed", 3, 10)
    assert (run.status.created, run.status.message) == (created, "disk gone")
    for state, finished in {"done": True, "diverged": True, "stopped": False, "failed": False}.items():
        run.set_status(state)  # type: ignore[arg-type]
        assert run.finished is finished
    for broken in ("", "{}", '{"state": "no such"}'):
        (run.path / "status.json").write_text(broken)
        with pytest.raises(DataError, match=r"status\.json"):
            _ = run.status


def test_a_running_run_whose_process_is_gone_was_interrupted(tmp_path: Path) -> None:
    run = Run.open(tmp_path, recipe())
    run.set_status("running", step=1)
    assert run.state == "running"
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    tree = read_json(run.path / "status.json")
    write_json(run.path / "status.json", {**tree, "pid": child.pid})
    assert run.state == "interrupted"
    write_json(run.path / "status.json", {**tree, "pid": child.pid, "host": "another-machine"})
    assert run.state == "running"


def test_the_lock_tells_who_works_on_a_run_whatever_process_has_its_number(tmp_path: Path) -> None:
    run = Run.open(tmp_path, recipe())
    with run.lock():
        run.set_status("running", step=1)
        assert run.state == Run.read(run.path).state == "running"
        tree = read_json(run.path / "status.json")
        write_json(run.path / "status.json", {**tree, "pid": 2**22 + 1})  # as another container numbers it
        assert run.state == "running"
    write_json(run.path / "status.json", {**tree, "pid": os.getppid()})  # the number was given to another process
    assert run.state == "interrupted"


def test_a_reader_that_looks_at_the_lock_keeps_nobody_from_it(tmp_path: Path) -> None:
    run = Run.open(tmp_path, recipe())
    with run.lock():
        run.set_status("running")
    handle = os.open(run.path / "lock", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_SH)
    threading.Timer(0.015, os.close, [handle]).start()
    with run.lock():
        assert run.state == "running"


def test_heartbeats_are_rare_and_rarer_on_a_slow_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run.open(tmp_path, recipe())
    now, written, slow = [0.0], [], [0.0]

    def write(path: Path, tree: object) -> None:
        now[0] += slow[0]
        written.append(now[0])

    monkeypatch.setattr(run_module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(run_module, "write_json", write)
    for step in range(100):  # ten seconds
        run.heartbeat(step)
        now[0] += 0.1
    assert len(written) == pytest.approx(10, abs=1)
    slow[0] = 0.5
    for step in range(1000):  # a hundred seconds
        run.heartbeat(step)
        now[0] += 0.1
    assert len(written) <= 14


def test_metrics_and_events_are_kept_in_order_and_by_kind(tmp_path: Path) -> None:
    run = Run.open(tmp_path, recipe())
    run.record("step", step=1, loss=2.0)
    run.record("evaluation", step=1, value=1.5)
    run.event("resumed", step=1)
    assert run.metrics() == [{"kind": "step", "step": 1, "loss": 2.0}, {"kind": "evaluation", "step": 1, "value": 1.5}]
    assert run.metrics("evaluation") == [{"kind": "evaluation", "step": 1, "value": 1.5}]
    assert [event["kind"] for event in run.events()] == ["resumed"]
    assert run.events("other") == []
    with pytest.raises(ValueError, match="Out of range"):
        run.record("step", step=2, loss=float("nan"))
    assert len(run.metrics()) == 2
    append_jsonl(run.path / "metrics.jsonl", [1])
    with pytest.raises(DataError, match="line 3: does not hold what it should"):
        run.metrics()


def test_resuming_drops_what_comes_after_the_checkpoint_and_only_that(tmp_path: Path) -> None:
    run = Run.open(tmp_path, recipe())
    run.record("note", text="no step")
    for step in range(1, 8):
        run.record("step", step=step, loss=1 / step)
    before = run.metrics()
    run.truncate_metrics(7)
    assert run.metrics() == before
    run.truncate_metrics(4)
    assert run.metrics() == before[:5]
    for step in range(5, 8):
        run.record("step", step=step, loss=1 / step)
    assert run.metrics() == before
    run.record("evaluation", step=7, value=2.0)
    run.truncate_metrics(7, again="evaluation")
    assert run.metrics() == before
    run.truncate_metrics(0)
    assert run.metrics() == before[:1]


def test_broken_lines_are_dropped_behind_what_is_kept_and_refused_before_it(tmp_path: Path) -> None:
    run = Run.open(tmp_path, recipe())
    for step in range(1, 6):
        run.record("step", step=step, loss=1 / step)
    file = run.path / "metrics.jsonl"
    whole = file.read_bytes().splitlines(keepends=True)
    for index in range(5):
        for broken in (bytes(40) + b"\n", b'{"kind": "st\n', b"[1]\n"):
            damaged = b"".join([*whole[:index], broken, *whole[index + 1 :]])
            file.write_bytes(damaged)
            if index < 3:
                with pytest.raises(DataError, match=f"line {index + 1}"):
                    run.truncate_metrics(4)
                assert file.read_bytes() == damaged
            else:
                run.truncate_metrics(3)
                assert file.read_bytes() == b"".join(whole[:3])


def test_a_metrics_file_torn_at_every_byte_continues_without_a_doubled_or_missing_step(tmp_path: Path) -> None:
    run = Run.open(tmp_path, recipe())
    for step in range(1, 4):
        run.record("step", step=step, loss=0.1 * step, text="é")
    file = run.path / "metrics.jsonl"
    whole = file.read_bytes()
    last = whole.rstrip(b"\n").rfind(b"\n") + 1
    for cut in range(last, len(whole) + 1):
        file.write_bytes(whole[:cut])
        with run.lock():
            run.truncate_metrics(2)
            run.record("step", step=3, loss=0.1 * 3, text="é")
        assert file.read_bytes() == whole, cut


def test_the_environment_is_stored_before_the_start_and_compared_after(tmp_path: Path) -> None:
    run = Run.open(tmp_path, recipe())
    assert run.check_environment(threads=3) == []
    assert run.environment["threads"] == 3
    run.set_status("running")
    run.record("step", step=1)
    assert run.check_environment(threads=3) == []
    changes = [{"key": "threads", "before": 3, "after": 4}]
    assert run.check_environment(threads=4) == changes
    assert run.events("environment")[0]["changes"] == changes
    assert run.environment["threads"] == 3


def test_a_second_process_is_refused_at_once_and_a_dead_ones_lock_is_gone(tmp_path: Path) -> None:
    run = Run.open(tmp_path, recipe())
    holder = (
        "import sys, time; from isoflop.store.run import Run\n"
        f"with Run.read({str(run.path)!r}).lock(): print('locked', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", holder], stdout=subprocess.PIPE)
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == b"locked\n"
        start = time.monotonic()
        with pytest.raises(UsageError) as refusal, run.lock():
            pass
        assert time.monotonic() - start < 1.0  # the promise itself
        assert f"process {child.pid} on {socket.gethostname()}" in str(refusal.value)
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    with run.lock(), pytest.raises(UsageError, match=f"process {os.getpid()} "), run.lock():
        pass
    with run.lock():
        pass


def test_the_lock_clears_what_a_killed_process_left(tmp_path: Path) -> None:
    run = Run.open(tmp_path, recipe())
    (run.path / "checkpoints" / ".partial-1-40").mkdir(parents=True)
    (run.path / ".partial-2-status.json").write_text("{")
    (run.path / "metrics.jsonl").write_text('{"step": 1}\n{"st')
    (run.path / "events.jsonl").write_text('{"kind": "a"}')
    with run.lock():
        run.event("b")
    assert not list(run.path.rglob(".partial-*"))
    assert run.metrics() == [{"step": 1}]
    assert [event["kind"] for event in run.events()] == ["a", "b"]


def test_checkpoints_follow_the_recipe_and_report_damage_as_events(tmp_path: Path) -> None:
    run = Run.open(tmp_path, recipe("train.keep=2"))
    for step in (10, 20, 30):
        run.record("step", step=step)
        run.save(step, lambda partial, step=step: (partial / "state.json").write_text(str(step)))  # type: ignore[misc]
    assert sorted(path.name for path in (run.path / "checkpoints").iterdir()) == ["20", "30"]
    (run.path / "checkpoints" / "30" / "state.json").write_text("31")
    assert run.checkpoint() == (20, run.path / "checkpoints" / "20")
    message = "checkpoint 30 is damaged (state.json: digest differs); falling back to 20"
    assert run.events("checkpoint")[0]["message"] == message
    heard: list[str] = []
    run.checkpoint(heard.append)
    assert heard == [message]
    assert len(run.events("checkpoint")) == 1


def test_a_broken_directory_of_the_same_hash_is_neither_used_nor_overwritten(tmp_path: Path) -> None:
    path = tmp_path / f"other-{recipe().id}"
    path.mkdir()
    (path / "resolved.json").write_text("{")
    assert Run.open(tmp_path, recipe()).path.name == f"first-{recipe().id}"
    assert (path / "resolved.json").read_text() == "{"


def test_losing_the_race_to_create_a_run_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    winner = Run.open(tmp_path, recipe())
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda self: self != winner.path and exists(self))
    monkeypatch.setattr(Run, "find", lambda root, recipe: None)
    assert Run.open(tmp_path, recipe()).path == winner.path
    assert [path.name for path in tmp_path.iterdir()] == [winner.path.name]


def test_results_and_ledger_are_written_whole(tmp_path: Path) -> None:
    run = Run.open(tmp_path, recipe())
    run.write_ledger({"train": {"flops": 10}})
    run.write_result({"value": 1.5})
    assert (run.ledger, run.result) == ({"train": {"flops": 10}}, {"value": 1.5})
    with pytest.raises(ValueError, match="Out of range"):
        run.write_result({"value": float("inf")})
    assert run.result == {"value": 1.5}
    (run.path / "result.json").write_text(json.dumps([1]))
    with pytest.raises(DataError, match=r"result\.json: does not hold what it should"):
        _ = run.result


def test_a_root_that_cannot_be_written_is_a_storage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    given = recipe()
    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(StorageError, match="not allowed to write") as refusal:
        Run.open(tmp_path / "runs", given)
    assert str(tmp_path / "runs") in str(refusal.value)


# ---------------------------------------------------------------- names and links


@pytest.mark.parametrize("name", ["cache", "machine.json", "index.sqlite", "INDEX.SQLITE", "index.sqlite-wal"])
def test_names_that_the_store_uses_itself_are_refused_before_anything_is_made(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="the store uses itself"):
        Run.open(tmp_path / "runs", recipe(), name=name)
    assert not (tmp_path / "runs").exists()


def test_a_root_may_begin_with_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    made = Run.open("~/runs", recipe())
    assert made.path.parent == tmp_path / "runs"
    assert Run.find("~/runs", recipe()) is not None
    assert Run.read(f"~/runs/{made.path.name}").hash == made.hash
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


@pytest.mark.parametrize(
    "name", ["resolved.json", "status.json", "result.json", "ledger.json", "environment.json", "recipe.toml"]
)
def test_a_link_out_of_a_run_is_not_read_and_its_content_never_quoted(tmp_path: Path, name: str) -> None:
    run = Run.open(tmp_path / "runs", recipe())
    (tmp_path / "secret").write_text("password hunter2")
    (run.path / name).unlink(missing_ok=True)
    (run.path / name).symlink_to(tmp_path / "secret")

    def read() -> object:
        again = Run.read(run.path)
        return again.status, again.result, again.ledger, again.environment, again.text

    with pytest.raises(DataError, match="leads out of its directory") as refusal:
        read()
    assert "hunter2" not in str(refusal.value)


@pytest.mark.parametrize("name", ["metrics.jsonl", "events.jsonl", "lock"])
def test_a_link_out_of_a_run_is_not_written_through(tmp_path: Path, name: str) -> None:
    run = Run.open(tmp_path / "runs", recipe())
    (tmp_path / "theirs").write_text('{"kind": "x"}\ntorn')
    (run.path / name).symlink_to(tmp_path / "theirs")

    def work() -> None:
        with run.lock():
            run.record("step", step=1)
            run.event("x")

    with pytest.raises(StorageError, match="is a link"):
        work()
    assert (tmp_path / "theirs").read_text() == '{"kind": "x"}\ntorn'


def test_checkpoints_that_lie_elsewhere_are_left_alone(tmp_path: Path) -> None:
    run = Run.open(tmp_path / "runs", recipe())
    theirs = tmp_path / "theirs"
    (theirs / ".partial-1-x").mkdir(parents=True)
    (theirs / "10").mkdir()
    (run.path / "checkpoints").symlink_to(theirs)

    def work() -> None:
        with run.lock():
            pass

    for act in (work, run.checkpoint, lambda: run.save(20, lambda partial: None)):
        with pytest.raises(DataError, match="leads out of its directory"):
            act()
    assert sorted(path.name for path in theirs.iterdir()) == [".partial-1-x", "10"]


def test_a_result_without_a_number_is_said_to_lack_it(tmp_path: Path) -> None:
    run = Run.open(tmp_path, recipe())
    run.write_result({"status": "done", "value": 1.5})
    assert run.figure("value") == 1.5
    with pytest.raises(DataError, match=r"result\.json: lacks the number 'step'"):
        run.figure("step")
    run.write_result({"status": "done", "value": "1.5"})
    with pytest.raises(DataError, match=r"result\.json: does not hold what it should \(value"):
        run.figure("value")

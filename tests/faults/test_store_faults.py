"""What the store survives: SIGKILL anywhere in a commit, a full disk, a disk that refuses."""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import killing
from isoflop.core.errors import StorageError
from isoflop.core.files import append_jsonl, mend_jsonl
from isoflop.core.reading import read_jsonl
from isoflop.store.checkpoint import commit, damage, newest, steps
from isoflop.store.run import Run
from toy import recipe


def content(step: int) -> bytes:
    return random.Random(step).randbytes(20_000)


def write(step: int) -> Callable[[Path], None]:
    def fill(partial: Path) -> None:
        with open(partial / "model.safetensors", "wb", buffering=0) as file:
            half = len(content(step)) // 2
            file.write(content(step)[:half])
            with open(partial / "state.json", "w") as state:  # a call to be killed at, with half a file behind it
                json.dump({"step": step}, state)
            file.write(content(step)[half:])

    return fill


def is_whole(directory: Path, step: int) -> bool:
    path = directory / str(step)
    state = json.loads((path / "state.json").read_text())
    return (path / "model.safetensors").read_bytes() == content(step) and state == {"step": step}


# ---------------------------------------------------------------- SIGKILL


def kill_at_every_call_of_a_commit() -> int:
    """Commit 30 beside 10 and 20, keep 2, killed before each of its file system calls."""

    def prepare(where: Path) -> None:
        for step in (10, 20):
            commit(where, step, write(step), keep=2)

    def check(where: Path) -> None:
        found = newest(where)
        assert found is not None
        assert found[0] in (20, 30)
        assert is_whole(where, found[0])
        assert all(not damage(where / str(step)) for step in steps(where))  # nothing half-written has a name
        commit(where, 30, write(30), keep=2)  # what the restarted run does
        assert newest(where) == (30, where / "30")
        commit(where, 40, write(40), keep=2)
        assert sorted(path.name for path in where.iterdir()) == ["30", "40"]

    return killing.at_every_call(prepare, lambda where: commit(where, 30, write(30), keep=2), check)


def kill_at_every_call_of_a_fallback() -> int:
    """The same where 30 exists and is damaged, so that it is replaced, and 20 is all there is to fall back to."""

    def prepare(where: Path) -> None:
        for step in (20, 30):
            commit(where, step, write(step), keep=2)
        (where / "30" / "model.safetensors").write_bytes(bytes(20_000))

    def check(where: Path) -> None:
        found = newest(where)
        assert found is not None
        assert is_whole(where, found[0])
        commit(where, 30, write(30), keep=1)
        assert [path.name for path in where.iterdir()] == ["30"]

    return killing.at_every_call(prepare, lambda where: commit(where, 30, write(30), keep=1), check)


def kill_at_random_instants(count: int) -> int:
    """A writer that commits step after step, killed at random; whatever it had acknowledged must be there."""
    draw = random.Random(11)
    for _ in range(count):
        where = Path(tempfile.mkdtemp(prefix="killed-"))
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            for step in range(1, 10_000):
                commit(where, step, write(step), keep=2)
                os.write(writer, step.to_bytes(4, "little"))
        os.close(writer)
        first = os.read(reader, 4)  # it works
        time.sleep(draw.uniform(0.0, 0.03))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        acknowledged = first
        while more := os.read(reader, 4):
            acknowledged = more
        os.close(reader)
        found = newest(where)
        assert found is not None
        assert found[0] - int.from_bytes(acknowledged, "little") in (0, 1)
        assert is_whole(where, found[0])
        commit(where, found[0] + 1, write(found[0] + 1), keep=2)
        assert len(list(where.iterdir())) == 2
        shutil.rmtree(where)
    return count


@pytest.mark.parametrize(
    ("scenario", "least"),
    [
        ("kill_at_every_call_of_a_commit()", 25),
        ("kill_at_every_call_of_a_fallback()", 25),
        ("kill_at_random_instants(20)", 20),
    ],
)
def test_a_kill_at_any_instant_leaves_the_newest_whole_checkpoint(scenario: str, least: int) -> None:
    tests = Path(__file__).parent
    places = f"import sys; sys.path[:0] = {[str(tests), str(tests.parent)]!r}"
    code = f"{places}; import test_store_faults as t; print(t.{scenario})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= least


# ---------------------------------------------------------------- a full disk


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """The kernel refuses to write beyond ``size`` bytes of any file (EFBIG, as a quota or a full disk would)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def by_safetensors(partial: Path) -> None:
    save_file({"weight": np.ones(50_000, np.float32)}, partial / "model.safetensors")


def by_python(partial: Path) -> None:
    (partial / "model.safetensors").write_bytes(bytes(200_000))


@pytest.mark.parametrize("big", [by_safetensors, by_python])
def test_no_space_for_a_checkpoint_stops_and_leaves_the_one_before(tmp_path: Path, big: Callable[[Path], None]) -> None:
    directory = tmp_path / "checkpoints"
    commit(directory, 10, write(10), keep=1)
    with files_no_larger_than(100_000), pytest.raises(StorageError) as refusal:
        commit(directory, 20, big, keep=1)
    assert refusal.value.exit_code == 3
    assert str(directory / "20") in str(refusal.value)
    assert "no space left" in str(refusal.value)
    assert "a checkpoint takes about 20," in str(refusal.value)
    assert "bytes are free" in str(refusal.value)
    assert [path.name for path in directory.iterdir()] == ["10"]
    assert newest(directory) == (10, directory / "10")
    commit(directory, 20, big, keep=1)
    assert newest(directory) == (20, directory / "20")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a file system can only be mounted by root")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_stops_and_leaves_what_was_there(small_disk: Path) -> None:
    directory = small_disk / "checkpoints"
    commit(directory, 10, by_safetensors, keep=1)
    weights = load_file(directory / "10" / "model.safetensors")["weight"]

    def too_big(partial: Path) -> None:
        save_file({"weight": np.ones(400_000, np.float32)}, partial / "model.safetensors")

    with pytest.raises(StorageError, match="no space left"):
        commit(directory, 20, too_big, keep=1)
    assert [path.name for path in directory.iterdir()] == ["10"]
    assert newest(directory) == (10, directory / "10")
    assert np.array_equal(load_file(directory / "10" / "model.safetensors")["weight"], weights)
    metrics = small_disk / "metrics.jsonl"

    def fill() -> None:
        for step in range(10_000):
            append_jsonl(metrics, {"step": step, "text": "x" * 1000})

    with pytest.raises(StorageError, match=r"metrics\.jsonl"):
        fill()
    shutil.rmtree(directory)
    mend_jsonl(metrics)
    kept = len(read_jsonl(metrics))
    append_jsonl(metrics, {"step": kept})
    assert [record["step"] for record in read_jsonl(metrics)] == list(range(kept + 1))


@pytest.mark.usefixtures("toys")
def test_a_run_without_space_keeps_every_file_it_had(tmp_path: Path) -> None:
    run = Run.open(tmp_path, recipe())
    run.write_result({"value": 1.0})

    def train() -> None:
        for step in range(1, 1000):
            run.record("step", step=step, loss=1.0)

    with files_no_larger_than(2_000):
        with pytest.raises(StorageError, match=r"result\.json"):
            run.write_result({"value": "x" * 5_000})
        with pytest.raises(StorageError, match=r"metrics\.jsonl"):
            train()
    assert run.result == {"value": 1.0}
    assert not list(run.path.glob(".partial-*"))
    known = len(run.metrics())
    with run.lock():
        run.record("step", step=known + 1, loss=1.0)
    assert [record["step"] for record in run.metrics()] == list(range(1, known + 2))


@pytest.mark.usefixtures("toys")
def test_no_space_for_a_new_run_leaves_no_directory(tmp_path: Path) -> None:
    with files_no_larger_than(100), pytest.raises(StorageError, match="first-"):
        Run.open(tmp_path, recipe())
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- a disk that refuses


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.EPERM])
def test_a_read_only_disk_is_a_storage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    commit(tmp_path, 10, write(10), keep=1)

    def refuse(path: object, *args: object, **kwargs: object) -> None:
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(StorageError, match="not allowed to write") as refusal:
        commit(tmp_path, 20, write(20), keep=1)
    assert str(tmp_path / "20") in str(refusal.value)
    assert "bytes" not in str(refusal.value)
    assert newest(tmp_path) == (10, tmp_path / "10")


def test_a_failing_rename_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(tmp_path, 10, write(10), keep=1)

    def refuse(*paths: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", refuse)
        with pytest.raises(StorageError, match="Input/output error"):
            commit(tmp_path, 20, write(20), keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["10"]

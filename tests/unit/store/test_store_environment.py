"""What a run says of where it was made, what is remembered of a machine, and names that are safe to print."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoflop.core.errors import UsageError
from isoflop.core.recipe import Train
from isoflop.store import environment as module
from isoflop.store.environment import (
    changes_of,
    checkout,
    cores,
    cpu_model,
    determinism,
    differences,
    environment,
    told,
)
from isoflop.store.machine import forget, remembered
from isoflop.store.names import component, printable


def test_it_states_versions_and_machine_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    monkeypatch.setenv("SECRET_TOKEN", "do not tell")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "set by torch itself once it has compiled")
    found = environment("stat", device="cuda:0")
    assert json.loads(json.dumps(found)) == found
    assert (found["threads"], found["determinism"], found["device"]) == (7, "stat", "cuda:0")
    assert found["python"] == platform.python_version()
    assert found["torch"]
    assert found["cpu"] == cpu_model()
    assert found["cores"] == cores() >= 1
    assert found["variables"]["MALLOC_ARENA_MAX"] == "2"
    assert not {"SECRET_TOKEN", "TORCHINDUCTOR_CACHE_DIR"} & found["variables"].keys()
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert environment()["threads"] == cores()
    assert environment(threads=3)["threads"] == 3


def test_it_imports_neither_torch_nor_any_part() -> None:
    code = (
        "import sys; from isoflop.store import index, run, environment; environment.environment();"
        "sys.exit('torch' in sys.modules or any('isoflop.optim' in name for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_commit_is_that_of_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "src" / "isoflop" / "store").mkdir(parents=True)
    monkeypatch.setattr(module, "__file__", str(tmp_path / "src" / "isoflop" / "store" / "environment.py"))
    checkout.cache_clear()
    assert checkout() == {"commit": None, "dirty": None}

    def git(*words: str) -> str:
        names = ["-c", "user.name=a", "-c", "user.email=a@b"]
        command = ["git", "-C", str(tmp_path), *names, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    checkout.cache_clear()
    assert checkout()["commit"] is None  # nothing committed yet
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-q", "-m", "one")
    checkout.cache_clear()
    assert checkout() == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    (tmp_path / "file").write_text("2")
    checkout.cache_clear()
    assert checkout()["dirty"] is True
    git("checkout", "file")
    part = tmp_path / "src" / "isoflop" / "store" / "part.py"
    (tmp_path / ".git" / "info" / "exclude").write_text("ignored")
    for unknown, dirty in ((tmp_path / "notes", False), (part.with_name("ignored"), False), (part, True)):
        unknown.touch()
        checkout.cache_clear()
        assert checkout()["dirty"] is dirty, unknown
    checkout.cache_clear()


def test_only_what_decides_bytes_is_compared() -> None:
    before = environment(threads=1)
    assert differences(before, {**before, "variables": {"OMP_PROC_BIND": "true"}, "python": "3.99"}) == []
    found = differences(before, {**before, "threads": 2, "cpu": "other"})
    assert found == [
        {"key": "cpu", "before": before["cpu"], "after": "other"},
        {"key": "threads", "before": 1, "after": 2},
    ]
    assert told(found[1]) == "threads: 1 -> 2"
    assert changes_of({"changes": ["threads: 1 -> 2"]}) == [{"key": "threads", "before": "1", "after": "2"}]


def test_the_promise_depends_on_device_and_compilation() -> None:
    assert determinism(Train()) == "exact"
    assert determinism(Train(precision="bf16")) == "exact"
    assert determinism(Train(compile=True)) == "stat"
    assert determinism(Train(device="cuda:0")) == "stat"


def test_a_rate_is_measured_once_for_each_setting(tmp_path: Path) -> None:
    asked: list[float] = []

    def measure() -> float:
        asked.append(1e9 + len(asked))
        return asked[-1]

    assert remembered(tmp_path, "matmul fp32", measure, threads=1) == 1e9
    assert remembered(tmp_path, "matmul fp32", measure, threads=1) == 1e9
    assert remembered(tmp_path, "matmul fp32", measure, threads=2) == 1e9 + 1
    assert remembered(tmp_path, "matmul bf16", measure, threads=1) == 1e9 + 2
    assert remembered(tmp_path, "matmul fp32", measure, threads=1, device="cuda") == 1e9 + 3
    assert len(asked) == 4
    key = next(iter(json.loads((tmp_path / "machine.json").read_text())))
    for broken in ("{", "[]", json.dumps({key: "fast"}), json.dumps({key: [1.0]})):
        (tmp_path / "machine.json").write_text(broken)
        assert remembered(tmp_path, "matmul fp32", lambda: 5.0, threads=1) == 5.0


def test_what_is_not_known_or_was_wrong_is_measured_again(tmp_path: Path) -> None:
    assert remembered(tmp_path, "matmul fp32", lambda: 0.0, threads=1) == 0
    assert remembered(tmp_path, "matmul fp32", lambda: 4.0, threads=1) == 4
    assert remembered(tmp_path, "matmul fp32", lambda: 5.0, threads=2) == 5
    forget(tmp_path, "matmul fp32", threads=1)
    forget(tmp_path, "never measured", threads=1)
    assert remembered(tmp_path, "matmul fp32", lambda: 6.0, threads=1) == 6
    assert remembered(tmp_path, "matmul fp32", lambda: 7.0, threads=2) == 5


def test_names_lose_what_could_command_a_terminal() -> None:
    assert printable("a\x1b[31mred\x07\x9b\u202eb\n c\td\ud800") == "a[31mredb c d"
    assert printable("naïve 模型 🙂") == "naïve 模型 🙂"


@given(st.text())
def test_printable_text_is_one_line_and_stays_as_it_is(text: str) -> None:
    once = printable(text)
    assert once.isprintable()
    assert printable(once) == once


@given(st.text(max_size=80))
def test_a_component_never_leaves_its_directory(name: str) -> None:
    try:
        accepted = component(name)
    except UsageError:
        return
    assert accepted == name
    assert Path("root", name).parent == Path("root")
    assert name not in (".", "..")

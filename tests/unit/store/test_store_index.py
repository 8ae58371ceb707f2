"""The index: rows for every run and study, broken ones included, and nothing in it that cannot be made again."""

from __future__ import annotations

import math
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from isoflop.core.errors import DataError, UsageError
from isoflop.core.files import write_json
from isoflop.core.reading import read_json
from isoflop.store import index
from isoflop.store.index import INDEX, RUNS, rebuild, runs, studies
from isoflop.store.run import Run
from report_sample import make_study
from toy import recipe

pytestmark = pytest.mark.usefixtures("toys")


def make(root: Path, *overrides: str, **result: Any) -> Run:
    run = Run.open(root, recipe(*overrides))
    if result:
        run.write_result(result)
        run.set_status("done", step=10)
    return run


def test_a_row_holds_what_the_directory_holds(tmp_path: Path) -> None:
    run = make(tmp_path, flops=10**21, tokens=5, seconds=1.5, value=2.5)
    (row,) = runs(tmp_path).records()
    assert list(row) == list(RUNS)
    assert row == {
        "id": run.id,
        "name": "first",
        "hash": run.hash,
        "status": "done",
        "optimizer": "toy",
        "model": "toy",
        "budget": "steps=10",
        "steps": 10,
        "flops": 1e21,
        "tokens": 5.0,
        "seconds": 1.5,
        "value": 2.5,
        "lr": 1e-3,
        "seed": 3,
        "bound": 0,
        "unit": "bits per byte",
        "higher_is_better": 0,
        "created": run.status.created,
        "path": run.path.name,
        "reason": "",
    }


def test_rows_follow_the_directories_without_being_told(tmp_path: Path) -> None:
    assert runs(tmp_path).rows == 0
    assert list(runs(tmp_path)) == list(RUNS)
    run = make(tmp_path)
    assert runs(tmp_path)["status"].tolist() == ["created"]
    run.set_status("running", step=4)
    assert runs(tmp_path)["steps"].tolist() == [4]
    run.write_result({"value": 1.0})
    run.set_status("done", step=10)
    assert runs(tmp_path)["value"].tolist() == [1.0]
    shutil.rmtree(run.path)
    assert runs(tmp_path).rows == 0


def test_a_run_that_dies_without_a_word_is_seen_as_interrupted(tmp_path: Path) -> None:
    run = make(tmp_path)
    run.set_status("running", step=4)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    write_json(run.path / "status.json", {**read_json(run.path / "status.json"), "pid": child.pid})
    assert runs(tmp_path)["status"].tolist() == ["running"]
    child.communicate(b"\n")
    assert runs(tmp_path)["status"].tolist() == ["interrupted"]


def test_selection_and_order(tmp_path: Path) -> None:
    make(tmp_path, "seed=1", "name=alpha-1", value=3.0)
    make(tmp_path, "seed=2", "name=alpha-2", value=1.0)
    make(tmp_path, "seed=3", "name=beta")
    assert runs(tmp_path, order="value")["name"].tolist() == ["alpha-2", "alpha-1", "beta"]
    assert runs(tmp_path, order="-value")["name"].tolist() == ["alpha-1", "alpha-2", "beta"]
    assert runs(tmp_path)["name"].tolist() == ["alpha-1", "alpha-2", "beta"]
    assert set(runs(tmp_path, status="done")["name"]) == {"alpha-1", "alpha-2"}
    assert set(runs(tmp_path, name="alpha-*")["name"]) == {"alpha-1", "alpha-2"}
    assert runs(tmp_path, status="done", name="beta").rows == 0
    assert runs(tmp_path, status="' OR 1=1 --").rows == 0
    with pytest.raises(UsageError, match="did you mean value"):
        runs(tmp_path, order="valu")
    with pytest.raises(UsageError):
        runs(tmp_path, order="value; DROP TABLE runs")


@pytest.mark.parametrize("broken", ["", "{", "[]", "{}", '{"optimizer": 3}', '{"optimizer": {}, "model": null}'])
def test_broken_directories_are_listed_with_the_reason(tmp_path: Path, broken: str) -> None:
    good, bad = make(tmp_path, value=1.0), make(tmp_path, "seed=9")
    (bad.path / "resolved.json").write_text(broken)
    rows = {row["path"]: row for row in runs(tmp_path).records()}
    assert rows[good.path.name]["status"] == "done"
    assert rows[bad.path.name]["status"] == "unreadable"
    assert rows[bad.path.name]["reason"]
    assert math.isnan(rows[bad.path.name]["value"])


@pytest.mark.parametrize(
    ("file", "text"),
    [("status.json", "{"), ("result.json", "[3]")],
)
def test_a_broken_file_beside_the_recipe_makes_a_run_unreadable_too(tmp_path: Path, file: str, text: str) -> None:
    run = make(tmp_path, value=1.0)
    (run.path / file).write_text(text)
    (row,) = runs(tmp_path).records()
    assert (row["status"], row["id"]) == ("unreadable", run.id)
    run.path.joinpath("resolved.json").unlink()
    assert runs(tmp_path)["reason"].tolist()[0].endswith("`isoflop runs` lists the runs there are")


def test_hostile_values_are_neither_trusted_nor_printed_raw(tmp_path: Path) -> None:
    run = make(tmp_path, value="<script>", flops=True, tokens=[1])
    tree = read_json(run.path / "resolved.json")
    tree["optimizer"]["name"] = "red\x1b[31m\u202etxt"
    write_json(run.path / "resolved.json", tree)
    (row,) = runs(tmp_path).records()
    assert row["optimizer"] == "red[31mtxt"
    assert all(math.isnan(row[column]) for column in ("value", "flops", "tokens"))


def test_other_directories_are_no_runs(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "cache").mkdir()
    (tmp_path / ".partial-x").mkdir()
    write_json(tmp_path / ".partial-x" / "resolved.json", {})
    (tmp_path / "status.json").write_text("a file beside the runs")
    assert runs(tmp_path).rows == 1
    with pytest.raises(DataError, match="no directory of runs"):
        runs(tmp_path / "missing")


def test_the_index_can_always_be_thrown_away(tmp_path: Path) -> None:
    for seed in range(3):
        make(tmp_path, f"seed={seed}", value=float(seed))
    before = str(runs(tmp_path).records())
    assert (tmp_path / INDEX).exists()
    for spoil in (b"", b"not a database at all" * 100, (tmp_path / INDEX).read_bytes()[:5000]):
        for file in tmp_path.glob(f"{INDEX}*"):
            file.unlink()
        (tmp_path / INDEX).write_bytes(spoil)
        assert str(runs(tmp_path).records()) == before
        assert str(runs(tmp_path).records()) == before
    assert rebuild(tmp_path) == 3
    with sqlite3.connect(tmp_path / INDEX) as database:
        assert database.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        database.execute("PRAGMA user_version = 99")
    database.close()
    assert str(runs(tmp_path).records()) == before


def test_rows_are_read_again_only_where_something_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [make(tmp_path, f"seed={seed}", value=float(seed)) for seed in range(3)]
    runs(tmp_path)
    read: list[str] = []
    original = index._run_lines
    monkeypatch.setattr(index, "_run_lines", lambda path: read.append(path.name) or original(path))
    runs(tmp_path)
    assert read == []
    made[1].set_status("failed")
    runs(tmp_path)
    assert read == [made[1].path.name]


def test_a_broken_index_is_made_anew(tmp_path: Path) -> None:
    run = make(tmp_path, value=1.0)
    runs(tmp_path)
    (tmp_path / INDEX).write_bytes(b"broken" * 1000)
    assert runs(tmp_path)["id"].tolist() == [run.id]
    assert runs(tmp_path)["id"].tolist() == [run.id]  # the first answered from memory, this one keeps an index again
    with sqlite3.connect(tmp_path / INDEX) as database:
        assert database.execute("SELECT id, value FROM runs").fetchall() == [(run.id, 1.0)]
    database.close()


def test_an_index_that_is_locked_is_not_thrown_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make(tmp_path, value=1.0)
    runs(tmp_path)
    before = (tmp_path / INDEX).stat().st_ino
    connect = sqlite3.connect
    monkeypatch.setattr(index.sqlite3, "connect", lambda place, **more: connect(place, **{**more, "timeout": 0.0}))
    with connect(tmp_path / INDEX) as database:
        database.execute("BEGIN EXCLUSIVE")
        run.set_status("failed")
        assert runs(tmp_path)["status"].tolist() == ["failed"]
    database.close()
    assert (tmp_path / INDEX).stat().st_ino == before


def test_where_no_index_can_be_kept_the_answer_is_the_same(tmp_path: Path) -> None:
    run = make(tmp_path, value=1.0)
    (tmp_path / INDEX).mkdir()  # as good as a directory without permission: it cannot be opened as a file
    assert runs(tmp_path)["id"].tolist() == [run.id]


def test_studies_are_found_by_their_result(tmp_path: Path) -> None:
    assert studies(tmp_path).rows == 0
    good = {"name": "demo", "title": "A\x1bB", "headline": "2.0x", "created": "2026-01-01", "runs": [1, 2]}
    write_json(tmp_path / "demo" / "study.json", good)
    write_json(tmp_path / "broken" / "study.json", {"name": "broken"})
    rows = {row["path"]: row for row in studies(tmp_path).records()}
    assert rows["demo"] == {**good, "title": "AB", "verdict": "", "runs": 2, "path": "demo"}
    assert rows["broken"]["headline"].startswith("unreadable")
    assert rows["broken"]["verdict"] == rows["broken"]["headline"]
    assert runs(tmp_path).rows == 0


def test_a_studys_verdict_is_a_few_words_an_arm(tmp_path: Path) -> None:
    """That of the lowest rung on FLOPs; a bound claims no more than is known."""
    make_study().write(tmp_path / "demo" / "study.json")
    (row,) = studies(tmp_path).records()
    assert row["verdict"] == "muon 2.81x, lion < 1.00x, soap > 7.41x"


# ---------------------------------------------------------------- reading leaves nothing behind


def test_reading_leaves_nothing_in_a_directory_that_is_no_root(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "photos").mkdir()
    for read in (runs, studies, rebuild):
        read(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "photos"]


def test_another_programs_database_of_that_name_is_left_alone(tmp_path: Path) -> None:
    run = make(tmp_path, value=1.0)
    with sqlite3.connect(tmp_path / INDEX) as database:
        database.execute("CREATE TABLE runs (run_uuid TEXT)")
        database.execute("CREATE TABLE experiments (name TEXT)")
        database.execute("INSERT INTO runs VALUES ('theirs')")
    database.close()
    before = (tmp_path / INDEX).read_bytes()
    assert runs(tmp_path)["id"].tolist() == [run.id]
    assert rebuild(tmp_path) == 1
    assert (tmp_path / INDEX).read_bytes() == before


def test_an_index_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    run = make(tmp_path / "runs", value=1.0)
    (tmp_path / "theirs").write_text("text")
    (tmp_path / "runs" / INDEX).symlink_to(tmp_path / "theirs")
    assert runs(tmp_path / "runs")["id"].tolist() == [run.id]
    assert rebuild(tmp_path / "runs") == 1
    assert (tmp_path / "theirs").read_text() == "text"


def test_a_row_says_what_its_value_is(tmp_path: Path) -> None:
    make(tmp_path, "seed=1", value=0.25, unit="accuracy", higher_is_better=True, bound=True)
    make(tmp_path, "seed=2")
    told = {row["value"]: (row["unit"], row["higher_is_better"], row["bound"]) for row in runs(tmp_path).records()}
    assert told.pop(0.25) == ("accuracy", 1, 1)
    ((unit, *_),) = told.values()
    assert unit is None, "a run without a value has no unit either"

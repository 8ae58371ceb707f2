"""The memory: questions in words and in SQL; what diverged, and what was found against a method, is told, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from isoflop.cli.main import invoke
from isoflop.core.errors import DataError, UsageError
from isoflop.store.query import MemoryQuestion, remembered_runs, select
from isoflop.store.run import Run
from report_sample import make_study
from toy import recipe

pytestmark = pytest.mark.usefixtures("toys")


def made(root: Path, seed: int, lr: float, flops: float, value: float | None) -> Run:
    run = Run.open(root, recipe(f"seed={seed}", f"optimizer.lr={lr}"))
    spent: dict[str, Any] = {"flops": flops, "tokens": flops / 1e3, "seconds": 2.0}
    if value is None:
        run.write_result({"status": "diverged", **spent})
    else:
        run.write_result({"status": "done", "value": value, **spent})
    run.set_status("diverged" if value is None else "done", step=10)
    return run


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four runs, of which the one with the highest rate diverged, and a study that found lion worse."""
    for seed, lr, flops, value in (
        (1, 1e-3, 1e12, 2.5),
        (2, 2e-3, 2e12, 2.2),
        (3, 4e-3, 4e12, 2.1),
        (4, 1.0, 1e12, None),
    ):
        made(tmp_path, seed, lr, flops, value)
    make_study().write(tmp_path / "demo" / "study.json")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("best at <= 1e12 FLOPs", [("flops", "<=", 1e12)]),
        ("best at most 1.5 TFLOP", [("flops", "<=", 1.5e12)]),
        ("best below 500k tokens", [("tokens", "<", 5e5)]),
        ("best flops >= 2,000 and steps < 30", [("flops", ">=", 2000.0), ("steps", "<", 30.0)]),
        ("best within 60 s", [("seconds", "<=", 60.0)]),
        ("best up to 3e9", [("flops", "<=", 3e9)]),
        ("was it ever tried?", []),
    ],
)
def test_a_limit_is_understood_as_it_is_said(text: str, limits: list[tuple[str, str, float]]) -> None:
    found = MemoryQuestion.parse(text)
    assert [*found.limits] == [(axis, sign, pytest.approx(number)) for axis, sign, number in limits]
    assert found.words == ()
    assert found.task == ("best" if "best" in text else "tried")


def test_the_best_within_a_budget_is_first(root: Path) -> None:
    assert [row["value"] for row in remembered_runs(root, "best at <= 2e12 FLOPs").runs] == [2.2, 2.5, None]
    assert [row["seed"] for row in remembered_runs(root, "best at <= 3e9 tokens").runs][:2] == [2, 1]


def test_what_diverged_stays_and_can_be_asked_for(root: Path) -> None:
    for question in ("diverged", "what failed?", "optimizer.lr=1", "lr=1.0"):
        (row,) = remembered_runs(root, question).runs
        assert (row["status"], row["value"], row["seed"]) == ("diverged", None, 4)


def test_a_key_may_be_the_end_of_its_path_and_a_slot_its_name(root: Path) -> None:
    for question in ("optimizer.name=toy", "optimizer=toy", "width=16", "model.width=16", "toy", "first"):
        assert len(remembered_runs(root, question).runs) == 4, question
    assert len(remembered_runs(root, "was lr=0.002 tried with seed=2?").runs) == 1


def test_what_nobody_tried_is_said_with_what_was(root: Path) -> None:
    found = remembered_runs(root, "optimizer=sopa")
    assert (found.runs, found.unknown) == ([], ["optimizer = sopa (tried: toy)"])
    assert "did you mean" in remembered_runs(root, "toyy").unknown[0]
    with pytest.raises(UsageError, match=r"no recipe here has a key 'widht'.*model\.width"):
        remembered_runs(root, "widht=16")
    with pytest.raises(UsageError, match="a limit of what"):
        remembered_runs(root, "best with 1e12")
    with pytest.raises(DataError):
        remembered_runs(root / "nowhere", "toy")


def test_a_finding_against_a_method_is_told(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = remembered_runs(root, "was lion tried?").findings
    assert (row["path"], row["arm"], row["censored"], row["bound"]) == ("demo", "lion", "below", 1.0)
    assert invoke(["runs", "--root", str(root), "query", "was", "lion", "tried?"]) == 0
    assert "demo, rung 0" in capsys.readouterr().out
    assert invoke(["runs", "query", "best at <= 2e12 FLOPs", "--root", str(root)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("Best: 2.2000 bits per byte with steps=10, 2.00 TFLOP")
    assert invoke(["runs", "query", "toy", "--root", str(root)]) == 0
    assert "Yes: 4 runs (3 done, 1 diverged)." in capsys.readouterr().out


def test_sql_reads_every_table(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    query = "SELECT seed FROM runs JOIN settings USING (path) WHERE key = 'optimizer.lr' AND settings.value = '0.004'"
    assert select(root, query) == (["seed"], [(3,)])
    assert select(root, "SELECT count(*) AS n FROM members WHERE arm = 'lion'") == (["n"], [(8,)])
    assert (
        invoke(["runs", "query", "--sql", "SELECT name AS who, runs FROM studies", "--root", str(root), "--json"]) == 0
    )
    assert capsys.readouterr().out == '[{"who": "demo", "runs": 48}]\n'


@pytest.mark.parametrize(
    "query",
    [
        "DELETE FROM runs",
        "DROP TABLE runs",
        "ATTACH 'elsewhere.sqlite' AS other",
        "PRAGMA writable_schema = 1",
        "INSERT INTO settings SELECT * FROM settings",
        "SELECT 1; DELETE FROM runs",
        "SELECT load_extension('x')",
        "SELECT * FROM nothing",
        "",
    ],
)
def test_sql_only_reads(root: Path, query: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = select(root, "SELECT * FROM runs ORDER BY path")
    assert invoke(["runs", "query", "--sql", query, "--root", str(root)]) in (0, 2)
    capsys.readouterr()
    assert select(root, "SELECT * FROM runs ORDER BY path") == before
    assert not Path("elsewhere.sqlite").exists()


def test_what_was_removed_is_forgotten_with_its_settings(root: Path) -> None:
    (root / "demo" / "study.json").unlink()
    (row,) = remembered_runs(root, "seed=1").runs
    Run.read(root / row["path"]).path.rename(root.parent / f"{root.name}-gone")
    counts = [
        select(root, f"SELECT count(DISTINCT path) FROM {table}")[1][0][0] for table in ("settings", "runs", "members")
    ]
    assert counts == [3, 3, 0]


def test_nothing_asked_and_twice_asked_are_refused(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["toy", "--sql", "SELECT 1"]):
        assert invoke(["runs", "query", *arguments, "--root", str(root)]) == 2
        assert "in words" in capsys.readouterr().err

"""Runs go out as tables for other programs, and their tables come back: into a fit and into a multiplier."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from isoflop.cli.main import invoke
from isoflop.core.recipe import Recipe
from isoflop.core.table_files import read_table
from isoflop.train.run import train

Tiny = Callable[..., Path]


def test_runs_and_their_curves_go_out_whole(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, out = tmp_path / "runs", tmp_path / "out"
    assert invoke(["runs", "export", str(out / "runs.csv"), "--root", str(root)]) != 0
    runs = [train(Recipe.load(tiny("budget.steps=2", f"seed={seed}")), root) for seed in (1, 2)]
    assert invoke(["runs", "export", str(out / "runs.csv"), "--root", str(root)]) == 0
    table = read_table(out / "runs.csv")
    assert table["hash"].tolist() == [run.hash for run in runs]
    assert table["value"].tolist() == [run.result["value"] for run in runs]
    assert invoke(["runs", "--root", str(root), "export", "--curves", str(out / "curves.csv"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    curves = read_table(out / "curves.csv")
    assert told["rows"] == curves.rows == sum(len(run.metrics()) for run in runs)
    losses = [record["loss"] for run in sorted(runs, key=lambda run: run.path.name) for record in run.metrics("step")]
    assert curves.where(curves["kind"] == "step")["loss"].tolist() == losses
    assert invoke(["runs", "export", str(out / "runs.xlsx"), "--root", str(root)]) == 2


def test_a_law_is_fitted_to_another_trackers_chart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    points = [(step, 2 + 30 / step**0.5) for step in (100, 200, 400, 800, 1600, 3200)]
    lines = ["Step,base - loss,base - loss__MIN,base - loss__MAX", *(f"{s},{y!r},{y!r},{y!r}" for s, y in points)]
    (tmp_path / "chart.csv").write_text("\n".join(lines))
    asked = ["fit", str(tmp_path / "chart.csv"), "--law", "power_floor", "--columns", "C=Step", "--json"]
    assert invoke(asked) == 0
    assert json.loads(capsys.readouterr().out)["fit"]["params"]["E"] == pytest.approx(2.0, rel=1e-3)

"""Stored studies and roots as tables for scaling laws."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from isoflop.core.errors import DataError, UsageError
from isoflop.core.files import write_json
from isoflop.core.recipe import Recipe
from isoflop.core.roles import numel
from isoflop.laws import Power
from isoflop.store.run import Run
from isoflop.store.sweeps import runs_table
from report_sample import make_study

RECIPE = """
name = "sweep"
[source]
name = "stdlib"
[model]
name = "transformer"
d_model = {width}
[budget]
steps = {steps}
"""


def finished(root: Path, width: int, steps: int, change: dict[str, object] | None = None) -> Run:
    text = RECIPE.format(width=width, steps=steps)
    run = Run.open(root, Recipe.from_toml(text), text=text)
    if change:
        write_json(run.path / "resolved.json", {**run.resolved, **change})
    status = json.loads((run.path / "status.json").read_text())
    write_json(run.path / "status.json", {**status, "state": "done"})
    write_json(run.path / "result.json", {"flops": 1000 * steps, "tokens": 10 * steps, "seconds": 1.0, "value": 2.5})
    return run


def test_a_root_gives_compute_tokens_loss_and_parameters(tmp_path: Path) -> None:
    stored = [finished(tmp_path, width, steps) for width, steps in ((32, 100), (64, 200))]
    table = runs_table(tmp_path).sort("C")
    assert table["C"].tolist() == [1e5, 2e5]
    assert table["D"].tolist() == [1e3, 2e3]
    assert table["loss"].tolist() == [2.5, 2.5]
    assert set(table["optimizer"].tolist()) == {"adamw"}
    wanted = [numel(run.recipe.model.shapes(run.recipe.vocab_size)) for run in stored]
    assert table["N"].tolist() == wanted
    assert wanted[0] < wanted[1]


def test_compute_beyond_64_bits_is_fitted(tmp_path: Path) -> None:
    """Exact integers become floats where they are calculated with, from a study as from a root."""
    for power in range(4):
        run = finished(tmp_path / "root", 32, 100 + power)
        told = {"flops": 10 ** (18 + 2 * power), "tokens": 10, "seconds": 1.0, "value": 3.0 - 0.1 * power**1.1}
        write_json(run.path / "result.json", told)
    make_study().write(tmp_path / "study" / "study.json")
    text = (tmp_path / "study" / "study.json").read_text()
    (tmp_path / "study" / "study.json").write_text(
        re.sub(r'"flops": (\d+)(?=[,\n])', r'"flops": \g<1>000000000000', text)
    )
    for name in ("root", "study"):
        table = runs_table(tmp_path / name)
        assert table.numbers("C").dtype == float
        assert table.numbers("C").max() > 2**64
        if "arm" in table:
            table = table.where(table.equal("arm", str(table["arm"][0])))
        assert Power().fit(table, columns={"y": "loss"}).params["a"] < 0


def test_without_a_readable_recipe_there_is_no_n(tmp_path: Path) -> None:
    finished(tmp_path, 32, 100)
    finished(tmp_path, 64, 100, {"model": {"name": "gone"}})
    table = runs_table(tmp_path)
    assert table.rows == 2
    assert "N" not in table


@pytest.mark.parametrize("change", [{"source": {"name": "other"}}, {"metrics": [{"name": "accuracy"}]}])
def test_losses_of_different_things_are_not_mixed(tmp_path: Path, change: dict[str, object]) -> None:
    finished(tmp_path, 32, 100)
    finished(tmp_path, 64, 100, change)
    with pytest.raises(UsageError, match=f"differ in {next(iter(change))}"):
        runs_table(tmp_path)


def test_a_study_gives_the_ends_of_its_evaluation_runs(tmp_path: Path) -> None:
    study = make_study()
    study.write(tmp_path / "study.json")
    table = runs_table(tmp_path)
    ends = [run.end for run in study.runs if run.role == "evaluation" and run.end is not None]
    assert sorted(table["C"].tolist()) == sorted(end.flops for end in ends)
    assert sorted(table["loss"].tolist()) == sorted(end.value for end in ends)
    assert {"arm", "rung", "seed", "D"} <= set(table)


def test_nothing_finished_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no finished run"):
        runs_table(tmp_path)


def test_a_quality_of_which_more_is_better_is_no_loss(tmp_path: Path) -> None:
    run = finished(tmp_path / "root", 32, 100)
    write_json(run.path / "result.json", {**run.result, "unit": "accuracy", "higher_is_better": True})
    make_study(unit="accuracy", higher_is_better=True).write(tmp_path / "study" / "study.json")
    for name in ("root", "study"):
        table = runs_table(tmp_path / name)
        assert "value" in table
        assert "loss" not in table

"""Tables come back as they were written, and those of other trackers in one form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from isoflop.cli.main import invoke
from isoflop.core.table import Table
from isoflop.core.table_files import named_by, read_table, write_table
from isoflop.errors import DataError, UsageError

MIXED = {"name": ["a", "b"], "loss": [2.5, np.nan], "long": [2**70, 3], "whole": [1, 2]}


def mixed() -> Table:
    return Table({**MIXED, "name": np.asarray(MIXED["name"], dtype=object)})


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_table_comes_back(tmp_path: Path, suffix: str) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow", reason="needs the extra data")
    write_table(mixed(), tmp_path / f"t.{suffix}")
    back = read_table(tmp_path / f"t.{suffix}")
    assert back["name"].tolist() == ["a", "b"]
    assert back.numbers("loss").tolist() == pytest.approx([2.5, np.nan], nan_ok=True)
    assert back.texts("long").tolist() == [str(2**70), "3"]
    assert back.numbers("whole").tolist() == [1, 2]


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"tables end in \.csv or \.parquet"):
        write_table(mixed(), tmp_path / "t.xlsx")


@pytest.mark.parametrize(
    "line",
    [
        ["fit", "t", "--law", "power", "--where", "arm=a"],
        ["fit", "t", "--law", "power"],
        ["plan", "t", "--law", "chinchilla", "--compute", "1e21"],
        ["plan", "next", "t", "--budget", ".1", "--target", "t"],
        ["plan", "pools", "t", "--pool", "1e6", "--seen", "1e9", "--group", "g"],
        ["multiplier", "t", "--baseline", "a"],
    ],
)
def test_a_text_of_one_column_is_refused_unquoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: list[str]
) -> None:
    """It is no table but some file that was named by mistake, and its first line may be anybody's secret."""
    monkeypatch.chdir(tmp_path)
    Path("t").write_text('token = "hunter2"\n{torn')
    assert invoke(line) in (2, 3)
    told = capsys.readouterr().err
    assert "t: has a single column" in told
    assert "hunter2" not in told


def test_a_file_that_is_no_parquet_is_named(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="needs the extra data")
    (tmp_path / "t.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(DataError, match=r"t\.parquet: cannot be read as a Parquet table"):
        read_table(tmp_path / "t.parquet")


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    for act in (lambda path: write_table(mixed(), path), read_table):
        with pytest.raises(UsageError, match=r"need the package pyarrow; pip install 'isoflop\[data\]'"):
            act(tmp_path / "t.parquet")
    assert not list(tmp_path.iterdir())


CHART = """"Step","sun-1 - val/loss","sun-1 - val/loss__MIN","sun-1 - val/loss__MAX","b - c-2 - val/loss"
"0","4.5","4.5","4.5","5"
"10","4","4","4",""
"20","3.5","3.5","3.5","4.25"
"""


def test_a_chart_of_weights_and_biases_becomes_a_row_a_point(tmp_path: Path) -> None:
    (tmp_path / "chart.csv").write_text(CHART)
    found = read_table(tmp_path / "chart.csv")
    assert found.records()[:3] == [
        {"run": "sun-1", "Step": step, "val/loss": loss} for step, loss in ((0, 4.5), (10, 4), (20, 3.5))
    ]
    assert found.records()[3:] == [
        {"run": "b - c-2", "Step": at, "val/loss": loss} for at, loss in ((0, 5), (20, 4.25))
    ]


def test_a_curve_of_tensorboard_knows_its_run_and_tag(tmp_path: Path) -> None:
    curve = "Wall time,Step,Value\n1700000000.5,1,4.5\n1700000001.5,2,4.25\n"
    (tmp_path / "run-base_a-tag-train_loss.csv").write_text(curve)
    (tmp_path / "mine.csv").write_text(curve)
    found = read_table(tmp_path / "run-base_a-tag-train_loss.csv")
    assert (found["run"].tolist(), found["train_loss"].tolist()) == (["base_a"] * 2, [4.5, 4.25])
    assert read_table(tmp_path / "mine.csv")["run"].tolist() == ["mine", "mine"]


def test_a_table_of_another_kind_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("Step,loss - train\n1,2\n")
    (tmp_path / "u.csv").write_text("Name,lr,loss\na,0.1,2\n")
    assert list(read_table(tmp_path / "t.csv")) == ["run", "Step", "train"], "a chart of a run called loss"
    assert list(read_table(tmp_path / "u.csv")) == ["Name", "lr", "loss"]


def test_names_are_taken_apart(tmp_path: Path) -> None:
    table = Table({"Name": ["adamw-b-2-s1", "muon-0-s12"]})
    found = named_by(table, "{arm}-{rung}-s{seed}", "Name")
    assert found["arm"].tolist() == ["adamw-b", "muon"]
    assert (found["rung"].tolist(), found["seed"].tolist()) == ([2, 0], [1, 12])


@pytest.mark.parametrize(
    ("pattern", "column", "complaint"),
    [
        ("plain", "Name", "is no pattern"),
        ("{a}-{a}", "Name", "is no pattern"),
        ("{arm}", "run", "no column 'run'"),
        ("{arm}_{seed}", "Name", "the name 'adamw-1' is not of the form"),
    ],
)
def test_a_pattern_that_does_not_fit_is_said(pattern: str, column: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        named_by(Table({"Name": ["adamw-1"]}), pattern, column)

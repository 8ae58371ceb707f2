"""Runs that were trained elsewhere: the planted multiplier comes out of any table that tells it, or a reason."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isoflop.cli.main import invoke
from isoflop.core.complaints import few_seeds
from isoflop.core.table import Table
from isoflop.errors import DataError, UsageError
from isoflop.lab.foreign import foreign_multipliers

SAVES = 1.5
BUDGETS = (1e15, 2e15, 4e15, 8e15)


def quality(flops: float, seed: int) -> float:
    return 2.0 + 500.0 / flops**0.2 + 0.01 * seed + 1e-4 * ((7 * seed + int(np.log2(flops) * 8)) % 5)


def rows(**more: Any) -> Iterator[dict[str, Any]]:
    """AdamW on a ladder of four budgets, Muon on the lower two, three seeds."""
    for seed in (1, 2, 3):
        for rung, flops in enumerate(BUDGETS):
            yield {"arm": "adamw", "seed": seed, "rung": rung, "flops": flops, "value": quality(flops, seed), **more}
        for rung, flops in enumerate(BUDGETS[:2]):
            reached = quality(SAVES * flops, seed)
            yield {"arm": "muon", "seed": seed, "rung": rung, "flops": flops, "value": reached, **more}


def table(change: Callable[[dict[str, Any]], dict[str, Any]] = lambda row: row, **more: Any) -> Table:
    return Table.from_records(change(row) for row in rows(**more))


def test_the_planted_multiplier_is_found_with_and_without_named_rungs() -> None:
    named = foreign_multipliers(table(), "adamw")
    counted = foreign_multipliers(table(lambda row: {k: v for k, v in row.items() if k != "rung"}), "adamw")
    for found in (named, counted):
        assert [(row.arm, row.rung, row.axis) for row in found.multipliers] == [
            ("muon", 0, "flops"),
            ("muon", 1, "flops"),
        ]
        assert [row.value for row in found.multipliers] == pytest.approx([SAVES, SAVES], rel=0.03)
        assert all(row.significant for row in found.multipliers)
        assert "muon saves compute: adamw needs 1.5" in found.text
        assert found.notes == [
            "taken on trust, as the table does not tell it: that the runs share the text they were evaluated on"
        ]


def test_the_unit_of_an_axis_does_not_matter() -> None:
    whole = foreign_multipliers(table(), "adamw").multipliers
    in_exaflops = foreign_multipliers(table(lambda row: {**row, "flops": row["flops"] / 1e18}), "adamw").multipliers
    for one, other in zip(whole, in_exaflops, strict=True):
        assert (other.value, other.low, other.high) == pytest.approx((one.value, one.low, one.high), rel=1e-9)


def test_a_cell_that_cannot_be_judged_is_named() -> None:
    some = table().where([not (row["arm"] == "muon" and row["rung"] == 1 and row["seed"] == 2) for row in rows()])
    found = foreign_multipliers(some, "adamw")
    assert [row.rung for row in found.multipliers] == [0]
    assert found.notes[0].startswith("no multiplier of muon at rung 1 on flops: it needs three seeds")


def test_more_may_be_better() -> None:
    turned = table(lambda row: {**row, "value": -row["value"]}, higher_is_better=1, unit="score")
    found = foreign_multipliers(turned, "adamw")
    assert [row.value for row in found.multipliers] == pytest.approx([SAVES, SAVES], rel=0.03)
    assert "same score" in found.text


def test_curves_count_by_their_ends_and_usual_names_are_known() -> None:
    def curve(row: dict[str, Any]) -> list[dict[str, Any]]:
        run = f"{row['arm']}-{row['rung']}-{row['seed']}"
        same = {"run": run, "arm": row["arm"], "seed": row["seed"]}
        return [{**same, "C": share * row["flops"], "val_loss": row["value"] + 1 - share} for share in (0.5, 1.0, 0.75)]

    found = foreign_multipliers(Table.from_records(point for row in rows() for point in curve(row)), "adamw")
    assert [row.value for row in found.multipliers] == pytest.approx([SAVES, SAVES], rel=0.03)


@pytest.mark.parametrize(
    ("changed", "axis", "why"),
    [
        ({"tokens": 1.0, "parameters": 1}, "tokens", "two rungs of adamw spent the same on it"),
        ({"seconds": 1.0}, "seconds", "two rungs"),
    ],
)
def test_an_axis_that_is_not_comparable_is_refused_by_name(changed: dict[str, Any], axis: str, why: str) -> None:
    found = foreign_multipliers(table(**changed), "adamw")
    assert why in found.refusals[axis]
    assert found.multipliers, "the others stand"


def test_tokens_of_different_models_are_not_compared() -> None:
    sized = table(lambda row: {**row, "tokens": row["flops"] / 1e8, "parameters": 1e8 if row["arm"] == "muon" else 2e8})
    found = foreign_multipliers(sized, "adamw")
    assert found.refusals["tokens"] == "the runs have 2 different parameters: a token costs more in a larger model"
    free = table(lambda row: {**row, "tokens": row["flops"] / 1e8})
    assert "that the runs share the text they were evaluated on, their parameters, their tokenizer" in " ".join(
        foreign_multipliers(free, "adamw").notes
    )


def test_two_seeds_are_too_few() -> None:
    found = foreign_multipliers(table().where(table()["seed"] < 3), "adamw")
    assert found.refusals == {"flops": few_seeds(2) + "; they must be seeds that adamw has, too"}


@pytest.mark.parametrize(
    ("columns", "baseline", "kind", "complaint"),
    [
        ({"arm": "optimizer"}, "adamw", DataError, "no column 'optimizer'"),
        ({}, "adam", UsageError, "no run's arm is 'adam'; did you mean adamw"),
        ({"flops": "arm"}, "adamw", DataError, "is not numeric"),
    ],
)
def test_a_table_that_does_not_serve_is_said(
    columns: dict[str, str], baseline: str, kind: type[Exception], complaint: str
) -> None:
    with pytest.raises(kind, match=complaint):
        foreign_multipliers(table(), baseline, columns=columns)


def test_what_is_missing_is_asked_for() -> None:
    without = table(lambda row: {"optimizer": row["arm"], "seed": row["seed"], "C": row["flops"], "loss": row["value"]})
    with pytest.raises(DataError, match="has no column 'arm'; say which it is: --columns arm=COLUMN"):
        foreign_multipliers(without, "adamw")
    assert foreign_multipliers(without, "adamw", columns={"arm": "optimizer"}).multipliers
    with pytest.raises(DataError, match="different numbers of runs"):
        foreign_multipliers(without.where(np.arange(without.rows) > 0), "adamw", columns={"arm": "optimizer"})


def test_the_verb_reads_what_another_tracker_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A chart of W&B with a column a run, whose names tell arm, rung and seed."""
    curves = {
        f"{row['arm']}-r{row['rung']}-s{row['seed']} - val_loss": (row["flops"] / 1e12, row["value"]) for row in rows()
    }
    steps = sorted({step for step, _ in curves.values()})
    lines = [",".join(["Step", *curves])]
    lines += [",".join([f"{at:g}", *(f"{y!r}" if x == at else "" for x, y in curves.values())]) for at in steps]
    (tmp_path / "chart.csv").write_text("\n".join(lines))
    asked = [str(tmp_path / "chart.csv"), "--baseline", "adamw", "--names", "{arm}-r{rung}-s{seed}"]
    assert invoke(["multiplier", *asked, "--columns", "steps=Step", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["value"] for row in found["multipliers"]] == pytest.approx([SAVES, SAVES], rel=0.03)
    assert invoke(["multiplier", *asked, "--columns", "steps=Step"]) == 0
    assert "muon saves steps" in capsys.readouterr().out
    assert invoke(["multiplier", str(tmp_path), "--baseline", "adamw"]) == 3
    assert "is a folder, not a table" in capsys.readouterr().err


def test_the_verb_takes_a_file_for_each_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As TensorBoard downloads them, each named after its run."""
    for row in rows():
        name = f"run-{row['arm']}-r{row['rung']}-s{row['seed']}-tag-loss.csv"
        points = [(0.5, row["value"] + 1), (1.0, row["value"])]
        lines = ["Wall time,Step,Value", *(f"17e8,{share * row['flops'] / 1e12!r},{y!r}" for share, y in points)]
        (tmp_path / name).write_text("\n".join(lines))
    files = sorted(map(str, tmp_path.glob("*.csv")))
    asked = ["--baseline", "adamw", "--names", "{arm}-r{rung}-s{seed}", "--columns", "steps=Step,value=loss", "--json"]
    assert invoke(["multiplier", *files, *asked]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["value"] for row in found["multipliers"]] == pytest.approx([SAVES, SAVES], rel=0.03)

"""What compressed models take in use, zeros by layer, damaged blocks over steps, and the bill with ancestors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from isoflop.core.recipe import Recipe
from isoflop.report import render
from isoflop.report.footprints import in_use, in_use_sheet, weights_told, whole_bill_sheet
from isoflop.report.page import run_page
from isoflop.report.runs import RunRecord
from isoflop.store.records import Ancestor
from isoflop.store.results import StudyResult
from isoflop.train.run import train
from report_sample import make_study

Tiny = Callable[..., Path]


def with_bits(bits: dict[str, float]) -> StudyResult:
    study = make_study()
    runs = [
        run.model_copy(update={"bits_per_weight": bits.get(run.arm, 16.0), "inference_flops": 1e6})
        for run in study.runs
    ]
    return study.model_copy(update={"runs": runs})


def test_quality_is_drawn_by_bits_where_arms_differ_in_them() -> None:
    study = make_study()
    arm = study.arms[0]
    assert in_use(study) == {}
    assert not in_use_sheet(study).rows, "older results do not know"
    assert in_use(with_bits({})) == {}, "all alike"
    charts = in_use(with_bits({arm: 4.5}))
    assert list(charts) == ["bits_per_weight"]
    (values,) = charts["bits_per_weight"].to_dict()["datasets"].values()
    assert {point["bits_per_weight"] for point in values if point["arm"] == arm} == {4.5}
    rows = in_use_sheet(with_bits({arm: 4.5})).rows
    assert {row[2] for row in rows if row[0] == arm} == {"4.5"}
    assert {row[2] for row in rows if row[0] == study.baseline} == {"16"}


def test_a_run_shows_zeros_by_layer_and_damaged_blocks(tiny: Tiny, tmp_path: Path) -> None:
    parts = 'parametrization=[{name="nm", n=1, m=4}, {name="mx", backward=false, roles=["hidden", "norm"]}]'
    run = train(Recipe.load(tiny("budget.steps=2", parts)), tmp_path / "runs")
    record = RunRecord.read(run.path)
    (_, first), (step, last) = record.told
    assert step == 2
    assert last["blocks.0.mixer.q"]["density"] <= 0.25
    assert last["blocks.0.mixer_norm"].keys() == {"density", "collapsed", "saturated"}
    assert first["blocks.0.mixer_norm"]["collapsed"] == 1, "gains near 1 all become 1"
    assert set(weights_told(record.told)) == {"density", "blocks"}
    assert run.result["bits_per_weight"] < 16
    page = run_page(record, render.specifications(record.figures()))
    assert "Density by layer" in page
    assert "Damaged blocks" in page


def test_a_plain_run_has_none_of_it(tiny: Tiny, tmp_path: Path) -> None:
    run = train(Recipe.load(tiny("budget.steps=1")), tmp_path / "runs")
    record = RunRecord.read(run.path)
    assert (record.told, weights_told(record.told)) == ([], {})
    assert run.result["bits_per_weight"] == 16
    work = run.recipe.model.work(1, 16, run.recipe.vocab_size).forward.flops
    assert run.result["inference_flops"] == work / 16


def test_masks_take_fewer_flops_in_use(tiny: Tiny, tmp_path: Path) -> None:
    plain, sparse = (
        train(Recipe.load(tiny("budget.steps=1", change)), tmp_path / "runs").result["inference_flops"]
        for change in ("seed=1", 'parametrization={name="nm", n=1, m=4}')
    )
    assert sparse < plain


def test_the_bill_stands_with_and_without_ancestors() -> None:
    ledger = {"train": {"flops": 3e9, "tokens": 10}, "teacher": {"flops": 1e9}}
    assert not whole_bill_sheet(ledger, {}).rows
    teacher = Ancestor(name="t", ledger={"train": {"flops": 6e9, "tokens": 90}})
    rows = {row[0]: row[1:3] for row in whole_bill_sheet(ledger, {"ab" * 32: teacher}).rows}
    assert rows == {
        "here alone": ("4.00 GFLOP", "10.0"),
        "on ancestors": ("6.00 GFLOP", "90.0"),
        "with ancestors": ("10.0 GFLOP", "100"),
    }


@pytest.mark.parametrize("name", ["blocks.0.mixer.q", "embedding", "blocks.11.feed_forward.up"])
def test_every_matrix_has_its_place(name: str) -> None:
    assert "density" in weights_told([(1, {name: {"density": 0.5}})])

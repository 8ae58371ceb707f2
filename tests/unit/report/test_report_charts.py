"""The charts: what they draw, on which axes, and that drawing them is deterministic."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoflop.core.errors import UsageError
from isoflop.core.scale import Scale
from isoflop.report import charts, render, style
from isoflop.report.runs import POINTS, RunRecord, losses
from isoflop.store.records import Ancestor
from isoflop.store.results import MultiplierRow, StudyResult, Tuning
from report_sample import make_multipliers, make_run, make_run_directory, make_study

Spec = dict[str, Any]


def specs(result: StudyResult) -> dict[str, Spec]:
    return {name: render.specification(chart) for name, chart in charts.figures(result).items()}


@pytest.fixture(scope="module")
def drawn() -> dict[str, Spec]:
    return specs(make_study())


def marks(spec: Spec, kind: str) -> list[tuple[Spec, list[Spec]]]:
    """Layers of a mark with their records."""
    layers = spec.get("layer", [spec])
    return [
        (layer, spec["datasets"][(layer.get("data") or spec["data"])["name"]])
        for layer in layers
        if layer["mark"]["type"] == kind
    ]


def test_every_chart_is_there_and_only_where_there_is_data(drawn: dict[str, Spec]) -> None:
    assert list(drawn) == ["quality", "multipliers", "learning", "bill", "tuning_lr", "others"]
    empty = make_study(runs=[], tunings=[], multipliers=[], bill={})
    assert charts.figures(empty) == {}


def test_all_but_the_bill_are_logarithmic_and_every_axis_names_its_unit(drawn: dict[str, Spec]) -> None:
    x, y = (drawn["quality"]["layer"][0]["encoding"][channel] for channel in "xy")
    assert x["scale"]["type"] == y["scale"]["type"] == "log"
    assert "model FLOPs" in " ".join(x["axis"]["title"])
    assert "multiply-add = 2" in " ".join(x["axis"]["title"])
    assert "bits per byte" in y["axis"]["title"]
    assert drawn["multipliers"]["layer"][0]["encoding"]["x"]["scale"]["type"] == "log"
    tuning = drawn["tuning_lr"]["layer"][0]["encoding"]
    assert (tuning["x"]["scale"]["type"], tuning["x"]["axis"]["title"]) == ("log", "lr (log scale)")
    assert "multiply-add = 2" in " ".join(drawn["bill"]["encoding"]["x"]["axis"]["title"])


def test_quality_shows_every_seed_the_means_and_the_ladder_bold(drawn: dict[str, Spec]) -> None:
    seeds = next(records for layer, records in marks(drawn["quality"], "point") if layer["mark"].get("filled"))
    assert len(seeds) == 4 * 4 + 3 * 4
    means = marks(drawn["quality"], "tick")[0][1]
    low = [p["value"] for p in seeds if p["arm"] == "muon"]
    assert next(m for m in means if m["arm"] == "muon")["value"] == pytest.approx(sum(low) / 4)
    width = next(layer for layer, _ in marks(drawn["quality"], "line") if "strokeWidth" in layer["encoding"])
    assert width["encoding"]["strokeWidth"]["condition"] == {"test": "(datum.arm === 'adamw')", "value": 3}


def test_the_dashed_line_is_the_multiplier_and_a_bound_ends_in_an_arrow(drawn: dict[str, Spec]) -> None:
    gaps = {gap["arm"]: gap for gap in marks(drawn["quality"], "rule")[0][1]}
    assert gaps["muon"]["x2"] / gaps["muon"]["flops"] == pytest.approx(2.81)
    assert {arm: gap["label"] for arm, gap in gaps.items()} == {"muon": "2.81×", "lion": "< 1.00×", "soap": "> 7.41×"}
    arrows = next(records for layer, records in marks(drawn["quality"], "point") if layer["mark"].get("shape"))
    assert [arrow["arm"] for arrow in arrows] == ["soap"]


def test_multipliers_have_intervals_or_open_arrows(drawn: dict[str, Spec]) -> None:
    spec = drawn["multipliers"]
    reference, intervals = marks(spec, "rule")
    assert reference[1] == [{"value": 1.0}]
    assert [(r["low"], r["high"]) for r in intervals[1]] == [(2.53, 3.12)]
    arrows = next((layer, records) for layer, records in marks(spec, "point") if "shape" in layer["encoding"])
    assert not arrows[0]["mark"].get("filled")
    assert [(r["arm"], r["kind"], r["value"]) for r in arrows[1]] == [("lion", "below", 1.0), ("soap", "above", 7.41)]
    lines = [label.split(charts.BREAK) for label in spec["layer"][1]["encoding"]["y"]["sort"]]
    assert lines[0] == ["muon, FLOPs", "2.81× [2.53, 3.12]"]
    low, high = spec["layer"][0]["encoding"]["x"]["scale"]["domain"]
    assert low < 0.93
    assert high > 7.41


def test_a_multiplier_without_any_bound_is_still_listed() -> None:
    mixed = MultiplierRow(
        arm="muon", rung=0, axis="flops", censored="mixed", censored_seeds=4, seeds=4, per_seed=[None] * 4
    )
    spec = render.specification(charts.multipliers(make_study(multipliers=[mixed]), [mixed]))
    assert spec["layer"][1]["encoding"]["y"]["sort"][0].endswith("no value")


def test_rungs_are_told_apart_when_an_arm_ran_several() -> None:
    row = MultiplierRow(arm="muon", rung=0, axis="flops", value=2.0, low=1.5, high=2.5, seeds=4)
    both = [row, row.model_copy(update={"rung": 1})]
    spec = render.specification(charts.multipliers(make_study(multipliers=both), both))
    labels = [label.partition(charts.BREAK)[0] for label in spec["layer"][1]["encoding"]["y"]["sort"]]
    assert labels == ["muon, FLOPs, rung 0", "muon, FLOPs, rung 1"]


def test_no_label_lies_over_a_mark(drawn: dict[str, Spec]) -> None:
    """Numbers stand in legends and beside axes, whatever the data: no text is drawn within a chart."""
    for spec in drawn.values():
        assert not marks(spec, "text")
    named = drawn["quality"]["layer"][1]["encoding"]["color"]["legend"]["labelExpr"]
    for label in ('"muon": "muon  2.81', '"lion": "lion  < 1.00', '"adamw": "adamw"'):
        assert label in json.dumps(json.loads(named[1 : named.index(")[")]), ensure_ascii=False)


def test_the_bill_sums_to_the_ledgers_and_tuning_runs_are_one_phase(drawn: dict[str, Spec]) -> None:
    study = make_study()
    records = marks(drawn["bill"], "bar")[0][1]
    for arm in [study.baseline, *study.arms]:
        total = sum(spent["flops"] for run in study.runs if run.arm == arm for spent in run.ledger.values())
        assert sum(r["flops"] for r in records if r["arm"] == arm) == pytest.approx(total)
    assert {r["phase"] for r in records} == {"train", "optimizer", "evaluation", "tuning"}


def test_the_bill_counts_a_run_that_two_arms_share_once() -> None:
    study = make_study()
    twin = [run.model_copy(update={"arm": "lion"}) for run in study.runs if run.arm == "muon"]
    shared = make_study(runs=[*(run for run in study.runs if run.arm != "lion"), *twin])
    alone = make_study(runs=[run for run in study.runs if run.arm != "lion"])
    bars = [marks(specs(result)["bill"], "bar")[0][1] for result in (shared, alone)]
    assert bars[0] == bars[1]


def test_tuning_marks_the_chosen_and_the_diverged(drawn: dict[str, Spec]) -> None:
    points = marks(drawn["tuning_lr"], "point")
    chosen = [(r["arm"], r["x"]) for r in points[1][1]]
    assert chosen == [("adamw", 0.003), ("adamw", 0.003), ("muon", 0.003), ("lion", 0.003), ("soap", 0.006)]
    assert [(r["arm"], r["x"]) for r in points[2][1]] == [("adamw", 0.006), ("lion", 0.006)]
    top = max(r["y"] for r in points[0][1])
    assert all(cross["y"] > top for cross in points[2][1])
    assert points[2][1][0]["y"] != points[2][1][1]["y"]  # not one upon the other
    assert drawn["tuning_lr"]["layer"][0]["encoding"]["x"]["axis"]["values"] == [7.5e-4, 1.5e-3, 3e-3, 6e-3]


def test_a_hyper_parameter_that_may_be_zero_has_a_linear_axis() -> None:
    tuning = Tuning(arm="adamw", rung=0, hyper="weight_decay", values=[0.0, 0.1], quality=[None, None], chosen=0.1)
    spec = render.specification(charts.tuning_curves([tuning], ["adamw"], Scale("bits per byte")))
    assert "type" not in spec["layer"][0]["encoding"]["x"]["scale"]
    ElementTree.fromstring(render.to_svg(spec))


def test_the_same_result_gives_the_same_bytes(drawn: dict[str, Spec], tmp_path: Path) -> None:
    assert json.dumps(specs(make_study())) == json.dumps(drawn)
    for suffix in (".svg", ".png"):
        for copy in "ab":
            render.save(charts.bill(make_study()), tmp_path / f"{copy}{suffix}")
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert ElementTree.fromstring((tmp_path / "a.svg").read_text()).tag.endswith("svg")
    with pytest.raises(UsageError, match=r"use \.svg or \.png"):
        render.save(charts.bill(make_study()), tmp_path / "a.gif")


def test_names_cannot_leave_the_svg() -> None:
    name = "</text><script>alert(1)</script>\x1b"
    study = make_study(
        baseline=name, arms=[name], runs=[make_run("adamw", 0, s).model_copy(update={"arm": name}) for s in range(3)]
    )
    svg = render.to_svg(render.specification(charts.quality(study)))
    assert "<script" not in svg
    assert "\x1b" not in svg
    ElementTree.fromstring(svg)


def test_the_ladder_is_ink_and_many_arms_still_differ() -> None:
    names = [f"arm{i}" for i in range(8)]
    colours, shapes = style.colour_scale(names).to_dict(), style.shape_scale(names).to_dict()
    assert colours["range"][0] == "currentColor"
    assert len(colours["range"]) == len(shapes["range"]) == 8
    assert len(set(zip(colours["range"], shapes["range"], strict=True))) == 8


@given(st.floats(1e-8, 1e24), st.floats(1.02, 1e12))
def test_ticks_lie_on_the_axis_and_are_few(low: float, ratio: float) -> None:
    high = low * ratio
    ticks = style.log_ticks(low, high)
    assert all(low * (1 - 1e-9) <= tick <= high * (1 + 1e-9) for tick in ticks)
    assert ticks == sorted(set(ticks))
    assert 2 <= len(ticks) <= 9


@given(st.floats(0.01, 0.95), st.floats(1.05, 100))
def test_factor_ticks_contain_one(low: float, high: float) -> None:
    ticks = charts._factor_ticks(low, high)
    assert 1.0 in ticks
    assert all(low <= tick <= high for tick in ticks)
    assert len(ticks) <= 14


def test_a_run_s_loss_is_thinned_and_smoothed(tmp_path: Path) -> None:
    record = RunRecord.read(make_run_directory(tmp_path))
    assert list(record.figures()) == ["quality", "loss"]
    many = type(record.steps)(
        {"flops": [1e9 * (i + 1) for i in range(5000)], "loss": [3.0 + (i % 2) for i in range(5000)]}
    )
    spec = render.specification(losses(many))
    raw, smooth = (records for _, records in marks(spec, "line"))
    assert len(raw) <= POINTS
    assert all(math.isclose(point["loss"], 3.5, abs_tol=0.2) for point in smooth)


def test_charts_of_a_rising_quality_say_so_and_put_what_diverged_below() -> None:
    result = make_study(unit="accuracy", higher_is_better=True)
    assert charts.quality_title(result) == "held-out accuracy, higher is better"
    spec = render.specification(charts.tuning_curves(result.tunings, charts.arms_of(result), result.scale))
    assert "accuracy, higher is better" in json.dumps(spec)
    for higher in (False, True):
        records, extent = charts._trials(result.tunings, Scale("accuracy", higher_is_better=higher))
        measured = [record["y"] for record in records if record["state"] != "diverged"]
        diverged = [record["y"] for record in records if record["state"] == "diverged"]
        assert all(extent.low <= y <= extent.high for y in measured + diverged)
        assert all(y < min(measured) if higher else y > max(measured) for y in diverged)
        assert diverged


def test_learning_curves_have_the_band_of_their_seeds(drawn: dict[str, Spec]) -> None:
    band = marks(drawn["learning"], "area")[0][1]
    ours = [run for run in make_study().runs if (run.arm, run.rung, run.role) == ("muon", 0, "evaluation")]
    (end,) = [record for record in band if (record["run"], record["step"]) == ("muon 0", 200)]
    values = [run.curve[-1].value for run in ours]
    assert (end["low"], end["high"], end["seeds"]) == (min(values), max(values), 4)
    assert end["value"] == pytest.approx(sum(values) / 4)
    assert len(band) == (4 + 3) * 4
    said = drawn["learning"]["description"]
    assert f"muon {end['value']:.3f} after 200 steps" in said


def test_multipliers_stand_against_budgets_where_an_arm_has_several() -> None:
    several = [row.model_copy(update={"rung": rung}) for row in make_multipliers() for rung in (0, 1)]
    spec = specs(make_study(multipliers=several))["by_rung"]
    records = marks(spec, "point")[0][1]
    found = {(r["arm"], r["budget"], r["kind"]) for r in records}
    assert found == {
        (a, b, k) for a, k in (("muon", "exact"), ("lion", "below"), ("soap", "above")) for b in (200, 400)
    }
    assert "muon at 400 steps 2.81\u00d7 [2.53, 3.12]" in spec["description"]
    assert "by_rung" not in specs(make_study())


def test_the_bill_shows_what_was_spent_on_ancestors_before() -> None:
    base = Ancestor(name="base", ledger={"train": {"flops": 600.0}, "optimizer": {"flops": 6.0}})
    records = marks(specs(make_study(ancestors={"ab": base}))["bill"], "bar")[0][1]
    assert [(r["phase"], r["flops"]) for r in records if r["arm"] == "spent before"] == [("ancestors", 606.0)]


def test_a_charts_table_has_a_line_for_each_mark(drawn: dict[str, Spec]) -> None:
    lines = render.to_csv(drawn["bill"]).splitlines()
    assert lines[0] == "layer,arm,phase,order,flops,spent"
    assert len(lines) == 1 + len(marks(drawn["bill"], "bar")[0][1])


def test_every_chart_can_be_heard(drawn: dict[str, Spec]) -> None:
    """Its description tells what it shows, and no mark is read out by itself."""
    for name, words in (
        ("quality", "adamw 2.854 at 200 steps"),
        ("multipliers", "muon, FLOPs 2.81\u00d7 [2.53, 3.12]"),
        ("bill", "adamw 32.4 TFLOP"),
        ("tuning_lr", "soap at rung 0 chose 0.006"),
    ):
        assert words in drawn[name]["description"], drawn[name]["description"]
        assert drawn[name]["config"]["mark"] == {"aria": False}

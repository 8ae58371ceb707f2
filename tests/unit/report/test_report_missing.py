"""What is missing, zero, negative or beyond 64 bits: pages are written, their JSON is JSON, nothing is drawn as NaN."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from isoflop.core.files import jsonable
from isoflop.core.scale import Scale
from isoflop.report import charts, fit_charts, render, style, terminal, text
from isoflop.report.page import write_report
from isoflop.report.runs import RunRecord
from isoflop.store.results import Point, RunRow, StudyResult, Tuning
from report_sample import make_run_directory, make_study

Record = dict[str, Any]
HUGE = 10**12
"""FLOPs times this are beyond 64 bits, and beyond 2^64."""


def no_error(record: Record) -> None:
    if record["kind"] == "evaluation":
        record["stderr"] = None


def no_domain(record: Record) -> None:
    if record["kind"] == "evaluation" and record["step"] == 200:
        del record["domains"]["code"]


def one_loss_is_zero(record: Record) -> None:
    if record["kind"] == "step" and record["step"] == 100:
        record["loss"] = 0.0


def losses_are_tiny_or_huge(record: Record) -> None:
    if record["kind"] == "step":
        record["loss"] = 5e-324 if record["step"] == 100 else 1e308 if record["step"] == 200 else 0.0


def values_are_zero_or_less(record: Record) -> None:
    if record["kind"] == "evaluation":
        record["value"] = 0.0 if record["step"] == 200 else -1.0
        record["domains"]["code"] = 0.0


def flops_beyond_64_bits(record: Record) -> None:
    for key in ("flops", "hardware_flops"):
        record[key] *= HUGE


def no_flops(record: Record) -> None:
    record["flops"] = 0


CHANGES = [
    no_error,
    no_domain,
    one_loss_is_zero,
    losses_are_tiny_or_huge,
    values_are_zero_or_less,
    flops_beyond_64_bits,
    no_flops,
]


def changed_run(directory: Path, change: Callable[[Record], None]) -> Path:
    run = make_run_directory(directory)
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for record in records:
        change(record)
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return run


def strict(text: str) -> Any:
    """JSON as a browser reads it: no NaN, no Infinity."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("change", CHANGES)
def test_a_run_is_reported_whatever_it_measured(change: Callable[[Record], None], tmp_path: Path) -> None:
    run = changed_run(tmp_path, change)
    html = write_report(run).read_text()
    data = strict(re.findall(r'<script[^>]*id="data"[^>]*>(.*?)</script>', html, re.DOTALL)[0])
    assert len(data["steps"]) == 200
    for svg in (run / "charts").glob("*.svg"):
        assert not re.search("NaN|Infinity", svg.read_text()), svg.name
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(terminal.run(RunRecord.read(run)))
    assert not re.search(r"\bnan\b|None", console.export_text())


def test_a_missing_standard_error_is_null_on_the_page_and_blank_in_the_table(tmp_path: Path) -> None:
    run = changed_run(tmp_path, no_error)
    assert all("±" not in row[3] for row in RunRecord.read(run).evaluation_sheet().rows)
    assert '"stderr":null' in write_report(run).read_text()


@pytest.mark.parametrize(("change", "logarithmic"), [(no_error, True), (one_loss_is_zero, False)])
def test_losses_have_a_logarithmic_axis_only_where_all_are_positive(
    change: Callable[[Record], None], logarithmic: bool, tmp_path: Path
) -> None:
    record = RunRecord.read(changed_run(tmp_path, change))
    spec = render.specification(record.figures()["loss"])
    scale = spec["layer"][0]["encoding"]["y"]["scale"]
    assert (scale.get("type") == "log") is logarithmic
    assert scale["domain"][0] < min(p["loss"] for p in spec["datasets"][spec["layer"][0]["data"]["name"]])


def with_points(change: Callable[[RunRow, Point], dict[str, Any]]) -> StudyResult:
    runs = []
    for run in make_study().runs:
        points = [point.model_copy(update=change(run, point)) for point in run.curve]
        runs.append(run.model_copy(update={"curve": points}))
    return make_study(runs=runs)


def tuned(quality: float | None) -> list[Tuning]:
    """Tunings in which the second value of each had this quality."""
    return [
        tuning.model_copy(update={"quality": [quality if i == 1 else q for i, q in enumerate(tuning.quality)]})
        for tuning in make_study().tunings
    ]


STUDIES: dict[str, Callable[[], StudyResult]] = {
    "huge": lambda: with_points(lambda _, p: {"flops": p.flops * HUGE, "hardware_flops": p.hardware_flops * HUGE}),
    "zero": lambda: with_points(lambda r, p: {"value": 0.0} if (r.arm, r.seed) == ("muon", 1) else {}),
    "negative": lambda: with_points(lambda _, p: {"value": p.value - 3}),
    "free": lambda: with_points(lambda r, _: {"flops": 0} if r.arm == "lion" else {}),
    "tuned to zero": lambda: make_study(tunings=tuned(0.0)),
    "tuned below zero": lambda: make_study(tunings=tuned(-1.0)),
    "nothing tuned": lambda: make_study(tunings=[t.model_copy(update={"quality": [None] * 4}) for t in tuned(1.0)]),
}


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_is_drawn_whatever_it_measured(name: str) -> None:
    for chart in charts.figures(STUDIES[name]()).values():
        spec = render.specification(chart)
        assert not re.search("NaN|Infinity", render.to_svg(spec))
        numbers = [v for data in spec["datasets"].values() for row in data for v in row.values()]
        assert all(not isinstance(v, int) or isinstance(v, bool) for v in numbers), "Vega's numbers are floats"


def test_diverged_trials_stand_above_all_others_on_a_linear_axis_too() -> None:
    tunings = tuned(-1.0)
    spec = render.specification(charts.tuning_curves(tunings, ["adamw"], Scale("reward")))
    scale = spec["layer"][0]["encoding"]["y"]["scale"]
    points = [row for data in spec["datasets"].values() for row in data]
    tops = [row["y"] for row in points if row["state"] == "diverged"]
    assert scale.get("type") is None
    assert min(tops) > max(row["y"] for row in points if row["state"] != "diverged")
    assert max(tops) <= scale["domain"][1]


def test_an_open_interval_reaches_the_edge_of_its_axis_and_is_not_drawn_as_none() -> None:
    log, linear = style.Extent(1.0, 4.0, True), style.Extent(-1.0, 1.0, False)
    assert log.within(None, 2.0) == {"low": 1.0, "high": 2.0}
    assert log.within(2.0, math.inf) == {"low": 2.0, "high": 4.0}
    assert log.within(-3.0, 0.5) == {"low": 1.0, "high": 1.0}
    assert linear.within(math.nan, None) == {"low": -1.0, "high": 1.0}
    rows = [{"predicted": 2.0, "low": None, "high": 3.0}, {"predicted": None, "low": None, "high": None}]
    assert fit_charts._drawn(rows, log) == [{"predicted": 2.0, "low": 1.0, "high": 3.0}]


def test_one_domain_alone_is_not_told_twice(tmp_path: Path) -> None:
    """Its values are those of the whole: no second line over the first, no column of the same numbers."""

    def alone(record: Record) -> None:
        if record["kind"] == "evaluation":
            record["domains"] = {"text": record["value"]}

    found = RunRecord.read(changed_run(tmp_path, alone))
    assert found.evaluation_sheet().columns[-1] == found.scale.unit
    drawn = render.specification(found.figures()["quality"])
    assert {point["of"] for points in drawn["datasets"].values() for point in points} == {"all"}


def test_a_domain_called_all_stays_apart_from_the_mean(tmp_path: Path) -> None:
    def rename(record: Record) -> None:
        if record["kind"] == "evaluation":
            record["domains"] = {"all": 1.0, "code": 2.0}

    figure = RunRecord.read(changed_run(tmp_path, rename)).figures()["quality"]
    points = next(iter(render.specification(figure)["datasets"].values()))
    assert {(p["of"], p["value"]) for p in points if p["of"] != "all domains"} == {("all", 1.0), ("code", 2.0)}


@given(values=st.lists(st.none() | st.floats() | st.integers(-(10**400), 10**400), max_size=6), share=st.floats(0, 0.5))
def test_an_axis_is_always_a_finite_range_with_finite_ticks(values: list[Any], share: float) -> None:
    extent = style.Extent.of(values, share)
    assert math.isfinite(extent.low)
    assert extent.low < extent.high < math.inf
    assert extent.log == all(v > 0 for v in values if text.known(v) is not None)
    assert extent.raised(0.2).high >= extent.high
    strict(json.dumps([extent.scale().to_dict(), extent.axis("t").to_dict()]))


@pytest.mark.parametrize("missing", [math.nan, math.inf, -math.inf])
def test_a_missing_number_is_null_in_json_and_readable_in_words(missing: float) -> None:
    tree = {"a": missing, "b": [1, (missing, "x")], "c": {"d": np.float64(missing)}, "e": np.asarray([1.0, missing])}
    assert jsonable(tree) == {"a": None, "b": [1, [None, "x"]], "c": {"d": None}, "e": [1.0, None]}
    assert jsonable({"n": np.int64(3), "big": 10**30, "yes": np.bool_(True), "t": "x"}) == {
        "n": 3, "big": 10**30, "yes": True, "t": "x",
    }  # fmt: skip
    for axis in text.AXES:
        assert text.amount(axis, missing)

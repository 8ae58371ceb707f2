"""The page of a law's fit: what the stored JSON becomes in charts, tables and words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isoflop.core.errors import DataError
from isoflop.core.files import write_json
from isoflop.core.table import Table
from isoflop.laws import Chinchilla, fit_table, simulate
from isoflop.report import fit_charts, render
from isoflop.report.fits import FitRecord, power
from isoflop.report.page import fit_page, write_report
from laws_planted import CHINCHILLA, SWEEP


@pytest.fixture(scope="module")
def stored() -> dict[str, Any]:
    table = simulate(Chinchilla(), CHINCHILLA, Table({"N": SWEEP["N"], "D": SWEEP["D"]}), 0.002, seed=0)
    return fit_table(table, "auto").to_json(source="sweep.csv")


@pytest.fixture(scope="module")
def line() -> dict[str, Any]:
    """A named law of compute alone."""
    compute = np.geomspace(1e17, 1e20, 9)
    loss = (1.7 + 3000 / compute**0.19) * np.exp(0.002 * np.cos(7.0 * np.arange(9)))
    return fit_table(Table({"C": compute, "loss": loss}), "power_floor").to_json()


def record(stored: dict[str, Any], **changes: Any) -> FitRecord:
    return FitRecord.model_validate({**stored, **changes})


def specification(fit: FitRecord, name: str) -> dict[str, Any]:
    return render.specification(fit_charts.figures(fit)[name])


def layers(fit: FitRecord, name: str) -> list[dict[str, Any]]:
    """The layers of a chart, each with the records that it draws under "values"."""
    spec = specification(fit, name)
    own = [layer.get("data") or spec["data"] for layer in spec["layer"]]
    drawn = [spec.get("datasets", {}).get(data.get("name")) or data["values"] for data in own]
    return [{**layer, "values": values} for layer, values in zip(spec["layer"], drawn, strict=True)]


def test_the_page_shows_everything_a_fit_has(stored: dict[str, Any], tmp_path: Path) -> None:
    write_json(tmp_path / "fit.json", stored)
    page = write_report(tmp_path).read_text()
    for heading in (
        "Fit",
        "Constants",
        "Residuals",
        "Extrapolation",
        "IsoFLOP curves",
        "Comparison by extrapolation",
        "Sensitivity",
        "Settings",
        "Data",
    ):
        assert f">{heading}</h2>" in page
    names = {"fit", "residuals", "ahead", "isoflops", "forecasts"}
    assert {path.stem for path in (tmp_path / "charts").glob("*.svg")} == names
    assert {path.stem for path in (tmp_path / "charts").glob("*.png")} == names
    assert "without the cheapest 10 %" in page
    assert "fitted to sweep.csv" in page
    assert "causal-exact" not in page.partition("application/json")[0]  # FLOPs here are the table's


def test_the_download_is_the_stored_fit(stored: dict[str, Any]) -> None:
    page = fit_page(record(stored), {})
    data = page.partition('id="data">')[2].partition("</script>")[0]
    assert json.loads(data) == stored


def test_constants_have_intervals_and_what_is_not_known_is_said(line: dict[str, Any]) -> None:
    ridge = {"low": None, "high": 1.9, "level": 0.95, "verdict": "unidentified", "reason": "a ridge"}
    stored = line["fit"]
    fit = record(line, fit={**stored, "intervals": {**stored["intervals"], "E": ridge}})
    cells = {row[0]: row[1:] for row in fit.constant_sheet().rows}
    assert cells["E"][1:] == ("open", "1.900", "unidentified")
    assert cells["a"][-1] == "identified"
    assert float(cells["a"][1]) < stored["params"]["a"] < float(cells["a"][2])
    assert fit.headline().endswith("Not determined by these rows: E.")
    assert "<li>E is unidentified: a ridge</li>" in fit_page(fit, {})


def test_a_fit_that_did_not_converge_shows_no_constants(stored: dict[str, Any]) -> None:
    certificate = {**stored["fit"]["certificate"], "converged": False}
    warned = {**stored["fit"], "certificate": certificate, "intervals": {}, "warnings": ["it did NOT converge"]}
    fit = record(stored, fit=warned)
    assert fit.constant_sheet().rows == []
    page = fit_page(fit, {})
    assert "did not converge" in fit.headline()
    assert "<h2>Constants</h2>" not in page
    assert "<li>it did NOT converge</li>" in page


def test_the_headline_predicts_ten_times_the_compute(stored: dict[str, Any]) -> None:
    ten = next(row for row in stored["ahead"] if row["times"] == 10)
    headline = record(stored).headline()
    for name in ("predicted", "low", "high"):
        assert f"{ten[name]:.4g}" in headline


def test_a_law_of_compute_alone_is_a_line_in_a_band(line: dict[str, Any], stored: dict[str, Any]) -> None:
    marks = [layer["mark"]["type"] for layer in specification(record(line), "fit")["layer"]]
    assert marks == ["area", "line", "point"]
    marks = [layer["mark"]["type"] for layer in specification(record(stored), "fit")["layer"]]
    assert marks == ["rule", "point", "tick"]


def test_what_lies_ahead_begins_at_the_dearest_row(stored: dict[str, Any]) -> None:
    top = max(stored["points"], key=lambda row: row["compute"])
    ahead = layers(record(stored), "ahead")[2]["values"]
    assert [row["times"] for row in ahead] == [1, 3, 10, 30, 100]
    assert ahead[0]["predicted"] == top["predicted"]
    assert ahead[-1]["compute"] == pytest.approx(100 * top["compute"])
    scaled = stored["ahead"][-1]
    assert 6 * scaled["N"] * scaled["D"] == pytest.approx(ahead[-1]["compute"])


def test_residuals_are_in_percent_where_they_are_relative(stored: dict[str, Any]) -> None:
    first = stored["points"][0]["residual"]
    drawn = layers(record(stored), "residuals")[1]["values"][0]["off"]
    plain = layers(record(stored, relative=False), "residuals")[1]["values"][0]["off"]
    assert (drawn, plain) == (pytest.approx(100 * first), pytest.approx(first))


def test_a_likelihood_has_no_residuals_to_draw(stored: dict[str, Any]) -> None:
    points = [{**row, "residual": 0.0} for row in stored["points"]]
    assert "residuals" not in fit_charts.figures(record(stored, points=points))


def test_optima_lie_on_their_curves(stored: dict[str, Any]) -> None:
    fit = record(stored)
    curves = [curve for curve in fit.isoflops if curve.best_N is not None]
    optima = next(layer["values"] for layer in layers(fit, "isoflops") if layer["mark"].get("shape") == "diamond")
    assert [row["N"] for row in optima] == [curve.best_N for curve in curves]
    for curve, row in zip(curves, optima, strict=True):
        assert row["loss"] == curve.loss[curve.N.index(row["N"])] == min(v for v in curve.loss if v)
    cells = next(row for row in fit.optimum_sheet().rows if row[0] == power(curves[0].compute))
    assert float(cells[3]) == pytest.approx(curves[0].compute / 6 / curves[0].best_N ** 2, rel=0.01)


def test_an_optimum_beyond_the_sizes_is_not_claimed(stored: dict[str, Any]) -> None:
    curves = [{**curve, "best_N": None} for curve in stored["isoflops"]]
    fit = record(stored, isoflops=curves)
    assert {row[1] for row in fit.optimum_sheet().rows} == {"outside the sizes drawn"}
    render.to_svg(specification(fit, "isoflops"))


def test_the_comparison_is_listed_as_ranked_and_its_misses_are_hollow(stored: dict[str, Any]) -> None:
    cut, *others = stored["comparison"]["forecasts"]
    missed = {**cut, "high": [cut["observed"][0] - 0.01, *cut["high"][1:]], "low": [None, *cut["low"][1:]]}
    stored = {**stored, "comparison": {**stored["comparison"], "forecasts": [missed, *others]}}
    fit = record(stored)
    assert [row[0] for row in fit.score_sheet().rows] == [score["law"] for score in stored["comparison"]["scores"]]
    drawn = layers(fit, "forecasts")[-1]["values"]
    made = [dict(zip(cut, row, strict=True)) for cut in _forecasts(stored) for row in zip(*cut.values(), strict=True)]
    assert [row["inside"] for row in drawn] == [int((r["low"] or 0) <= r["observed"] <= r["high"]) for r in made]
    assert drawn[0]["inside"] == 0
    failed = {"law": "kaplan", "error": None, "failed": "too few rows"}
    comparison = {**stored["comparison"], "scores": [failed], "forecasts": []}
    assert record(stored, comparison=comparison).score_sheet().rows[0][-1] == "too few rows"


def _forecasts(stored: dict[str, Any]) -> list[dict[str, list[float]]]:
    return [{k: v for k, v in cut.items() if k != "cut"} for cut in stored["comparison"]["forecasts"]]


def test_a_named_law_has_no_comparison(line: dict[str, Any]) -> None:
    fit = record(line, comparison=None)
    assert fit.score_sheet().rows == []
    assert set(fit_charts.figures(fit)) == {"fit", "residuals", "ahead"}
    assert "Comparison" not in fit_page(fit, {})


@pytest.mark.parametrize("missing", ["low", "high"])
def test_open_intervals_and_negative_targets_are_drawn(line: dict[str, Any], missing: str) -> None:
    points = [{**row, missing: None, "observed": row["observed"] - 5} for row in line["points"]]
    ahead = [{**row, missing: None} for row in line["ahead"]]
    fit = record(line, points=points, ahead=ahead)
    for chart in fit_charts.figures(fit).values():
        assert "<svg" in render.to_svg(render.specification(chart))
    assert "open" in fit.ahead_sheet().rows[0]


def test_the_compute_axis_says_what_it_is(stored: dict[str, Any]) -> None:
    assert record(stored).axis_title() == "training compute 6 N D, FLOPs"
    assert record(stored, axis="seen").axis_title() == "seen"
    assert "own measure" in record(stored, axis="").axis_title()


@pytest.mark.parametrize("broken", [{}, {"fit": 3}, [], {"points": [{"compute": "1"}]}, {"level": 2.0}, {"axis": None}])
def test_what_is_no_fit_is_refused_by_name(stored: dict[str, Any], tmp_path: Path, broken: Any) -> None:
    tree = {**stored, **broken} if broken else broken
    write_json(tmp_path / "fit.json", tree)
    with pytest.raises(DataError, match=r"fit\.json"):
        write_report(tmp_path)


def test_hostile_names_stay_text(stored: dict[str, Any]) -> None:
    hostile = "</script><script>alert(1)</script>\x1b"
    fit = {**stored["fit"], "warnings": [hostile], "params": {hostile: 1.0}, "intervals": {}}
    page = fit_page(record(stored, source=hostile, text=hostile, fit=fit), {})
    assert "<script>alert" not in page
    assert "\x1b" not in page.partition("application/json")[0]


@pytest.mark.parametrize(
    ("value", "text"), [(5.7634e23, "5.76e23"), (1e21, "1e21"), (1234.5, "1230"), (0.0123, "0.0123")]
)
def test_large_numbers_are_written_as_powers(value: float, text: str) -> None:
    assert power(value) == text


def test_sensitivity_is_stored_and_listed_as_a_table(stored: dict[str, Any], line: dict[str, Any]) -> None:
    for document in (stored, line):
        fit = record(document)
        sheet = fit.sensitivity_sheet()
        names = list(document["fit"]["intervals"])
        assert sheet.columns == ("choice", "rows", *names, "")
        assert [row[0] for row in sheet.rows] == [variant["choice"] for variant in document["sensitivity"]]
        first = dict(zip(sheet.columns, sheet.rows[0], strict=True))
        assert first["choice"] == "as fitted"
        assert all(float(first[name]) == pytest.approx(document["fit"]["params"][name], rel=1e-3) for name in names)


def test_what_a_refit_could_not_do_is_said_in_its_line(line: dict[str, Any]) -> None:
    lost = {"choice": "loss l1", "rows": 9, "params": {}, "failed": "did not converge"}
    far = {"choice": "loss l2", "rows": 9, "params": {"E": None, "a": 2.0, "b": 0.1}}
    rows = record(line, sensitivity=[lost, far]).sensitivity_sheet().rows
    assert (rows[0][1], rows[0][-1], set(rows[0][2:-1])) == ("9", "did not converge", {""})
    assert "2.000" in rows[1]


def test_a_document_of_old_has_its_table_in_its_text(stored: dict[str, Any]) -> None:
    """Nothing is cut out of a printed report: text that looks like one is only shown."""
    old = {key: value for key, value in stored.items() if key not in ("sensitivity", "source")}
    fit = FitRecord.model_validate({**old, "text": "a\nsensitivity\nforged"})
    page = fit_page(fit, {})
    assert "<h2>Sensitivity</h2>" not in page
    assert "forged" in page

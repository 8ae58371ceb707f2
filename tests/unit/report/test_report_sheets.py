"""What the tables say: multipliers and bounds, equal cost or a refusal, the bill, tuning."""

from __future__ import annotations

import math
from typing import Any

import pytest

from isoflop.core.files import write_json
from isoflop.report import sheets
from isoflop.report.text import MINUS
from isoflop.store.results import MultiplierRow, RunRow, StudyResult
from report_sample import make_multipliers, make_run, make_study


def column(sheet: sheets.Sheet, name: str) -> list[str]:
    return [row[sheet.columns.index(name)] for row in sheet.rows]


def test_every_multiplier_has_its_line() -> None:
    sheet = sheets.multiplier_sheet(make_study())
    assert column(sheet, "multiplier") == [
        "2.81× [2.53, 3.12]",
        "3.18× [2.86, 3.53]",
        "< 1.00×",
        "> 7.41×",
        "1.12× [0.93, 1.35]",
    ]
    assert column(sheet, "verdict") == ["better", "better", "4 of 4 below", "3 of 4 above", "not significant"]
    assert column(sheet, "axis") == ["FLOPs", "tokens", "FLOPs", "FLOPs", "FLOPs, all-in"]
    assert column(sheet, "p") == ["<0.001", "<0.001", "", "", "0.14"]
    assert column(sheet, "rung") == ["0"] * 5
    assert "200 · 400 · 800 · 1,600 steps" in sheet.note


def test_only_the_axes_asked_for_are_listed() -> None:
    study = make_study()
    assert column(sheets.multiplier_sheet(study, sheets.asked(study)), "axis") == ["FLOPs"] * 3
    others = sheets.asked(study, others=True)
    assert column(sheets.multiplier_sheet(study, others), "axis") == ["tokens", "FLOPs, all-in"]
    tokens = make_study(multipliers=[row for row in study.multipliers if row.axis == "tokens"])
    assert column(sheets.multiplier_sheet(tokens, sheets.asked(tokens)), "axis") == ["tokens"]
    assert sheets.asked(tokens, others=True) == []


def test_a_narrow_interval_is_printed_with_more_digits() -> None:
    narrow = make_multipliers()[0].model_copy(update={"value": 0.896, "low": 0.8863, "high": 0.9058})
    assert sheets.multiplier_text(narrow) == "0.896× [0.886, 0.906]"


def test_the_note_says_at_which_level_the_intervals_are() -> None:
    rows = make_multipliers()
    assert "Intervals are at 95 %, paired over seeds." in sheets.multiplier_sheet(make_study()).note
    rows[0] = rows[0].model_copy(update={"level": 1 - 0.05 / 3})
    note = sheets.multiplier_sheet(make_study(multipliers=rows)).note
    assert "Intervals are at 95 to 98.3 %, paired over seeds." in note


def test_each_word_of_the_trade_is_explained_where_it_stands() -> None:
    """And only there: a table without censored rows says nothing of them."""
    study = make_study()
    note = sheets.multiplier_sheet(study).note
    for explained in (
        "A rung is a budget of adamw's ladder, 0 to 3: 200 \N{MIDDLE DOT} 400",
        "corrected by Holm: the more rows an axis has, the surer each must be",
        "there only a bound is known (they are censored)",
        "All-in charges tuning too",
    ):
        assert explained in note
    plain = sheets.multiplier_sheet(study, [row for row in sheets.asked(study) if row.value is not None]).note
    assert "censored" not in plain
    assert "All-in" not in plain


def test_a_result_of_straight_lines_says_so() -> None:
    assert "straight lines" in sheets.multiplier_sheet(make_study(estimator="chord")).note
    assert "straight lines" not in sheets.multiplier_sheet(make_study(estimator="cubic")).note


def test_a_result_stored_before_estimators_had_names_was_made_with_straight_lines(tmp_path) -> None:
    tree = make_study(estimator="cubic").model_dump(mode="json")
    del tree["estimator"]
    for row in tree["multipliers"]:
        del row["interpolation"]
    write_json(tmp_path / "study.json", tree)
    old = StudyResult.read(tmp_path / "study.json")
    assert old.estimator == "chord"
    assert {row.interpolation for row in old.multipliers} == {0.0}


def test_a_worse_arm_and_seeds_on_both_sides() -> None:
    worse = make_multipliers()[0].model_copy(update={"value": 0.5, "low": 0.4, "high": 0.6})
    mixed = MultiplierRow(arm="m", rung=0, axis="flops", censored="mixed", censored_seeds=2, seeds=4)
    assert sheets.verdict(worse) == "worse"
    assert (sheets.multiplier_text(mixed), sheets.verdict(mixed)) == ("no value", "2 of 4 beyond")


def test_equal_cost_refuses_more_than_one_per_cent() -> None:
    sheet = sheets.equal_sheet(make_study())
    muon = [row for row in sheet.rows if row[0] == "muon"]
    assert [row[2] for row in muon] == ["FLOPs", "steps"]
    assert muon[0][3:6] == ("refused: 13.0 % apart", "", "")
    lion = [row for row in sheet.rows if row[0] == "lion"]
    assert [row[2] for row in lion] == ["FLOPs, steps"]  # equal on both, said once
    assert not any(row[0] == "adamw" for row in sheet.rows)


def at_cost(factor: float) -> list[RunRow]:
    """Two arms, three seeds at one rung; the arm's FLOPs are ``factor`` of the baseline's."""
    runs = []
    for seed, gap in enumerate((0.1, 0.2, 0.3)):
        base = make_run("adamw", 0, seed)
        end = base.curve[-1].model_copy(update={"value": 3.0, "flops": 1_000_000})
        ours = end.model_copy(update={"value": 3.0 - gap, "flops": round(1_000_000 * factor)})
        runs += [base.model_copy(update={"curve": [end]}), base.model_copy(update={"arm": "lion", "curve": [ours]})]
    return runs


@pytest.mark.parametrize(("factor", "compared"), [(1.0099, True), (1.011, False), (0.991, True), (0.989, False)])
def test_the_limit_of_equal_cost(factor: float, compared: bool) -> None:
    sheet = sheets.equal_sheet(make_study(runs=at_cost(factor), rung_axis="flops", arms=["adamw", "lion"]))
    assert column(sheet, "difference")[0].startswith("refused") is not compared


def test_the_difference_has_student_s_interval_paired_over_seeds() -> None:
    cell = column(
        sheets.equal_sheet(make_study(runs=at_cost(1.0), rung_axis="flops", arms=["adamw", "lion"])), "difference"
    )[0]
    half = 4.302653 * 0.1 / math.sqrt(3)  # t quantile with 2 degrees of freedom
    minus = "\N{MINUS SIGN}"
    assert cell == f"{minus}0.2000 [{minus}{0.2 + half:.4f}, +{half - 0.2:.4f}]"
    two = [run for run in at_cost(1.0) if run.seed < 2]
    cell = column(sheets.equal_sheet(make_study(runs=two, rung_axis="flops", arms=["adamw", "lion"])), "difference")[0]
    assert cell == f"{minus}0.1500"


def test_runs_that_failed_have_no_end() -> None:
    runs = [make_run("adamw", 0, 0), make_run("adamw", 0, 1).model_copy(update={"status": "diverged", "curve": []})]
    assert set(sheets.evaluation_ends(make_study(runs=runs))["adamw", 0]) == {0}
    cells = sheets.run_sheet(make_study(runs=runs)).rows[1]
    assert cells[5:9] == ("diverged", "", "", "")


def test_a_run_is_told_from_the_others_of_its_arm() -> None:
    sheet = sheets.run_sheet(make_study())
    apart = [tuple(row[sheet.columns.index(name)] for name in ("arm", "rung", "tuned value", "seed", "directory"))
             for row in sheet.rows]  # fmt: skip
    assert len(set(apart)) == len(apart)
    assert {cells[2] for cells in apart if cells[3] == "100"} == {"lr 0.00075", "lr 0.0015", "lr 0.003", "lr 0.006"}


def test_the_bill_adds_up_and_leaves_out_axes_without_amounts() -> None:
    sheet = sheets.bill_sheet(
        {"train": {"flops": 2e12, "steps": 1600, "moved": 0}, "recompute": {"flops": 0}, "tuning": {"flops": 1e12}}
    )
    assert sheet.columns == ("phase", "FLOPs", "steps")
    assert sheet.rows == [
        ("train", "2.00 TFLOP", "1,600"),
        ("tuning", "1.00 TFLOP", "\N{EN DASH}"),
        ("total", "3.00 TFLOP", "1,600"),
    ]
    assert sheets.bill_sheet({}).rows == []


def test_tuning_tells_what_was_tried_and_whether_it_was_fair() -> None:
    sheet = sheets.tuning_sheet(make_study())
    assert column(sheet, "") == ["1 diverged", "", "", "1 diverged", "optimum at the edge of the grid"]
    assert "every arm got 4 trials" in sheet.note
    assert "differ from evaluation seeds" in sheet.note

    changes: dict[str, Any] = {"tunings": make_study().tunings[:-1]}  # soap was not tuned
    assert "unequal numbers of trials" in sheets.tuning_sheet(make_study(**changes)).note
    shared_seed = [make_run("adamw", 0, 0, "tuning"), make_run("adamw", 0, 0)]
    assert "overlap with evaluation seeds" in sheets.tuning_sheet(make_study(runs=shared_seed)).note


def test_rungs_are_named_on_their_axis() -> None:
    study = make_study(rung_axis="flops", rungs=[1e12, 2e12])
    assert sheets.ladder(study) == "1.00 TFLOP · 2.00 TFLOP"
    assert sheets.rung_budget(study, 1) == "2.00 TFLOP"
    assert sheets.rung_budget(study, 7) == "7"
    assert sheets.ladder(make_study(rung_axis="tokens", rungs=[1e5, 2e5])) == "100 k · 200 k tokens"


def bounded(result: StudyResult, *arms: str) -> StudyResult:
    """The result with the qualities of some arms as bounds."""

    def marked(run: RunRow) -> RunRow:
        curve = [point.model_copy(update={"bound": run.arm in arms}) for point in run.curve]
        return run.model_copy(update={"curve": curve})

    return result.model_copy(update={"runs": [marked(run) for run in result.runs]})


def test_a_bound_is_printed_as_one_wherever_it_stands() -> None:
    result = bounded(make_study(), "muon")
    values = {row[0]: row[6] for row in sheets.run_sheet(result).rows if row[5] == "done"}
    assert values["muon"].startswith("<= ")
    assert not values["adamw"].startswith("<= ")
    best = {row[0]: row[5] for row in sheets.tuning_sheet(result).rows}
    assert best["muon"].startswith("<= ")
    assert not best["lion"].startswith("<= ")
    assert sheets.quality_title(result) == "held-out bits per byte (bounds: muon), lower is better"


@pytest.mark.parametrize(
    ("arms", "sign"), [((), ""), (("muon",), "<= "), (("adamw",), ">= "), (("muon", "adamw"), "of")]
)
@pytest.mark.parametrize("higher", [False, True])
def test_a_difference_of_bounds_is_at_least_or_at_most_what_it_shows(
    arms: tuple[str, ...], sign: str, higher: bool
) -> None:
    ends = [run for run in make_study().runs if run.role == "evaluation" and run.rung == 0]
    result = make_study(runs=ends, unit="accuracy" if higher else "bits per byte", higher_is_better=higher)
    sheet = sheets.equal_sheet(bounded(result, *arms))
    at = sheet.columns.index("difference")
    shown = next(row[at] for row in sheet.rows if row[0] == "muon" and "FLOPs" not in row[2])
    turned = {"<= ": ">= ", ">= ": "<= "}.get(sign, sign) if higher else sign
    assert shown.startswith(turned)
    assert shown[0] in turned + "+" + MINUS
    assert f"({'higher' if higher else 'lower'} is better)" in sheet.note


def test_the_best_of_a_rising_quality_is_its_highest() -> None:
    result = make_study(unit="accuracy", higher_is_better=True)
    for row, tuning in zip(sheets.tuning_sheet(result).rows, result.tunings, strict=True):
        assert row[5] == f"{max(q for q in tuning.quality if q is not None):.4f}"


def test_a_multiplier_of_bounds_is_at_least_or_at_most_what_it_shows() -> None:
    row = make_multipliers()[0]
    texts = [sheets.multiplier_text(row.model_copy(update={"bounds": of})) for of in ("", "arm", "baseline")]
    assert texts == ["2.81× [2.53, 3.12]", ">= 2.81× [2.53, 3.12]", "<= 2.81× [2.53, 3.12]"]
    worse = row.model_copy(update={"value": 0.5, "low": 0.4, "high": 0.6})
    for of, told in {
        "": ("better", "worse"),
        "arm": ("better", "only a bound"),
        "baseline": ("only a bound", "worse"),
        "both": ("better, by bounds", "worse, by bounds"),
    }.items():
        assert tuple(sheets.verdict(each.model_copy(update={"bounds": of})) for each in (row, worse)) == told
    assert (
        ">= and <=" in sheets.multiplier_sheet(make_study(multipliers=[row.model_copy(update={"bounds": "arm"})])).note
    )

"""The terminal tables: they fit 80 columns and print names as they are."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from isoflop.report.runs import RunRecord
from isoflop.report.terminal import print_run, print_study
from isoflop.store.results import StudyResult
from report_sample import make_multipliers, make_run_directory, make_study


def printed(result: StudyResult, width: int, *, terminal: bool = False, everything: bool = False) -> str:
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=terminal, color_system="truecolor" if terminal else None)
    print_study(result, console, everything=everything)
    return file.getvalue()


def test_eighty_columns_hold_every_multiplier_on_one_line() -> None:
    shown = printed(make_study(), 80, everything=True)
    assert max(len(line) for line in shown.splitlines()) <= 80
    lines = shown.partition("Compute multiplier over")[2].splitlines()
    found = {line.split()[0] + line.split()[1]: line for line in lines if line.startswith(("muon", "soap", "lion"))}
    assert "2.81× [2.53, 3.12]" in next(line for line in lines if line.startswith("muon") and "FLOPs" in line)
    assert "not significant" in next(line for line in lines if "all-in" in line and line.startswith("muon"))
    assert any("> 7.41×" in line for line in lines)
    assert found


def test_each_arm_has_one_line_unless_everything_is_asked_for() -> None:
    """Four lines of a table for four arms; the other axes, and tuning charged, are behind a switch."""

    def multipliers(shown: str) -> list[str]:
        table = shown.partition("Compute multiplier over adamw")[2].partition("The multiplier is how")[0]
        return [line.split()[0] for line in table.splitlines() if line.startswith(("muon", "lion", "soap"))]

    shown = printed(make_study(), 100)
    assert multipliers(shown) == ["muon", "lion", "soap"]
    assert "so has --all here" in shown
    assert "all-in" not in shown
    assert shown.index("Bits per byte at equal cost") < shown.index("Compute multiplier over adamw")
    everything = printed(make_study(), 100, everything=True)
    assert multipliers(everything) == ["muon", "muon", "lion", "soap", "muon"]
    assert "--all" not in everything


@pytest.mark.parametrize("width", [60, 80])
def test_no_word_or_number_is_cut(width: int) -> None:
    """What is too wide goes on in the next line."""
    wide = printed(make_study(), 400)
    assert "\N{HORIZONTAL ELLIPSIS}" not in printed(make_study(), width)
    words = {word for word in wide.split() if len(word) < 9 and word.isalnum()}
    assert words <= set(printed(make_study(), width).split())


@pytest.mark.parametrize("width", [40, 60, 200])
def test_any_width_holds_every_cell(width: int) -> None:
    shown = printed(make_study(), width)
    assert max(len(line) for line in shown.splitlines()) <= width
    assert "2.81x" in shown
    assert "train" in shown


def test_the_bill_headline_and_notes_are_there() -> None:
    shown = printed(make_study(), 120)
    for wanted in (
        "as much (95 % interval 2.53 to 3.12",
        "Bill by phase",
        "41.0 TFLOP",
        "No arm has a multiplier on seconds",
        "say nothing of 360M",
        "What made the runs",
        "4f0c1d200000  ",
        "5a1b2c300000, changed  NVIDIA H100",
    ):
        assert wanted in shown


def test_names_are_neither_markup_nor_escape_sequences() -> None:
    name = "[red]\x1b]0;owned\x07\x1b[2Jx"
    rows = [make_multipliers()[0].model_copy(update={"arm": name})]
    study = make_study(multipliers=rows, headline=f"{name} wins", notes=[name], tunings=[], bill={name: {"flops": 1.0}})
    shown = printed(study, 100, terminal=True)
    assert shown.count("[red]]0;owned[2Jx") == 4  # headline, multiplier, bill, note
    assert "\x07" not in shown
    assert "\x1b]" not in shown
    assert "\x1b[2J" not in shown


def test_a_run_prints_its_evaluations_and_ledger(tmp_path: Path) -> None:
    file = io.StringIO()
    print_run(RunRecord.read(make_run_directory(tmp_path)), Console(file=file, width=80))
    shown = file.getvalue()
    for wanted in ("muon-0123456789ab: done", "2.5190 ± 0.0040", "documentation", "754 GFLOP"):
        assert wanted in shown

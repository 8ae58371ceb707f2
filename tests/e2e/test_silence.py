"""A run says what it does before its first line, if that takes long."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import isoflop.lab.compare
import isoflop.report.page
import isoflop.train.run
from isoflop.cli import common, studies
from isoflop.cli.common import patience
from isoflop.cli.main import invoke
from report_sample import make_study


def test_preparing_is_said_and_ends_with_the_first_step(
    tiny: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assemble = isoflop.train.run.assemble

    def slow(*arguments: Any) -> Any:
        time.sleep(0.5)
        return assemble(*arguments)

    monkeypatch.setattr(isoflop.train.run, "assemble", slow)
    monkeypatch.setattr(common, "patience", lambda doing: patience(doing, after=0.1, every=0.1))
    assert invoke(["train", str(tiny()), "--root", str(tmp_path / "runs")]) == 0
    lines = capsys.readouterr().err.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("step "))
    assert any(line.startswith("preparing the text and the model: ") for line in lines[:first])
    assert not any(line.startswith("preparing") for line in lines[first:])


def test_a_study_is_prepared_and_drawn_with_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the command to the first run that ends, and from the last one to the page."""
    study = make_study()

    def slow(*_: Any, progress: Callable[[str], None], **__: Any) -> Any:
        time.sleep(0.5)
        progress("tuning 1/1")
        return study

    def drawn(directory: Path) -> Path:
        time.sleep(0.5)
        return directory / "report.html"

    study.write(study.home(tmp_path) / "study.json")
    monkeypatch.setattr(isoflop.lab.compare, "compare", slow)
    monkeypatch.setattr(isoflop.report.page, "write_report", drawn)
    for module in (common, studies):
        monkeypatch.setattr(module, "patience", lambda doing: patience(doing, after=0.1, every=0.1))
    assert invoke(["compare", "demo", "--root", str(tmp_path)]) == 0
    lines = [line.partition(": ")[0] for line in capsys.readouterr().err.splitlines()]
    assert list(dict.fromkeys(lines)) == ["preparing the text and the first runs", "tuning 1/1", "drawing the report"]

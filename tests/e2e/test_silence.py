"""A run says what it does before its first line, if that takes long."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import isoflop.train.run
from isoflop.cli import training
from isoflop.cli.common import patience
from isoflop.cli.main import invoke


def test_preparing_is_said_and_ends_with_the_first_step(
    tiny: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assemble = isoflop.train.run.assemble

    def slow(*arguments: Any) -> Any:
        time.sleep(0.5)
        return assemble(*arguments)

    monkeypatch.setattr(isoflop.train.run, "assemble", slow)
    monkeypatch.setattr(training, "patience", lambda doing: patience(doing, after=0.1, every=0.1))
    assert invoke(["train", str(tiny()), "--root", str(tmp_path / "runs")]) == 0
    lines = capsys.readouterr().err.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("step "))
    assert any(line.startswith("preparing the text and the model: ") for line in lines[:first])
    assert not any(line.startswith("preparing") for line in lines[first:])

"""Whoever follows a run hears what it records, and changes nothing of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from isoflop.core.errors import NumericsError, Stopped
from isoflop.core.recipe import Recipe
from isoflop.store.run import Run
from isoflop.train.run import train

Tiny = Callable[..., Path]


class Diary:
    """Notes what a follower hears."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.heard: list[Mapping[str, Any]] = []
        self.ended: list[str] = []

    def begin(self, run: Run, step: int) -> None:
        self.begun.append(step)

    def record(self, record: Mapping[str, Any]) -> None:
        self.heard.append(record)

    def end(self, run: Run) -> None:
        self.ended.append(run.status.state)


def test_a_run_that_is_followed_is_the_same_run(tiny: Tiny, tmp_path: Path) -> None:
    recipe, diary = Recipe.load(tiny()), Diary()
    alone, watched = train(recipe, tmp_path / "a"), train(recipe, tmp_path / "b", follower=diary)
    assert (alone.hash, alone.path.name) == (watched.hash, watched.path.name)
    assert alone.result["weights_sha256"] == watched.result["weights_sha256"]
    assert diary.heard == watched.metrics()
    assert (diary.begun, diary.ended) == ([0], ["done"])


def test_a_run_that_goes_on_says_from_where(tiny: Tiny, tmp_path: Path) -> None:
    recipe, diary = Recipe.load(tiny()), Diary()

    def stop(at: Any) -> None:
        if at.step == 7:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped):
        train(recipe, tmp_path, progress=stop, follower=diary)
    assert (diary.begun, diary.ended) == ([0], ["stopped"])
    run = train(recipe, tmp_path, follower=diary)
    assert (diary.begun, diary.ended) == ([0, 7], ["stopped", "done"])
    assert diary.heard == run.metrics(), "nothing twice, nothing missing"
    train(recipe, tmp_path, follower=diary)
    assert diary.begun == [0, 7], "a finished run has no news"


def test_a_run_that_ends_badly_is_told_how(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverge(*_: object) -> None:
        raise NumericsError("the loss is nan")

    monkeypatch.setattr("isoflop.train.loop.refuse_divergence", diverge)
    monkeypatch.setattr("isoflop.train.loop.WINDOW", 1)
    diary = Diary()
    with pytest.raises(NumericsError):
        train(Recipe.load(tiny("budget.steps=3")), tmp_path, follower=diary)
    assert diary.ended == ["diverged"]

"""Trackers see what a run records, whatever they do to themselves; the run does not depend on them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from isoflop.cli.main import invoke
from isoflop.core.recipe import Recipe
from isoflop.errors import UsageError
from isoflop.lab import tracking
from isoflop.lab.tracking import Tracked, Trackers, make, trackers
from isoflop.store.records import numbers
from isoflop.train.run import train


class Pad:
    """A tracker that keeps what it is told, and fails at a wanted call."""

    made: list[Pad] = []

    def __init__(self, failing: str = "") -> None:
        self.failing = failing
        self.began: list[Tracked] = []
        self.logged: list[tuple[int, Mapping[str, float]]] = []
        self.ended: list[tuple[str, Mapping[str, float]]] = []
        Pad.made.append(self)

    def begin(self, run: Tracked) -> None:
        self._do("begin")
        self.began.append(run)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._do("log")
        self.logged.append((step, values))

    def end(self, state: str, values: Mapping[str, float]) -> None:
        self._do("end")
        self.ended.append((state, values))

    def _do(self, what: str) -> None:
        if what == self.failing:
            raise ConnectionError(f"{what}: nobody answers")


@pytest.fixture
def pads(monkeypatch: pytest.MonkeyPatch) -> list[Pad]:
    """Trackers of any name are pads; one named like a call fails there."""
    monkeypatch.setattr(Pad, "made", [])
    monkeypatch.setattr(tracking, "make", Pad)
    return Pad.made


def test_a_tracker_sees_every_number_that_the_run_recorded(tiny_recipe: str, tmp_path: Path, pads: list[Pad]) -> None:
    run = train(Recipe.from_toml(tiny_recipe, "budget.steps=4"), tmp_path, follower=Trackers(["pad"], "study"))
    (pad,) = pads
    (begun,) = pad.began
    assert (begun.id, begun.name, begun.group, begun.step) == (run.id, run.path.name, "study", 0)
    assert begun.config == run.resolved
    assert [step for step, _ in pad.logged] == [record["step"] for record in run.metrics()]
    seen = {(step, name): value for step, values in pad.logged for name, value in values.items()}
    steps, evaluations = run.metrics("step"), run.metrics("evaluation")
    assert {seen[record["step"], "train/loss"] for record in steps} == {record["loss"] for record in steps}
    for record in evaluations:
        assert seen[record["step"], "evaluation/value"] == record["value"]
        bits = record["metrics"]["bits_per_byte"]
        assert seen[record["step"], "evaluation/metrics/bits_per_byte/stderr"] == bits["stderr"]
    ((state, result),) = pad.ended
    assert (state, result["value"]) == ("done", run.result["value"])


def test_one_that_comes_later_is_told_what_it_missed(tiny_recipe: str, tmp_path: Path, pads: list[Pad]) -> None:
    run = train(Recipe.from_toml(tiny_recipe, "budget.steps=3"), tmp_path)
    for _ in range(2):
        Trackers(["pad"]).begin(run, 3)
    first, second = pads
    assert [step for step, _ in first.logged] == [record["step"] for record in run.metrics()]
    assert {step for step, _ in second.logged} == {3}, "it knows the others already"


def test_a_tracker_that_fails_stops_no_run_and_is_told_once(tiny_recipe: str, tmp_path: Path, pads: list[Pad]) -> None:
    warned: list[str] = []
    calls = ["begin", "log", "end"]
    recipe = Recipe.from_toml(tiny_recipe, "budget.steps=4")
    run = train(recipe, tmp_path, follower=Trackers([*calls, "good"], warn=warned.append))
    assert run.state == "done"
    assert warned == [f"{c} failed (ConnectionError: {c}: nobody answers): the run goes on without it" for c in calls]
    assert [event["message"] for event in run.events("tracker")] == warned
    assert len(pads[3].logged) == len(run.metrics()), "the others go on"


def test_only_numbers_are_shown() -> None:
    record: dict[str, Any] = {
        "kind": "x",
        "bound": True,
        "unit": "bits",
        "a": 1,
        "none": None,
        "in": {"b": 2.5, "c": "d"},
    }
    assert dict(numbers(record)) == {"a": 1, "in/b": 2.5}


def test_every_file_is_a_tracker_and_an_unknown_name_gets_the_nearest() -> None:
    assert set(trackers()) == {"tensorboard", "wandb", "trackio"}
    with pytest.raises(UsageError, match="did you mean wandb"):
        make("wandbb")


@pytest.mark.parametrize("verb", ["train", "compare"])
def test_a_missing_package_is_said_before_anything_runs(
    verb: str, tiny_recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError("No module named 'wandb'", name="wandb")

    monkeypatch.setattr(tracking, "import_module", missing)
    (tmp_path / "tiny.toml").write_text(tiny_recipe)
    what = str(tmp_path / "tiny.toml") if verb == "train" else "demo"
    assert invoke([verb, what, "--track", "wandb", "--root", str(tmp_path / "runs")]) == 2
    assert "wandb needs the package wandb; pip install 'isoflop[track]'" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()

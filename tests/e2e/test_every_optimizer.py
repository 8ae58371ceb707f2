"""Every optimizer trains from a recipe that says no more than its name, and goes on where it stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from isoflop.cli.main import invoke
from isoflop.core.registry import names
from isoflop.store.run import Run
from killing import rewind

LONG = {"gauss_newton"}
"""Those whose steps take a hundred times as long as others'."""
EVERY = [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in names("optimizer")]


@pytest.mark.parametrize("name", EVERY)
def test_an_optimizer_learns_with_its_defaults_and_resumes_to_the_same_bytes(
    name: str, tiny: Callable[..., Path], tmp_path: Path
) -> None:
    recipe = tiny("budget.steps=24", "train.accumulate=2", "schedule=constant")
    command = ["train", str(recipe), f"optimizer={name}", "--root", str(tmp_path / "runs")]
    assert invoke(command) == 0
    run = Run.read(next((tmp_path / "runs").glob("tiny-*")))
    losses = [row["loss"] for row in run.metrics("step")]
    assert sum(losses[-4:]) / 4 < losses[0] - 0.05
    expected = run.result["weights_sha256"]
    rewind(run, 24)
    assert invoke(command) == 0
    again = Run.read(run.path)
    assert [event["step"] for event in again.events("resumed")] == [16]
    assert again.result["weights_sha256"] == expected


@pytest.mark.parametrize("optimizer", ["adafactor", '{name="soap",factorized=true}'])
def test_a_start_whose_gradients_vanish_in_fp32_trains(
    optimizer: str, tiny: Callable[..., Path], tmp_path: Path
) -> None:
    recipe = tiny("budget.steps=12", "model.init_std=1e-6")
    assert invoke(["train", str(recipe), f"optimizer={optimizer}", "--root", str(tmp_path / "runs")]) == 0


def test_an_eps_of_zero_is_refused_before_anything_runs(
    tiny: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(["train", str(tiny()), "optimizer.eps=0", "--root", str(tmp_path / "runs")]) == 2
    assert "optimizer.eps" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()

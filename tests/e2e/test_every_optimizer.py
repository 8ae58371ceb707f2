"""Every optimizer trains from a recipe that says no more than its name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from isoflop.cli.main import invoke
from isoflop.core.registry import names


@pytest.mark.parametrize("name", names("optimizer"))
def test_an_optimizer_learns_with_its_defaults(name: str, tiny: Callable[..., Path], tmp_path: Path) -> None:
    recipe = tiny("budget.steps=24", "train.accumulate=2", "schedule=constant")
    assert invoke(["train", str(recipe), f"optimizer={name}", "--root", str(tmp_path / "runs")]) == 0
    (path,) = (tmp_path / "runs").glob("tiny-*/metrics.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    losses = [row["loss"] for row in rows if row["kind"] == "step"]
    assert sum(losses[-4:]) / 4 < losses[0] - 0.05

"""The loop's stream of data, and when a budget in seconds ends."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from isoflop.core.recipe import Recipe
from isoflop.store.run import Run
from isoflop.train.run import assemble, train


def test_looking_ahead_shows_the_next_steps_batches_and_takes_none(tiny: Callable[..., Path], tmp_path: Path) -> None:
    recipe = Recipe.load(tiny("train.accumulate=2"))
    loop = assemble(recipe, Run.open(tmp_path / "runs", recipe))
    loop.next_batches()
    seen = loop.ahead()
    taken = loop.next_batches()
    assert len(seen) == len(taken) == 2
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(seen, taken, strict=True))


def test_a_rate_that_a_step_exceeds_is_unknown_and_measured_anew(
    tiny: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was measured while the machine did something else: a share of it would mean nothing."""
    asked = []

    def rate(*args: object) -> float:
        asked.append(args)
        return 1.0 if len(asked) == 1 else 1e30

    monkeypatch.setattr("isoflop.train.run.matmul_rate", rate)
    monkeypatch.setattr("isoflop.train.run.UNDISTURBED", -1.0)
    shares: list[float] = []
    for seed in (1, 2, 3):
        recipe = Recipe.load(tiny("budget.steps=2", f"seed={seed}"))
        train(recipe, tmp_path, progress=lambda at: shares.append(at.utilisation))
    assert shares[:2] == [0, 0]
    assert all(0 < share < 1 for share in shares[2:])
    assert len(asked) == 2, "the wrong one was forgotten, the next one remembered"


def test_a_rate_measured_on_a_busy_machine_is_unknown(
    tiny: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "isoflop.train.run.matmul_rate", lambda *_: time.sleep(0.05) or 1e30
    )  # others had the processor
    shares: list[float] = []
    train(Recipe.load(tiny("budget.steps=1")), tmp_path, progress=lambda at: shares.append(at.utilisation))
    assert shares == [0]
    assert not (tmp_path / "machine.json").exists()


@pytest.mark.parametrize(
    ("first", "later", "steps"),
    [(0.3, 0.3, 3), (0.6, 0.6, 1), (0.5, 0.1, 6), (0.1, 0.5, 2)],
    ids=["alike", "no room for a second", "the first compiles", "the first is quick"],
)
def test_a_budget_in_seconds_is_not_exceeded_and_not_ended_by_the_first_step(
    first: float, later: float, steps: int, tiny: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe.load(tiny("budget={seconds=1.01}", "schedule=constant"))
    loop = assemble(recipe, Run.open(tmp_path / "runs", recipe))
    durations = itertools.chain([0.0, first], itertools.cycle([0.0, later]))
    clock = itertools.accumulate(durations)
    monkeypatch.setattr("isoflop.train.loop.time", SimpleNamespace(perf_counter=lambda: next(clock)))
    while not loop._finished():
        loop.train_step()
    assert loop.step == steps
    assert loop.ledger.total("seconds") <= recipe.budget.limit

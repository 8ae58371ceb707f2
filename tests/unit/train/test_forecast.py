"""What a dry run says of memory and time: near what is measured; what cannot fit is refused with what would."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

from isoflop.core.recipe import Recipe
from isoflop.errors import BudgetError
from isoflop.ledger.budgets import step_cost
from isoflop.train import forecast as module
from isoflop.train.forecast import HELD, LEAST, PROCESS, forecast, needed, refuse_oversize
from isoflop.train.run import train

SOURCE = ('source={name="hmm", text_bytes=200000, heldout_bytes=2000}', "tokenizer=bytes", "budget.steps=2")
TINY = ("model.d_model=16", "model.layers=1", "train.batch=2", "train.length=16")
PEAK = """
import sys
from pathlib import Path
from isoflop.core.device import peak_memory
from isoflop.core.recipe import Recipe
from isoflop.train.run import train
train(Recipe.load("small", *sys.argv[2:]), Path(sys.argv[1]), threads=1)
print(peak_memory())
"""


def recipe(*changes: str) -> Recipe:
    return Recipe.load("small", *SOURCE, *changes)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [("train.batch=64",), ("train.length=2048",), ("model.d_model=512", "model.layers=6", "train.batch=4")]
)
def test_the_memory_is_near_what_a_process_takes(changes: tuple[str, ...], tmp_path: Path) -> None:
    wanted = recipe(*changes)
    command = [sys.executable, "-c", PEAK, str(tmp_path), *SOURCE, *changes]
    measured = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])
    told = forecast(wanted, tmp_path / "none", step_cost(wanted), 2).memory
    assert 0.5 < (told - PROCESS) / (measured - PROCESS) < 2
    assert needed(wanted, step_cost(wanted), LEAST) < measured, "what fits is never refused"


def test_a_batch_that_cannot_fit_is_refused_before_anything_is_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    large = recipe("train.batch=64")
    room = round(needed(large, step_cost(large), LEAST) / 4)
    monkeypatch.setattr(module, "device_memory", lambda device: room)
    with pytest.raises(BudgetError, match=r"a batch of 64 sequences of 128 takes at least [\d.]+ GB") as error:
        train(large, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
    batch, accumulate = map(int, re.findall(r"train\.\w+=(\d+)", str(error.value))[-2:])
    assert batch * accumulate == 64
    smaller = recipe(f"train.batch={batch}", f"train.accumulate={accumulate}")
    refuse_oversize(smaller, step_cost(smaller))
    assert needed(smaller, step_cost(smaller), HELD) <= room
    monkeypatch.setattr(module, "device_memory", lambda device: 1000)
    with pytest.raises(BudgetError, match="a smaller model"):
        refuse_oversize(large, step_cost(large))
    monkeypatch.setattr(module, "device_memory", lambda device: None)
    refuse_oversize(large, step_cost(large))


def test_the_time_is_that_of_a_finished_run_of_the_same_work(tmp_path: Path) -> None:
    first = train(recipe(), tmp_path, threads=1)
    longer = recipe("budget.steps=50", "seed=9", "optimizer.lr=0.02", "schedule=linear")
    cost = step_cost(longer)
    found = forecast(longer, tmp_path, cost, 50)
    rate = first.figure("flops") / first.figure("seconds")
    assert found.seconds == pytest.approx(cost.run(50).flops / rate)
    assert str(first.path) in found.source
    assert found.text_tokens
    for other in ("optimizer=muon", "model.layers=1", "train.batch=4"):
        wider = recipe("budget.steps=50", other)
        assert str(first.path) not in forecast(wider, tmp_path, step_cost(wider), 50).source
    assert forecast(longer, tmp_path / "none", cost, 50).text_tokens is None
    texts = sorted(tmp_path.glob("cache/corpora/*"))
    unread = recipe("budget.steps=50", "source.text_bytes=90001")
    assert forecast(unread, tmp_path, cost, 50).text_tokens is None
    assert sorted(tmp_path.glob("cache/corpora/*")) == texts != [], "a forecast makes no text"
    assert math.isnan(forecast(longer, tmp_path, cost, 0).seconds)


def test_less_is_held_where_less_is_kept() -> None:
    plain = recipe("train.batch=64")
    for change in ("train.activation_checkpointing=true", "train.precision=bf16"):
        light = recipe("train.batch=64", change)
        assert needed(light, step_cost(light), HELD) < needed(plain, step_cost(plain), HELD)


def test_a_tiny_models_time_is_measured_where_no_run_tells(tmp_path: Path) -> None:
    """By the matmul rate alone it would take a tenth: most of a tiny step is no matrix product."""
    tiny = recipe(*TINY, "budget.steps=30")
    found = forecast(tiny, tmp_path, step_cost(tiny), 30)
    assert re.fullmatch(r"as \d+ steps on made-up ids took [\d.]+ ms each", found.source)
    assert not list(tmp_path.iterdir()), "a trial leaves nothing"
    taken = train(tiny, tmp_path, threads=1).figure("seconds")
    assert taken / 4 < found.seconds < 4 * taken


def test_where_a_trial_would_take_long_the_machines_rate_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "matmul_rate", lambda device, precision: 1e6)
    guess = forecast(recipe(), tmp_path, step_cost(recipe()), 2)
    assert "a guess" in guess.source
    assert guess.seconds == pytest.approx(step_cost(recipe()).run(2).flops / 4e5)


def test_a_fault_of_the_trial_is_not_taken_for_a_recipe_that_cannot_be_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*given: object) -> None:
        raise TypeError("a fault of ours")

    monkeypatch.setattr("isoflop.train.trial.assemble", broken)
    with pytest.raises(TypeError, match="a fault of ours"):
        forecast(recipe(*TINY), tmp_path, step_cost(recipe(*TINY)), 2)


def test_an_objective_of_somebody_elses_is_not_tried_on_made_up_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may want another kind of batch."""
    monkeypatch.setattr("isoflop.train.trial.shipped", lambda part: part.slot != "objective")
    assert "a guess" in forecast(recipe(*TINY), tmp_path, step_cost(recipe(*TINY)), 2).source

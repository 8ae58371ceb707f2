"""The loop: its stream of data, which steps it records, saves and evaluates, when it ends, and when it diverged."""

from __future__ import annotations

import itertools
import json
import math
import random
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from isoflop.core.contracts import Outcome
from isoflop.core.errors import NumericsError
from isoflop.core.recipe import Recipe
from isoflop.ledger.ledger import Ledger
from isoflop.store.run import Run
from isoflop.train.build import assemble
from isoflop.train.devices import has_device
from isoflop.train.run import train


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

    monkeypatch.setattr("isoflop.train.devices.matmul_rate", rate)
    monkeypatch.setattr("isoflop.train.devices.UNDISTURBED", -1.0)
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
        "isoflop.train.devices.matmul_rate", lambda *_: time.sleep(0.05) or 1e30
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


class Told:
    """A loop that takes no real steps: each lasts ``seconds`` and has the loss that is told; ``did`` is its diary."""

    def __init__(self, recipe: Recipe, root: Path, losses: Callable[[int], float] = lambda step: 2.0) -> None:
        self.loop = assemble(recipe, Run.open(root, recipe))
        self.losses, self.seconds, self.did = losses, itertools.repeat(1.0), list[tuple[str, int]]()
        self.loop.train_step = self.step  # type: ignore[method-assign]
        self.loop.save = lambda: self.note("save")  # type: ignore[method-assign]
        self.loop.evaluate = lambda: self.note("evaluate")  # type: ignore[method-assign]
        self.loop._record_step = lambda *_: self.note("record")  # type: ignore[method-assign]

    def step(self) -> tuple[Outcome, float]:
        loss, seconds = self.losses(self.loop.step), next(self.seconds)
        self.loop._keep(loss)
        self.loop.step += 1
        self.loop.slowest = max(self.loop.slowest, seconds)
        self.loop.ledger.add("train", steps=1, seconds=seconds)
        return Outcome(loss, 1.0, 64, 64), seconds

    def note(self, what: str) -> None:
        self.did.append((what, self.loop.step))
        if what == "evaluate":
            self.loop.owed = False

    def steps(self, what: str) -> list[int]:
        return [step for did, step in self.did if did == what]


def test_it_evaluates_and_saves_at_equal_parts_and_at_the_last_step(tiny: Callable[..., Path], tmp_path: Path) -> None:
    recipe = Recipe.load(tiny("budget.steps=13", "train.evaluations=2", "train.checkpoints=3"))
    told = Told(recipe, tmp_path)
    told.loop()
    assert told.loop.step == 13
    assert told.steps("evaluate") == [6, 13]
    assert told.steps("save") == [4, 6, 8, 13]
    assert told.steps("record") == list(range(1, 14))
    at_six = [what for what, step in told.did if step == 6]
    assert at_six == ["record", "save", "evaluate"], "whatever an evaluation does, its step is safe"


@pytest.mark.parametrize(
    ("steps", "recorded"), [(399, range(1, 400)), (400, range(2, 401, 2)), (601, [*range(3, 601, 3), 601])]
)
def test_some_two_hundred_steps_are_recorded_the_last_one_among_them(
    steps: int, recorded: Iterable[int], tiny: Callable[..., Path], tmp_path: Path
) -> None:
    told = Told(Recipe.load(tiny(f"budget.steps={steps}", "train.evaluations=1", "train.checkpoints=1")), tmp_path)
    told.loop()
    assert told.steps("record") == list(recorded)
    assert told.steps("evaluate") == told.steps("save") == [steps]


def test_a_budget_in_seconds_is_evaluated_and_saved_at_equal_parts_of_the_time(
    tiny: Callable[..., Path], tmp_path: Path
) -> None:
    """Steps of .75 s in 6 s: thirds end at 2, 4 and 6 s, which steps 3, 6 and 8 reach; halves at steps 4 and 8."""
    recipe = Recipe.load(
        tiny("budget={seconds=6.0}", "schedule=constant", "train.evaluations=2", "train.checkpoints=3")
    )
    told = Told(recipe, tmp_path)
    told.seconds = itertools.repeat(0.75)
    told.loop()
    assert told.loop.step == 8
    assert told.steps("evaluate") == [4, 8]
    assert told.steps("save") == [3, 4, 6, 8]


def test_a_budget_in_seconds_ends_with_an_evaluation_where_it_ends_early(
    tiny: Callable[..., Path], tmp_path: Path
) -> None:
    recipe = Recipe.load(
        tiny("budget={seconds=6.0}", "schedule=constant", "train.evaluations=1", "train.checkpoints=1")
    )
    told = Told(recipe, tmp_path)
    told.seconds = itertools.repeat(1.25)
    told.loop()
    assert told.loop.step == 4, "a fifth step would end at 6.25 s"
    assert told.steps("evaluate") == told.steps("save") == [4]


@pytest.mark.parametrize(("steps", "refused"), [(19, False), (20, True), (21, True)])
def test_divergence_is_told_from_twice_the_window_on(
    steps: int, refused: bool, tiny: Callable[..., Path], tmp_path: Path
) -> None:
    told = Told(Recipe.load(tiny(f"budget.steps={steps}")), tmp_path, lambda step: 2.0 + 0.1 * (step >= 10))
    if not refused:
        return told.loop()
    with pytest.raises(NumericsError, match=r"the loss ended at 2\.100, above its start 2\.000: the run diverged"):
        told.loop()


@pytest.mark.parametrize(("rise", "refused"), [(2.9, False), (3.1, True)])
def test_a_rise_of_three_standard_errors_is_divergence(
    rise: float, refused: bool, tiny: Callable[..., Path], tmp_path: Path
) -> None:
    """Losses of .1 and .3 about their means, 10 each: the difference's standard error is sqrt((.01 + .09) / 9)."""
    error = math.sqrt((0.1**2 + 0.3**2) / 9)

    def loss(step: int) -> float:
        return 2 + 0.1 * (-1) ** step if step < 10 else 2 + rise * error + 0.3 * (-1) ** step

    told = Told(Recipe.load(tiny("budget.steps=20")), tmp_path, loss)
    if not refused:
        return told.loop()
    with pytest.raises(NumericsError, match="diverged"):
        told.loop()


def test_the_windows_of_divergence_are_the_first_and_the_last_ten_steps(
    tiny: Callable[..., Path], tmp_path: Path
) -> None:
    recipe = Recipe.load(tiny("budget.steps=23", "train.evaluations=1"))
    loop = assemble(recipe, Run.open(tmp_path / "runs", recipe))
    losses = [loop.train_step()[0].loss for _ in range(23)]
    assert loop.first_losses == losses[:10]
    assert loop.last_losses == losses[-10:]


def test_steps_that_predict_nothing_are_in_neither_window(tmp_path: Path) -> None:
    """Windows of long prompts hold no target at all: their losses of 0 would be a low start, or noise."""
    draw = random.Random(0)
    records = (
        {"prompt": "".join(draw.choices("abcdefgh ", k=600)), "completion": draw.choice("xyz") * 150} for _ in range(40)
    )
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    recipe = Recipe.load(
        "small",
        f'source={{name="jsonl", paths="{tmp_path}/a.jsonl", prompt_key="prompt", heldout_bytes=300}}',
        "tokenizer=bytes", "train={length=16, batch=1}", "model={name='transformer', d_model=16, layers=1}",
        "budget={steps=120}", "optimizer.lr=1e-4",
    )  # fmt: skip
    loop = assemble(recipe, Run.open(tmp_path / "runs", recipe))
    outcomes = [loop.train_step()[0] for _ in range(120)]
    losses = [outcome.loss for outcome in outcomes if outcome.tokens]
    assert 20 < len(losses) < 60
    assert (loop.first_losses, loop.last_losses) == (losses[:10], losses[-10:])
    few = Told(recipe.with_("budget.steps=30"), tmp_path / "few")
    few.loop.first_losses = [0.1] * 7  # as after 7 steps that predicted something, of 30
    few.loop.step = 30
    few.loop()


def test_a_step_has_the_rate_of_its_number_and_the_average_is_told_it(
    tiny: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe.load(tiny("budget.steps=5", "averaging=ema", "train.evaluations=5"))
    loop = assemble(recipe, Run.open(tmp_path / "runs", recipe))
    factors: list[float] = []
    updates: list[int] = []
    monkeypatch.setattr(loop.parts.optimizer, "set_factor", factors.append)
    assert loop.parts.averaging is not None
    monkeypatch.setattr(loop.parts.averaging, "update", updates.append)
    monkeypatch.setattr(loop, "evaluate", lambda: setattr(loop, "owed", False))
    loop()
    assert factors == [recipe.schedule.factor(t, 5) for t in range(5)]
    assert updates == list(range(5))
    records = loop.run.metrics("step")
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5]
    assert [record["factor"] for record in records] == factors, "a record tells the rate that its step had"
    assert [record["tokens"] for record in records] == [64 * n for n in range(1, 6)]


def test_a_diverged_runs_result_holds_what_it_spent(tiny: Callable[..., Path], tmp_path: Path) -> None:
    """Its bill is charged to its arm like any other's; the index and the reports take it from the result."""
    recipe = Recipe.load(tiny("budget.steps=12", "optimizer.lr=1e30", "train.clip=0.0", "schedule=constant"))
    with pytest.raises(NumericsError):
        train(recipe, tmp_path / "runs")
    (path,) = (tmp_path / "runs").glob("tiny-*")
    run = Run.read(path)
    spent = Ledger.from_json(run.ledger)
    axes = ("flops", "hardware_flops", "tokens", "text_bytes", "seconds")
    assert spent.total("tokens") >= 64
    assert {axis: run.result[axis] for axis in axes} == {axis: spent.total(axis) for axis in axes}
    assert run.result["status"] == "diverged"


def test_a_machine_has_the_devices_of_its_accelerator_and_one_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def has(kind: str | None, count: int) -> list[str]:
        found = None if kind is None else torch.device(kind)
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: found)
        monkeypatch.setattr(torch.accelerator, "device_count", lambda: count)
        asked = ("cpu", "cpu:0", "cpu:1", "cuda", "cuda:0", "cuda:1", "cuda:2", "mps", "xpu:0")
        return [device for device in asked if has_device(device)]

    assert has(None, 0) == ["cpu", "cpu:0"]
    assert has("cuda", 2) == ["cpu", "cpu:0", "cuda", "cuda:0", "cuda:1"]
    assert has("cuda", 1) == ["cpu", "cpu:0", "cuda", "cuda:0"]
    assert has("mps", 1) == ["cpu", "cpu:0", "mps"]

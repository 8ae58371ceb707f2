"""Whatever ends a run that is not at fault itself: what was trained is on the disk, and the end has the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from isoflop.core.context import Context
from isoflop.core.contracts import Likelihood, Loss, ObjectivePart, Stateful, TokenBatch
from isoflop.core.recipe import Recipe
from isoflop.core.torch_rule import TorchRule
from isoflop.data.loader import WindowBatches
from isoflop.errors import NumericsError
from isoflop.objectives.losses.next_token import NextToken
from isoflop.store import checkpoint
from isoflop.store.run import Run
from isoflop.train.loop import Loop
from isoflop.train.problem import StepProblem
from isoflop.train.run import train
from isoflop.train.watch import Progress

Tiny = Callable[..., Path]
STEPS = 12
ERRORS = [MemoryError("none left"), RuntimeError("no memory"), KeyboardInterrupt()]


@pytest.fixture(scope="module")
def recipe(tiny_recipe: str) -> Recipe:
    """Twelve steps, evaluated at 4, 8 and 12, with the default of one checkpoint."""
    changes = ("train.checkpoints=1", "train.evaluations=3", "averaging=ema")
    return Recipe.from_toml(tiny_recipe, *changes)


@pytest.fixture(scope="module")
def undisturbed(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(recipe, tmp_path_factory.mktemp("undisturbed"), name="run")


@contextmanager
def failing(owner: Any, name: str, at: int, error: BaseException, *, after: bool = False) -> Iterator[list[int]]:
    """While entered, call number ``at`` (from 1) of a method raises ``error``: before it did anything, or ``after``."""
    honest, calls = getattr(owner, name), [0]

    def broken(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == at and not after:
            raise error
        result = honest(*args, **kwargs)
        if calls[0] == at:
            raise error
        return result

    setattr(owner, name, broken)
    try:
        yield calls
    finally:
        setattr(owner, name, honest)


def outcome(run: Run) -> dict[str, Any]:
    """All that must be the same however often a run was disturbed; seconds are not."""
    return {
        "result": {key: value for key, value in run.result.items() if key != "seconds"},
        "evaluations": [
            {key: value for key, value in record.items() if key != "seconds"} for record in run.metrics("evaluation")
        ],
        "steps": [(record["step"], record["loss"]) for record in run.metrics("step")],
        "spent": {phase: (spent["flops"], spent["steps"], spent["tokens"]) for phase, spent in run.ledger.items()},
        "checkpoints": checkpoint.steps(run.path / "checkpoints"),
    }


def resumed_at(recipe: Recipe, root: Path, undisturbed: Run) -> int:
    """Train again to the end, which must be the undisturbed one; the step at which that began."""
    run = train(recipe, root, name="run")
    assert outcome(run) == outcome(undisturbed)
    assert run.state == "done"
    events = run.events("resumed")
    return int(events[-1]["step"]) if events else 0


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("number", [1, 3], ids=["first", "last"])
def test_an_error_in_an_evaluation_loses_no_step(
    error: BaseException, number: int, recipe: Recipe, undisturbed: Run, tmp_path: Path
) -> None:
    with failing(Loop, "measure", number, error), pytest.raises(type(error)):
        train(recipe, tmp_path / "runs", name="run")
    assert resumed_at(recipe, tmp_path / "runs", undisturbed) == 4 * number


PLACES = {
    "its data": (WindowBatches, "__next__", 7, False, 6),
    "its loss": (StepProblem, "_loss", 7, False, 6),
    "what follows the loss": (StepProblem, "_loss", 7, True, 6),
    "the record of a step": (Loop, "_record_step", 7, True, 7),
    "a sign of life": (Run, "heartbeat", 7, False, 7),
    "a commit": (Run, "save", 1, False, 4),
    "an update": (TorchRule, "step", 7, True, 4),  # half a step's state is never kept: back to the evaluation before
}


@pytest.mark.parametrize("place", PLACES)
def test_an_error_anywhere_in_a_step_loses_at_most_that_step(
    place: str, recipe: Recipe, undisturbed: Run, tmp_path: Path
) -> None:
    owner, method, at, after, kept = PLACES[place]
    error = ERRORS[list(PLACES).index(place) % len(ERRORS)]
    with failing(owner, method, at, error, after=after), pytest.raises(type(error)):
        train(recipe, tmp_path / "runs", name="run")
    assert resumed_at(recipe, tmp_path / "runs", undisturbed) == kept


class Remembers(NextToken):
    """The loss of the next token, with a penalty on what the losses before were: its state moves with every loss."""

    def __init__(self, policy: Any, writes: bool) -> None:
        super().__init__(policy)
        self.writes, self.seen, self.mean = writes, 0, torch.zeros(1)

    def loss(self, batch: TokenBatch) -> Loss:
        found = super().loss(batch)
        self.seen += 1
        mean = self.mean.lerp(found.total.detach() / batch.units, 1 / self.seen)
        self.mean = self.mean.copy_(mean) if self.writes else mean
        return Loss(found.total * (1 + self.mean.item() / 10))

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen, "inner": [{"mean": self.mean}]}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        self.seen, self.mean = state["seen"], state["inner"][0]["mean"]


class RemembersPart(ObjectivePart):
    name: ClassVar[str] = "remembers"
    provides: ClassVar[frozenset[type]] = frozenset({Likelihood, Stateful})
    writes: bool = False

    def build(self, ctx: Context) -> Remembers:
        return Remembers(ctx.policy, self.writes)


FAILS = [(False, False, 6), (True, False, 6), (False, True, 6), (True, True, 4)]


@pytest.mark.parametrize(("after", "writes", "kept"), FAILS)
def test_a_failed_step_is_taken_back_from_an_objective_with_state(
    after: bool, writes: bool, kept: int, recipe: Recipe, tmp_path: Path
) -> None:
    """Unless it wrote to its state's tensors, of which there is no copy: then it is back to the evaluation before."""
    changed = recipe.having(objective=RemembersPart(writes=writes))
    whole = train(changed, tmp_path / "whole", name="run")
    with failing(StepProblem, "_loss", 7, MemoryError(), after=after), pytest.raises(MemoryError):
        train(changed, tmp_path / "runs", name="run")
    assert resumed_at(changed, tmp_path / "runs", whole) == kept


def test_a_run_that_fails_again_and_again_still_gets_on(recipe: Recipe, undisturbed: Run, tmp_path: Path) -> None:
    for _ in range(5):
        with failing(StepProblem, "_loss", 3, MemoryError()), pytest.raises(MemoryError):
            train(recipe, tmp_path / "runs", name="run")
    assert resumed_at(recipe, tmp_path / "runs", undisturbed) > 0


def test_an_error_that_is_the_runs_own_saves_nothing(recipe: Recipe, tmp_path: Path) -> None:
    with failing(StepProblem, "_loss", 7, NumericsError("the loss is nan")), pytest.raises(NumericsError):
        train(recipe, tmp_path / "runs", name="run")
    run = Run.read(tmp_path / "runs" / "run")
    assert run.state == "diverged"
    assert checkpoint.steps(run.path / "checkpoints") == [4]


@pytest.fixture
def in_a_terminal() -> Iterator[None]:
    """Signals as they are there: who starts the tests in the background may have had them ignored."""
    wanted = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("in_a_terminal")
def test_an_impatient_user_loses_nothing(
    recipe: Recipe, undisturbed: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C once more while the run is still in its step, and again while it is being saved."""
    interrupt = lambda: os.kill(os.getpid(), signal.SIGINT)  # noqa: E731
    honest_pass, honest_save, passes = StepProblem._loss, Run.save, [0]

    def training(problem: StepProblem, *args: Any, **more: Any) -> Any:
        passes[0] += 1
        if passes[0] == 7:
            interrupt()
            interrupt()
        return honest_pass(problem, *args, **more)

    def saving(run: Run, step: int, write: Callable[[Path], None], *more: Any) -> Any:
        def slowly(partial: Path) -> None:
            if step == 6:
                interrupt()
            write(partial)

        return honest_save(run, step, slowly, *more)

    monkeypatch.setattr(StepProblem, "_loss", training)
    monkeypatch.setattr(Run, "save", saving)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "runs", name="run")
    monkeypatch.undo()
    assert Run.read(tmp_path / "runs" / "run").state == "stopped"
    assert resumed_at(recipe, tmp_path / "runs", undisturbed) == 6


def test_a_machine_that_lost_power_goes_on_from_its_checkpoint(
    recipe: Recipe, undisturbed: Run, tmp_path: Path
) -> None:
    """It left zeros in the metrics that had not reached the disk; those before the checkpoint had."""
    with (
        failing(Run, "heartbeat", 11, MemoryError()),
        failing(Run, "save", 3, OSError(5, "no disk")),
        pytest.raises(MemoryError),
    ):
        train(recipe, tmp_path / "runs", name="run")
    file = tmp_path / "runs" / "run" / "metrics.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:-3]) + bytes(len(lines[-3]) - 1) + b"\n" + b"".join(lines[-2:]))
    assert resumed_at(recipe, tmp_path / "runs", undisturbed) == 8


def test_a_save_that_fails_too_leaves_the_first_error_to_tell(recipe: Recipe, tmp_path: Path) -> None:
    with (
        failing(StepProblem, "_loss", 3, MemoryError("first")),
        failing(Run, "save", 1, OSError(28, "second")),
        pytest.raises(MemoryError, match="first"),
    ):
        train(recipe, tmp_path / "runs", name="run")
    assert "first" in Run.read(tmp_path / "runs" / "run").status.message


@pytest.mark.parametrize("error", [BrokenPipeError(32, "gone"), OSError(28, "full"), OSError(5, "no terminal")])
def test_a_listener_that_cannot_be_reached_does_not_end_a_run(
    error: OSError, recipe: Recipe, undisturbed: Run, tmp_path: Path
) -> None:
    def unreachable(at: Progress) -> None:
        raise error

    run = train(recipe, tmp_path / "runs", name="run", progress=unreachable)
    assert outcome(run) == outcome(undisturbed)


def test_a_checkpoint_from_before_evaluations_were_owed_is_not_evaluated_twice(
    recipe: Recipe, undisturbed: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a one was committed after its evaluation, whose record and charge it holds."""
    honest = Loop._state
    monkeypatch.setattr(Loop, "_state", lambda loop: {k: v for k, v in honest(loop).items() if k != "owed"})
    with failing(StepProblem, "_loss", 7, MemoryError()), pytest.raises(MemoryError):
        train(recipe, tmp_path / "runs", name="run")
    monkeypatch.undo()
    assert resumed_at(recipe, tmp_path / "runs", undisturbed) == 6


KILLED_IN_AN_EVALUATION = """
import os, signal, sys
from isoflop.train.loop import Loop
left, honest = [int(sys.argv[1])], Loop.measure
def measure(loop):
    left[0] -= 1
    found = honest(loop)
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    return found
Loop.measure = measure
from isoflop.cli.main import run
run(sys.argv[2:])
"""


def test_a_kill_in_the_last_evaluation_loses_no_step(recipe: Recipe, undisturbed: Run, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(recipe.to_toml())
    arguments = ["train", str(tmp_path / "r.toml"), "--root", str(tmp_path / "runs"), "--name", "run"]
    done = subprocess.run([sys.executable, "-c", KILLED_IN_AN_EVALUATION, "3", *arguments], check=False)
    assert done.returncode == -signal.SIGKILL
    assert resumed_at(recipe, tmp_path / "runs", undisturbed) == 12


@pytest.mark.usefixtures("in_a_terminal")
def test_a_terminal_that_goes_away_lets_a_run_save_its_state(tiny: Tiny, tmp_path: Path) -> None:
    recipe, root = tiny("budget.steps=100000", "train.evaluations=1", "train.checkpoints=1"), tmp_path / "runs"
    arguments = [sys.executable, "-m", "isoflop", "train", str(recipe), "--root", str(root), "--threads", "1"]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    while not any(root.glob("tiny-*/metrics.jsonl")):
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)
    process.send_signal(signal.SIGHUP)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGHUP, errors
    run = Run.read(next(root.glob("tiny-*")))
    assert run.state == "stopped"
    found = run.checkpoint()
    assert found is not None
    assert found[0] > 0


@pytest.mark.parametrize(("place", "live"), [("a full disk", True), ("a closed pipe", False), ("nowhere", False)])
def test_messages_that_nobody_can_read_do_not_end_a_run(place: str, live: bool, tiny: Tiny, tmp_path: Path) -> None:
    if place == "a full disk" and not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    reader, closed = os.pipe()
    os.close(reader)
    with open("/dev/full" if place == "a full disk" else os.devnull, "w") as full:
        code = "import sys; from isoflop.cli import main, streams\n"
        if live:  # a terminal that takes nothing
            code += "streams.Unfailing.isatty = lambda file: True\n"
        command = [sys.executable, "-c", code + "main.run(sys.argv[1:])", "train", str(tiny()), "--root", str(tmp_path)]
        if place == "nowhere":
            command = ["sh", "-c", '"$@" 2>&-', "sh", *command]
        stderr = closed if place == "a closed pipe" else full
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=stderr, text=True, timeout=60, check=False)
    os.close(closed)
    run = Run.read(next(tmp_path.glob("tiny-*")))
    assert run.state == "done"
    assert done.returncode == 0
    assert "bits per byte after 12 steps" in done.stdout

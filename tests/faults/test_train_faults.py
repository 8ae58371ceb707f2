"""Bad input to a run: each a clear error with its exit code, nothing lost, nothing half-written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from isoflop.cli.main import invoke
from isoflop.core.contracts import Likelihood
from isoflop.core.recipe import Recipe
from isoflop.errors import NumericsError
from isoflop.store.run import Run
from isoflop.train.loop import Loop
from isoflop.train.run import train

Tiny = Callable[..., Path]


def run_of(root: Path) -> Run:
    return Run.read(next(root.glob("tiny-*")))


def test_an_impossible_budget_is_refused_before_anything_is_made(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(["train", str(tiny("budget={flops=100.0}")), "--root", str(tmp_path / "runs")]) == 5
    assert "not one step fits" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("part", "key"),
    [
        ("averaging=sfa", "averaging.period"),
        ("optimizer=ademamix", "optimizer.alpha_warmup"),
        ("optimizer={name='ademamix',beta3_warmup=5}", "optimizer.alpha_warmup"),
        ("optimizer=simplified_ademamix", "optimizer.beta1_warmup"),
    ],
)
def test_a_share_of_a_run_without_a_length_is_refused(
    part: str, key: str, tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", str(tiny()), "budget={seconds=2.0}", "schedule=constant", "--root", str(tmp_path / "runs")]
    assert invoke([*command, part]) == 2
    message = capsys.readouterr().err
    assert f"{key}: is a share of a run" in message
    assert message.count("is a share") == (2 if part == "optimizer=ademamix" else 1)
    explicit = {"averaging.period": "averaging.period=3"}.get(key, f"{key}=5")
    other = ["optimizer.beta3_warmup=5"] if part == "optimizer=ademamix" else []
    assert invoke([*command, part, explicit, *other, "--dry-run"]) == 0


def test_two_metrics_of_one_name_are_refused(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = 'metrics=["bits_per_byte",{name="bits_per_byte",batch=8}]'
    assert invoke(["train", str(tiny()), both, "--root", str(tmp_path / "runs")]) == 2
    assert "metrics: names bits_per_byte twice" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe.load(tiny())
    from isoflop.objectives.losses import next_token

    calls = [0]
    honest = next_token.NextToken.loss

    def poisoned(self, batch):  # type: ignore[no-untyped-def]
        calls[0] += torch.is_grad_enabled()  # training's losses alone: an evaluation takes them as well
        loss = honest(self, batch)
        return type(loss)(loss.total * torch.nan) if torch.is_grad_enabled() and calls[0] == 7 else loss

    monkeypatch.setattr(next_token.NextToken, "loss", poisoned)
    with pytest.raises(NumericsError, match="the loss is nan"):
        train(recipe, tmp_path / "runs")
    run = run_of(tmp_path / "runs")
    assert run.state == "diverged"
    assert run.ledger["train"]["steps"] == 6, "what it had spent is on the bill"
    found = run.checkpoint()
    assert found is not None
    assert found[0] == 6, "that of the evaluation before"
    with pytest.raises(NumericsError, match="the loss is nan"):  # a diverged run is not tried again
        train(recipe, tmp_path / "runs")
    assert calls[0] == 7


def test_one_gradient_that_is_not_finite_stops_the_run_and_names_the_parameter(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    honest = torch.nn.utils.get_total_norm

    def poisoned(tensors):  # type: ignore[no-untyped-def]
        tensors[1].view(-1)[0] = torch.inf
        return honest(tensors)

    monkeypatch.setattr(torch.nn.utils, "get_total_norm", poisoned)
    assert invoke(["train", str(tiny()), "--root", str(tmp_path / "runs")]) == 4
    assert "the gradient is not finite in" in capsys.readouterr().err
    assert run_of(tmp_path / "runs").state == "diverged"


def damage(run: Run, step: int) -> None:
    """Change one byte of a checkpoint's weights."""
    weights = run.path / "checkpoints" / str(step) / "model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-3] ^= 1
    weights.write_bytes(changed)


def test_reading_a_damaged_checkpoint_says_so_and_leaves_the_run_alone(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(Recipe.load(tiny()), tmp_path / "runs")
    damage(run, 12)
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    for verb in ("eval", "generate"):
        assert invoke([verb, str(run.path), "--root", str(tmp_path / "runs")]) == 0
        said = capsys.readouterr()
        assert "checkpoint 12 is damaged" in said.err
        assert verb != "eval" or "after step 8" in said.out
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before


def test_a_damaged_checkpoint_falls_back_to_the_previous_one_and_says_so(tiny: Tiny, tmp_path: Path) -> None:
    recipe, root = Recipe.load(tiny()), tmp_path / "runs"
    run = train(recipe, root)
    expected = run.result["weights_sha256"]
    damage(run, 12)
    run.set_status("running")
    heard: list[str] = []
    again = train(recipe, root, warn=heard.append)
    assert again.result["weights_sha256"] == expected
    assert any("checkpoint 12 is damaged" in event["message"] for event in again.events("checkpoint"))
    assert any("checkpoint 12 is damaged" in line for line in heard)


def test_a_changed_corpus_is_refused_on_resume(
    tiny: Tiny, copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tiny(f'source.paths=["{copy}/*.txt"]')
    assert invoke(["train", str(recipe), "--root", str(tmp_path / "runs")]) == 0
    run = run_of(tmp_path / "runs")
    run.set_status("running")
    spent = run.ledger
    for file in sorted(copy.glob("*.txt"))[:5]:
        file.write_text("something else entirely, and quite a bit of it, so that the text differs")
    assert invoke(["train", str(recipe), "--root", str(tmp_path / "runs")]) == 3
    assert "the corpus has changed" in capsys.readouterr().err
    assert run_of(tmp_path / "runs").ledger == spent


def test_a_changed_recipe_under_the_same_name_lists_the_keys(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = ["--root", str(tmp_path / "runs"), "--name", "mine"]
    assert invoke(["train", str(tiny()), *root]) == 0
    assert invoke(["train", str(tiny()), "optimizer.lr=0.02", "train.batch=2", *root]) == 2
    message = capsys.readouterr().err
    assert "optimizer.lr: 0.01 -> 0.02" in message
    assert "train.batch: 4 -> 2" in message


def test_a_run_in_use_is_refused(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tiny()
    with Run.open(tmp_path / "runs", Recipe.load(recipe)).lock():
        assert invoke(["train", str(recipe), "--root", str(tmp_path / "runs")]) == 2
    assert f"process {os.getpid()}" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_the_state_and_exits_with_its_code(
    tiny: Tiny, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    recipe, root = tiny("budget.steps=100000", "train.evaluations=1"), tmp_path / "runs"
    arguments = [sys.executable, "-m", "isoflop", "train", str(recipe), "--root", str(root), "--threads", "1", "--json"]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: any(root.glob("tiny-*/metrics.jsonl")))
    process.send_signal(number)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == code
    told = json.loads(output)
    assert (told["error"], told["exit_code"]) == ("Stopped", code)
    assert told["message"] in errors
    assert "run again to go on" in errors
    assert f"stopped by {'ctrl-C' if number == signal.SIGINT else 'SIGTERM'} at step " in errors
    assert "error" not in errors
    run = run_of(root)
    assert run.state == "stopped"
    found = run.checkpoint()
    assert found is not None
    assert found[0] > 0


def test_a_disk_that_is_full_stops_the_run_and_leaves_the_last_checkpoint_whole(tiny: Tiny, tmp_path: Path) -> None:
    recipe, root = tiny(), tmp_path / "runs"
    limited = (
        "import resource, signal, sys; from isoflop.store import checkpoint; commit = checkpoint.commit\n"
        "def full(directory, step, *rest):\n"
        "    if step == 8:\n"
        "        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))\n"
        "    return commit(directory, step, *rest)\n"
        "checkpoint.commit = full\n"
        "from isoflop.cli.main import run; run(sys.argv[1:])\n"
    )
    arguments = [sys.executable, "-c", limited, "train", str(recipe), "--root", str(root)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
    assert done.returncode == 3, done.stderr
    assert "no space left" in done.stderr
    run = run_of(root)
    found = run.checkpoint()
    assert found is not None
    assert found[0] == 6, "that of the evaluation before"
    assert not list(run.path.rglob(".partial-*"))
    assert invoke(["train", str(recipe), "--root", str(root)]) == 0


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def test_a_changed_corpus_is_noticed_even_when_the_run_is_finished(
    tiny: Tiny, copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", str(tiny(f'source.paths=["{copy}/*.txt"]')), "--root", str(tmp_path / "runs")]
    assert invoke(arguments) == 0
    assert invoke(arguments) == 0
    (copy / "more.txt").write_text("a document that was not there before, and says something else")
    assert invoke(arguments) == 3
    assert "the corpus has changed" in capsys.readouterr().err


def test_a_short_run_is_not_called_diverged_for_noise(tiny: Tiny, tmp_path: Path) -> None:
    for seed in range(6):
        run = train(Recipe.load(tiny("budget.steps=3", f"seed={seed}")), tmp_path / "runs")
        assert run.state == "done"


def test_a_run_that_ends_above_its_start_has_diverged(tiny: Tiny, tmp_path: Path) -> None:
    overrides = ("optimizer.lr=300.0", "budget.steps=60", "train.clip=0.0", "schedule=constant")
    with pytest.raises(NumericsError, match=r"diverged|loss is|gradient is not finite"):
        train(Recipe.load(tiny(*overrides)), tmp_path / "runs")
    run = run_of(tmp_path / "runs")
    assert run.state == "diverged"
    assert {len(run.result[name]) for name in ("fingerprint", "heldout")} == {64}


def test_a_run_that_fails_keeps_where(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def surprise(self: Loop) -> None:
        raise KeyError("m")

    monkeypatch.setattr(Loop, "evaluate", surprise)
    with pytest.raises(KeyError):
        train(Recipe.load(tiny()), tmp_path / "runs")
    run = run_of(tmp_path / "runs")
    assert run.status.message == "KeyError: 'm'"
    (event,) = run.events("failed")
    assert "in surprise" in event["traceback"]


def test_a_gpu_is_kept_by_its_full_name(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isoflop.train.devices.has_device", lambda device: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    with pytest.raises((AssertionError, RuntimeError)):  # there is none
        train(Recipe.load(tiny("train.device=cuda")), tmp_path / "runs")
    made = run_of(tmp_path / "runs").environment
    assert (made["device"], made["determinism"]) == ("NVIDIA H100 80GB HBM3", "stat")


def test_a_device_that_no_machine_has_is_refused_with_the_recipe(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(["train", str(tiny()), "--device", "cdua", "--dry-run"]) == 2
    assert "train.device: no such device; did you mean cuda? (legal: cpu, cuda, mps, xpu)" in capsys.readouterr().err


def test_a_device_that_is_not_there_is_refused(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["train", str(tiny("train.device=cuda:63")), "--root", str(tmp_path / "runs")]) == 2
    assert "no device cuda:63" in capsys.readouterr().err


def test_a_budget_in_seconds_in_which_no_step_fits(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tiny("budget={seconds=1e-6}", "schedule=constant")
    assert invoke(["train", str(recipe), "--root", str(tmp_path / "runs")]) == 5
    assert "not one step fits" in capsys.readouterr().err


def test_a_root_that_cannot_be_made_is_a_clear_error(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["train", str(tiny()), "--root", "/proc/nowhere"]) == 3
    assert "/proc/nowhere" in capsys.readouterr().err


def test_an_optimizer_that_needs_more_than_the_objective_has_is_refused_by_name(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from isoflop.objectives.losses.next_token import NextTokenPart

    monkeypatch.setattr(NextTokenPart, "provides", frozenset({Likelihood}))
    assert invoke(["train", str(tiny()), "optimizer=gauss_newton", "--root", str(tmp_path / "runs")]) == 2
    assert "gauss_newton needs objective to be Linearizing, which next_token is not" in capsys.readouterr().err

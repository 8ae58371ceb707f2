"""A longer budget goes on from a shorter run where, and only where, that gives the same bytes as training at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from isoflop.cli.main import invoke
from isoflop.core.recipe import Recipe
from isoflop.store.run import Run
from isoflop.train.run import train

Tiny = Callable[..., Path]
SHORT, LONG = "budget.steps=12", "budget.steps=20"


def spent(run: Run) -> dict[str, float]:
    """What the run cost in training: all but seconds, and evaluations, which lie elsewhere in a longer run."""
    return {f"{phase} {axis}": amount for phase, bill in run.ledger.items() if phase != "evaluation"
            for axis, amount in bill.items() if axis != "seconds"}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "begins"),
    [
        (("schedule=constant",), 12),
        (("schedule=inverse_sqrt", "averaging=ema", "optimizer=muon"), 12),
        (("schedule=constant", "optimizer=schedule_free_adamw"), 12),
        (('schedule={name="wsd", warmup=2, decay=4}',), 8),
        (('schedule={name="wsd", warmup=2, decay=8}',), 4),
        (("schedule=cosine",), 0),
        (('schedule={name="wsd", warmup=0.2, decay=4}',), 0),
        (("schedule=constant", 'optimizer={name="ademamix"}'), 0),
        (("schedule=constant", 'averaging={name="sfa", period=0.25}'), 0),
        (("schedule=constant", 'parametrization={name="integer", bits=4, begin=0.5}'), 0),
    ],
    ids=["constant", "anytime", "schedule-free", "wsd", "wsd-early", "cosine", "share", "ademamix", "sfa", "timed"],
)
def test_a_longer_run_ends_with_the_bytes_and_the_bill_of_one_that_was_trained_at_once(
    tiny: Tiny, tmp_path: Path, changes: tuple[str, ...], begins: int
) -> None:
    keep = "train.keep=3"
    longer = Recipe.load(tiny(LONG, keep, *changes))
    at_once = train(longer, tmp_path / "other")
    train(Recipe.load(tiny(SHORT, keep, *changes)), tmp_path / "runs", name="short")
    heard: list[str] = []
    run = train(longer, tmp_path / "runs", lengthens=True, warn=heard.append)
    assert run.result["weights_sha256"] == at_once.result["weights_sha256"]
    assert spent(run) == spent(at_once)
    steps = [event["step"] for event in run.events("resumed")]
    assert steps == ([begins] if begins else [])
    said = f"goes on from {tmp_path / 'runs' / 'short'} at step {begins}" if begins else "begins at step 0, though"
    assert [said in line for line in heard] == [True]
    measured = [point["step"] for point in run.metrics("evaluation")]
    assert measured == sorted(set(measured))
    assert {point["step"] for point in at_once.metrics("step")} <= {point["step"] for point in run.metrics("step")}


def test_only_the_command_line_lengthens_unasked(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = ["--root", str(tmp_path / "runs")]
    assert invoke(["train", str(tiny("schedule=constant", SHORT)), *root, "--name", "a"]) == 0
    assert train(Recipe.load(tiny("schedule=constant", LONG)), tmp_path / "runs").events("resumed") == []
    longer = str(tiny("schedule=constant", "budget.steps=16"))
    assert invoke(["train", longer, *root, "--name", "a"]) == 2
    assert "it goes on from that run's state where its schedule allows that" in capsys.readouterr().err
    assert invoke(["train", longer, *root, "--name", "b"]) == 0
    assert Run.read(tmp_path / "runs" / "b").events("resumed")


def test_another_seed_or_a_damaged_checkpoint_is_no_beginning(tiny: Tiny, tmp_path: Path) -> None:
    short = train(Recipe.load(tiny("schedule=constant", SHORT, "train.keep=1")), tmp_path / "runs")
    (short.path / "checkpoints" / "12" / "model.safetensors").write_bytes(b"no weights")
    train(Recipe.load(tiny("schedule=constant", SHORT, "seed=5")), tmp_path / "runs")
    run = train(Recipe.load(tiny("schedule=constant", LONG)), tmp_path / "runs", lengthens=True)
    assert run.events("resumed") == []


def test_the_same_recipe_under_another_name_is_made_again(tiny: Tiny, tmp_path: Path) -> None:
    recipe = Recipe.load(tiny("schedule=constant", SHORT, "train.checkpoints=3", "train.keep=3"))
    train(recipe, tmp_path, name="first")
    heard: list[str] = []
    again = train(recipe, tmp_path, name="second", lengthens=True, warn=heard.append)
    assert again.events("resumed") == heard == []


def test_a_branch_is_kept_for_a_longer_run_to_go_on_from(tiny: Tiny, tmp_path: Path) -> None:
    decays = 'schedule={name="wsd", warmup=2, decay=8}'
    short = Recipe.load(tiny(decays, SHORT, "train.keep=1", "train.checkpoints=6"))
    (branch,) = {short.schedule.shared(12, longer) for longer in (13, 24, 1000)}
    assert branch == 5, "the first step that decays makes the same as one that does not"
    run = train(short, tmp_path / "runs", branch=branch)
    assert run.steps == [12, branch]
    longer = Recipe.load(tiny(decays, LONG, "train.keep=1"))
    run = train(longer, tmp_path / "runs", lengthens=True)
    assert [event["step"] for event in run.events("lengthened")] == [branch]
    assert run.result["weights_sha256"] == train(longer, tmp_path / "other").result["weights_sha256"]


def test_of_several_beginnings_the_longest_is_taken(tiny: Tiny, tmp_path: Path) -> None:
    for name, steps in (("a", 4), ("b", 8), ("c", 6)):
        train(Recipe.load(tiny("schedule=constant", f"budget.steps={steps}")), tmp_path / "runs", name=name)
    run = train(Recipe.load(tiny("schedule=constant", SHORT)), tmp_path / "runs", lengthens=True)
    (event,) = run.events("lengthened")
    assert (event["run"], event["step"]) == ("b", 8)
    assert event["ledger"] == {phase: bill for phase, bill in event["ledger"].items() if phase in run.ledger}
    assert event["ledger"]["train"]["steps"] == 8

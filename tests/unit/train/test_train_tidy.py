"""Optimizers' states of finished study runs are cleared away; whatever a result stands on stays."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from isoflop.cli.main import invoke
from isoflop.core.errors import DataError
from isoflop.core.files import write_json
from isoflop.core.recipe import Recipe
from isoflop.store import checkpoint
from isoflop.store.results import STUDY
from isoflop.store.run import Run
from isoflop.train import tidy
from isoflop.train.restore import restore, trained
from isoflop.train.run import train
from report_sample import make_study

Tiny = Callable[..., Path]


def counted(root: Path, *runs: Run) -> None:
    """A stored study whose result counts ``runs``."""
    tree = make_study().model_dump(mode="json")
    tree["runs"] = [{**tree["runs"][0], "run": run.path.name, "recipe_hash": run.hash} for run in runs]
    write_json(root / "s" / STUDY, tree)


def size(run: Run) -> int:
    return sum(file.stat().st_size for file in run.path.rglob("*") if file.is_file())


@pytest.mark.parametrize("changes", [(), ("optimizer=muon",), ("averaging=ema",)], ids=["adamw", "muon", "ema"])
def test_what_is_freed_is_the_optimizers_and_the_run_is_as_good_as_before(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: tuple[str, ...]
) -> None:
    run = train(Recipe.load(tiny(*changes)), tmp_path / "runs")
    counted(tmp_path / "runs", run)
    before, weights, value = size(run), trained(run).model.state_dict(), restore(run).measure()
    gc = ["runs", "gc", "--root", str(tmp_path / "runs"), "--json"]
    capsys.readouterr()
    assert invoke([*gc, "--dry-run"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["bytes"] > 0
    assert not planned["freed"]
    assert size(run) == before
    assert invoke(gc) == 0
    done = json.loads(capsys.readouterr().out)
    assert done == {**planned, "freed": True}
    assert before - size(run) > 0.9 * done["bytes"]

    after = Run.read(run.path)
    assert [checkpoint.damage(after.path / "checkpoints" / str(step)) for step in after.steps] == ["", ""]
    assert all(torch.equal(tensor, weights[name]) for name, tensor in trained(after).model.state_dict().items())
    assert restore(after).measure() == value
    assert (after.result, after.metrics()) == (run.result, run.metrics())
    assert invoke(gc) == 0
    assert json.loads(capsys.readouterr().out)["bytes"] == 0
    train(Recipe.load(tiny(f"start={run.path}", "budget.steps=1")), tmp_path / "runs")
    assert invoke(["train", str(tiny(*changes)), "--root", str(tmp_path / "runs")]) == 0


def test_runs_of_no_study_unfinished_ones_and_those_whose_state_is_wanted_are_left_alone(
    tiny: Tiny, tmp_path: Path
) -> None:
    root = tmp_path / "runs"
    wanted = train(Recipe.load(tiny()), root, name="wanted")
    train(Recipe.load(tiny("seed=9")), root, name="single")
    stopped = train(Recipe.load(tiny("seed=8")), root, name="stopped")
    stopped.set_status("stopped")
    free = train(Recipe.load(tiny("seed=7")), root, name="free")
    train(Recipe.load(tiny(f'start={{run="{wanted.path}", optimizer=true}}', "budget.steps=2")), root)
    counted(root, wanted, stopped, free)
    assert {each.run.path.name for each in tidy.clearable(root)} == {"free"}


def test_a_state_that_the_evaluated_weights_depend_on_stays(tiny: Tiny, tmp_path: Path) -> None:
    run = train(Recipe.load(tiny("optimizer=schedule_free_adamw", "schedule=constant")), tmp_path / "runs")
    counted(tmp_path / "runs", run)
    assert list(tidy.clearable(tmp_path / "runs")) == []


def test_training_does_not_go_on_from_a_cleared_state_in_silence(tiny: Tiny, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    run = train(Recipe.load(tiny()), root)
    counted(root, run)
    for each in tidy.clearable(root):
        tidy.clear(each)
    with pytest.raises(DataError, match="its optimizer's state was cleared away"):
        train(Recipe.load(tiny(f'start={{run="{run.path}", optimizer=true}}', "budget.steps=2")), root)
    run.set_status("stopped")
    (run.path / "result.json").unlink()
    with pytest.raises(DataError, match="its optimizer's state was cleared away"):
        train(Recipe.load(tiny()), root)


@pytest.mark.parametrize("averaging", ["ema", "none"])
@pytest.mark.parametrize("at", ["write_json", "load_tensors", "disk_errors", "checkpoint._entries"])
def test_a_clearing_that_was_cut_off_leaves_a_whole_checkpoint_and_is_finished_by_the_next(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str, averaging: str
) -> None:
    run = train(Recipe.load(tiny("train.keep=1", f"averaging={averaging}")), tmp_path / "runs")
    counted(tmp_path / "runs", run)
    weights = trained(run).model.state_dict()
    (each,) = tidy.clearable(tmp_path / "runs")

    def cut(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(f"isoflop.train.tidy.{at}", cut)
        with pytest.raises(KeyboardInterrupt):
            tidy.clear(each)
    for _ in range(2):
        assert not checkpoint.damage(each.directory)
        assert all(torch.equal(tensor, weights[name]) for name, tensor in trained(run).model.state_dict().items())
        for left in tidy.clearable(tmp_path / "runs"):
            tidy.clear(left)
    assert list(tidy.clearable(tmp_path / "runs")) == []
    assert "state.json" in checkpoint.digests(each.directory)

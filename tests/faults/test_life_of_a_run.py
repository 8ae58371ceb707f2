"""What happens to a run's directory over its life: it fails before it begins, is asked for again, loses files."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from isoflop.cli.main import invoke
from isoflop.core.errors import DataError, RecipeError
from isoflop.core.recipe import Recipe
from isoflop.store.run import Run
from isoflop.train.run import train

Tiny = Callable[..., Path]


def root_of(tmp_path: Path) -> list[str]:
    return ["--root", str(tmp_path / "runs")]


@pytest.mark.parametrize(
    "fault",
    ['source.paths=["{empty}/none*.txt"]', 'source.paths=["{empty}/*.txt"]', "train.device=cuda:63"],
    ids=["no-file", "too-little", "no-device"],
)
def test_a_start_that_failed_before_the_first_step_does_not_block_its_name(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: str
) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("one")
    recipe = str(tiny())
    named = [*root_of(tmp_path), "--name", "mine"]
    assert invoke(["train", recipe, fault.format(empty=tmp_path / "texts"), *named]) != 0
    capsys.readouterr()
    assert invoke(["runs", "show", "mine", *root_of(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "failed" in said
    assert "Error" in said
    assert invoke(["train", recipe, *named]) == 0, capsys.readouterr().err
    assert Run.read(tmp_path / "runs" / "mine").state == "done"


def test_what_a_run_kept_blocks_its_name(tiny: Tiny, tmp_path: Path) -> None:
    train(Recipe.load(tiny()), tmp_path / "runs", name="mine")
    with pytest.raises(RecipeError, match="holds a run of another recipe"):
        train(Recipe.load(tiny("optimizer.lr=0.02")), tmp_path / "runs", name="mine")


def test_a_start_that_another_process_is_making_is_not_removed(tiny: Tiny, tmp_path: Path) -> None:
    begun = Run.open(tmp_path / "runs", Recipe.load(tiny()), name="mine")
    with begun.lock(), pytest.raises(Exception, match="in use by"):
        train(Recipe.load(tiny("optimizer.lr=0.02")), tmp_path / "runs", name="mine")
    assert begun.path.exists()


def test_deleted_checkpoints_are_made_again(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = Recipe.load(tiny())
    before = train(recipe, tmp_path / "runs", name="mine").result
    shutil.rmtree(tmp_path / "runs" / "mine" / "checkpoints")
    assert invoke(["train", str(tiny()), *root_of(tmp_path), "--name", "mine"]) == 0
    assert "they are made again" in capsys.readouterr().err
    after = Run.read(tmp_path / "runs" / "mine")
    assert after.state == "done"
    assert {**after.result, "seconds": 0} == {**before, "seconds": 0}
    assert len(after.metrics("evaluation")) == recipe.train.evaluations
    assert invoke(["eval", "mine", *root_of(tmp_path)]) == 0


def test_deleted_checkpoints_are_not_made_again_on_another_text(tiny: Tiny, copy: Path, tmp_path: Path) -> None:
    recipe = Recipe.load(tiny(f'source.paths=["{copy}/*.txt"]'))
    run = train(recipe, tmp_path / "runs")
    shutil.rmtree(run.path / "checkpoints")
    (copy / "more.txt").write_text("a document that was not there before, and says something else")
    with pytest.raises(DataError, match="the corpus has changed"):
        train(recipe, tmp_path / "runs")
    assert run.state == "done"

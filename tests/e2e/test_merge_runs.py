"""Runs of ours as sources: the last checkpoints of a run averaged, two runs merged."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from isoflop.cli.main import invoke
from isoflop.core.recipe import Recipe
from isoflop.merge.recipe import MergeRecipe, MergeSource
from isoflop.pipelines.evaluated import evaluated_runs
from isoflop.store.tensors import Checkpoint
from isoflop.train.restore import trained
from isoflop.train.run import train


def test_runs_and_their_last_checkpoints_merge(
    tiny: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for seed in (1, 2):
        path = tiny(f"seed={seed}", "budget.steps=6", "train.checkpoints=3", "train.keep=3", name=f"{seed}.toml")
        assert invoke(["train", str(path), "--name", f"run{seed}", "--threads", "1"]) == 0
    Path("last.toml").write_text('method = "linear"\nmodels = [{ path = "runs/run1", checkpoints = 2 }]\n')
    Path("two.toml").write_text('method = "linear"\nmodels = [{ path = "runs/run1" }, { path = "runs/run2" }]\n')
    assert invoke(["merge", "last.toml", "last"]) == 0
    assert invoke(["merge", "two.toml", "two"]) == 0
    steps = sorted((int(p.name) for p in Path("runs/run1/checkpoints").iterdir() if p.name.isdigit()), reverse=True)
    one, two = (Checkpoint(f"runs/run1/checkpoints/{step}") for step in steps[:2])
    other = Checkpoint("runs/run2/checkpoints/6")
    last, both = Checkpoint("last"), Checkpoint("two")
    assert set(last.tensors) == set(one.tensors) == set(both.tensors)
    for name in one.tensors:
        torch.testing.assert_close(last.read(name), (one.read(name) + two.read(name)) / 2)
        torch.testing.assert_close(both.read(name), (one.read(name) + other.read(name)) / 2)
    capsys.readouterr()
    assert invoke(["merge", "inspect", "runs/run1", "runs/run2", "--out", "looked"]) == 0
    assert "What will interfere" not in capsys.readouterr().out, "a table without a row"
    assert "What will interfere" not in Path("looked/report.html").read_text()


def test_factors_of_adapters_are_not_merged_apart(
    tiny: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The mean of A and the mean of B is not the mean of B A: such runs are exported first."""
    monkeypatch.chdir(tmp_path)
    for seed in (1, 2):
        lora = 'parametrization={name="lora", rank=2}'
        path = tiny(f"seed={seed}", lora, "budget.steps=1", name=f"{seed}.toml")
        assert invoke(["train", str(path), "--name", f"run{seed}", "--threads", "1"]) == 0
    Path("two.toml").write_text('method = "linear"\nmodels = [{ path = "runs/run1" }, { path = "runs/run2" }]\n')
    assert invoke(["merge", "two.toml", "two"]) == 2
    assert (
        """a parametrization's own; merge it as it is evaluated: weights = "evaluated"; or isoflop merge export"""
        in (capsys.readouterr().err)
    )
    for number in (1, 2):
        assert invoke(["merge", "export", f"runs/run{number}", f"plain{number}"]) == 0
    Path("two.toml").write_text('method = "linear"\nmodels = [{ path = "plain1" }, { path = "plain2" }]\n')
    assert invoke(["merge", "two.toml", "two"]) == 0


AVERAGED = 'averaging={name="tail", fraction=1.0}'


@pytest.mark.parametrize("part", [AVERAGED, 'parametrization={name="lora", rank=2}'], ids=["averaged", "parametrized"])
def test_runs_merge_by_the_weights_that_they_are_evaluated_with(
    tiny: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for seed in (1, 2):
        path = tiny(f"seed={seed}", part, "budget.steps=4", "optimizer.lr=0.02", name=f"{seed}.toml")
        assert invoke(["train", str(path), "--name", f"run{seed}", "--threads", "1"]) == 0
        assert invoke(["merge", "export", f"runs/run{seed}", f"plain{seed}"]) == 0
    wanted = 'weights = "evaluated"\nmethod = "linear"\nmodels = [{ path = "runs/run1" }, { path = "runs/run2" }]\n'
    Path("two.toml").write_text(wanted)
    assert invoke(["merge", "two.toml", "two", "--dry-run"]) == 0
    assert not Path("two").exists()
    assert invoke(["merge", "two.toml", "two", "--workers", "2"]) == 0
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith("two")) == ["two", "two.toml"]
    one, other, both = (Checkpoint(name) for name in ("plain1", "plain2", "two"))
    trained = Checkpoint("runs/run1/checkpoints/4")
    assert any(not torch.equal(trained.read(n), one.read(n)) for n in one.tensors)
    for name in both.tensors:
        torch.testing.assert_close(both.read(name), (one.read(name) + other.read(name)) / 2)
    assert "run1" in Path("two/README.md").read_text()
    Path("two.toml").write_text(wanted.replace('"runs/run1" }', '"runs/run1", checkpoints = 1 }'))
    assert invoke(["merge", "two.toml", "again"]) == 2


def test_what_stopped_a_merge_of_evaluated_weights_leaves_them_for_the_next(
    tiny: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert invoke(["train", str(tiny(AVERAGED)), "--name", "run", "--threads", "1"]) == 0
    recipe = MergeRecipe(method="linear", weights="evaluated", models=(MergeSource(path="runs/run"),))
    with suppress(KeyboardInterrupt), evaluated_runs(recipe, Path("out")) as plain:
        (place,) = plain(recipe).paths()
        stamp = Path(place, "model.safetensors").stat().st_mtime_ns
        raise KeyboardInterrupt
    with evaluated_runs(recipe, Path("out")) as plain:
        assert Path(*plain(recipe).paths(), "model.safetensors").stat().st_mtime_ns == stamp
    assert not Path("out.weights").exists()


def test_wise_ft_lies_on_the_line_from_a_run_to_what_was_fine_tuned_from_it(
    tiny: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    base = train(Recipe.load(tiny("budget.steps=4")), "runs", name="base")
    tuned = train(Recipe.load(tiny("budget.steps=4", "seed=5"), f"start={base.path}"), "runs", name="tuned")
    text = (
        'method = "wise_ft"\nbase = "runs/base"\nmodels = [{{ path = "runs/tuned" }}]\nparameters = {{ alpha = {} }}\n'
    )
    for share in (0.0, 0.25, 1.0):
        Path("w.toml").write_text(text.format(share))
        assert invoke(["merge", "w.toml", f"at{share}"]) == 0
    models = [trained(run).model.state_dict() for run in (base, tuned)]
    for name, weight in models[0].items():
        line = 0.75 * weight + 0.25 * models[1][name]
        torch.testing.assert_close(Checkpoint("at0.25").read(name), line)
        assert torch.equal(Checkpoint("at0.0").read(name), weight)
        assert torch.equal(Checkpoint("at1.0").read(name), models[1][name])

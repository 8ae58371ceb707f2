"""Runs of ours as sources: the last checkpoints of a run averaged, two runs merged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from isoflop.cli.main import invoke
from isoflop.store.tensors import Checkpoint


def test_runs_and_their_last_checkpoints_merge(
    tiny: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
    assert invoke(["merge", "inspect", "runs/run1", "runs/run2"]) == 0


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
    assert "a parametrization's own; write the plain model first: isoflop merge export runs/run1 OUT" in (
        capsys.readouterr().err
    )
    for number in (1, 2):
        assert invoke(["merge", "export", f"runs/run{number}", f"plain{number}"]) == 0
    Path("two.toml").write_text('method = "linear"\nmodels = [{ path = "plain1" }, { path = "plain2" }]\n')
    assert invoke(["merge", "two.toml", "two"]) == 0

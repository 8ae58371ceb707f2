"""Runs of ours that were exported and merged, read by transformers (extra `hf`)."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from isoflop.cli.main import invoke
from isoflop.core.recipe import Recipe
from isoflop.train.restore import trained
from isoflop.train.run import train

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    transformers = pytest.importorskip("transformers", reason="needs the extra hf")

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


def test_published_runs_merge_into_what_transformers_loads(
    tiny: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mean of two runs, each written as transformers wants it, gives the logits of the mean of their weights."""
    monkeypatch.chdir(tmp_path)
    base = train(Recipe.load(tiny("budget.steps=2")), "runs", name="base")
    states = []
    for seed in (1, 2):
        run = train(Recipe.load(tiny(f"seed={seed}"), f"start={base.path}"), "runs", name=f"run{seed}")
        states.append(trained(run))
        assert invoke(["export", str(run.path), f"hf{seed}"]) == 0
    Path("two.toml").write_text('method = "linear"\nmodels = [{ path = "hf1" }, { path = "hf2" }]\n')
    assert invoke(["merge", "two.toml", "mean"]) == 0
    theirs = transformers.AutoModelForCausalLM.from_pretrained("mean")
    ours, ids = states[0].model, torch.arange(24).view(2, 12)
    other = states[1].model.state_dict()
    ours.load_state_dict({name: (weight + other[name]) / 2 for name, weight in ours.state_dict().items()})
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, ours(ids), atol=1e-5, rtol=0)

"""Search of more numbers than the rate: planted optima come out, and every arm gets the same trials."""

from __future__ import annotations

import math

import pytest

from isoflop.core.errors import RecipeError
from isoflop.lab.compare import compare
from isoflop.lab.study import Study, planned_runs
from study_toys import Planted

KNOBS = 'tuning.knobs={"optimizer.weight_decay"=[0.05, 0.1, 0.2], "optimizer.eps"=[1e-9, 1e-8]}'


class Bowls(Planted):
    """Weight decay has its optimum at 0.2 for muon and at 0.05 for the baseline."""

    def quality(self, job, tokens):
        best = 0.2 if job.arm == "muon" else 0.05
        return super().quality(job, tokens) + 0.01 * math.log2(job.recipe.optimizer.weight_decay / best) ** 2


@pytest.mark.parametrize(("search", "trials"), [("coordinate", 4 + 3 + 2), ("joint", 4 * 3 * 2)])
def test_each_arm_finds_its_own_optimum_with_the_same_number_of_trials(tiny, tmp_path, search, trials):
    study = tiny.with_(KNOBS, f"tuning.search={search}")
    executor = Bowls({"muon": 2.0}, optimum=lambda arm, rung: 4e-3)
    result = compare(study, tmp_path, executor=executor, corpus={})
    low = [job for job in executor.asked if job.role == "tuning" and job.rung == 0]
    hashes = {arm: [job.recipe.hash for job in low if job.arm == arm] for arm in study.everyone}
    assert {len(each) for each in hashes.values()} == {trials}
    planned = [runs for role, arm, rung, runs in planned_runs(study) if (role, rung) == ("tuning", 0)]
    assert planned == [trials, trials]
    chosen = {(t.arm, t.hyper): t.chosen for t in result.tunings if t.rung == 0}
    assert chosen["muon", "optimizer.weight_decay"] == 0.2
    assert chosen["adamw", "optimizer.weight_decay"] == 0.05
    evaluated = {(j.arm, j.recipe.optimizer.weight_decay) for j in executor.asked if j.role == "evaluation"}
    assert evaluated == {("adamw", 0.05), ("muon", 0.2)}
    assert "weight_decay = 0.2" in result.recipes["muon"]
    assert Study.from_toml(result.definition).differences(study) == []


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ('tuning.knobs={"optimizer.rho"=[0.1, 0.2]}', "does not take optimizer.rho"),
        ('tuning.knobs={"optimizer.lr"=[0.1, 0.2]}', r"is tuning\.hyper"),
        ('tuning.knobs={"optimizer.eps"=[0.2, 0.1]}', "values must ascend"),
        ('tuning.knobs={"optimizer.eps"=[0.2]}', "optimizer.eps"),
        ("tuning.knobs={a=[1.0, 2.0], b=[1.0, 2.0], c=[1.0, 2.0]}", "at most 2"),
    ],
)
def test_knobs_that_not_every_arm_has_are_refused(tiny, change, complaint):
    with pytest.raises(RecipeError, match=complaint):
        tiny.with_(change)

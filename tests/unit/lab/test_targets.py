"""Steps to a target on planted curves: the critical batch that was planted comes out."""

from __future__ import annotations

import math

import pytest

from isoflop.cli.main import invoke
from isoflop.core.errors import NumericsError, RecipeError
from isoflop.core.table import Table
from isoflop.lab.claims.claim import ClaimBar
from isoflop.lab.claims.findings import finding
from isoflop.lab.targets import TargetStudy, critical_batch, run_targets, steps_to
from isoflop.laws import CriticalBatch
from isoflop.store.measured import TARGETS
from isoflop.store.results import Point, RunRow

TOML = """
name = "sizes"
target = 2.6
batches = [1, 2, 4, 8, 16, 32]
tokens = 65536
evaluations = 32
seeds = [1, 2, 3]
tuning_seeds = [101]
rates = [0.004, 0.008, 0.016]

[recipe]
schedule = "constant"
source = { name = "hmm", text_bytes = 20000, heldout_bytes = 2000 }
tokenizer = "bytes"
model = { name = "transformer", d_model = 16, layers = 1, mixer = { name = "attention", heads = 2 } }
train = { length = 16 }
"""
NOISE = 8.0
"""Steps to a quality are as many as without noise, times 1 + NOISE / batch."""


def planted(assignments):
    """Loss falls as a power of steps / (1 + NOISE / batch); the middle rate is the best."""
    for job in assignments:
        batch, horizon = job.recipe.train.batch, job.recipe.budget.steps
        miss = 1 + 0.1 * math.log2(job.hyper["optimizer.lr"] / 0.008) ** 2 + 0.001 * (job.seed % 3)
        curve = []
        for step in sorted({max(1, horizon * k // 32) for k in range(1, 33)}):
            value = 2 + 3 * (step / (1 + NOISE / batch) / miss) ** -0.5
            spent = dict.fromkeys(("flops", "hardware_flops", "tokens", "text_bytes"), step)
            curve.append(Point(step=step, **spent, seconds=1.0, value=value, stderr=None))
        name = job.recipe.hash
        common = {"run": name, "recipe_hash": name, "arm": job.arm, "rung": job.rung, "seed": job.seed}
        ledger = {job.role: {"flops": 10.0**9}}
        yield RunRow(**common, role=job.role, status="done", curve=curve, cpu_seconds=1.0, ledger=ledger)


def test_the_planted_critical_batch_comes_out(tmp_path):
    study = TargetStudy.from_toml(TOML)
    result = run_targets(study, tmp_path, executor=planted)
    sizes = (1 + NOISE / 1) * 1 * 1.2 - NOISE  # E(B) = S (B + NOISE), least at B = 1
    assert result.values["critical_batch"] == pytest.approx([sizes] * 3, rel=0.12)
    assert result.values["steps_8"] == pytest.approx([25 * 2 * 2] * 3, abs=55)
    assert result.notes[0] == "rates: 1 0.008, 2 0.008, 4 0.008, 8 0.008, 16 0.008, 32 0.008"
    runs = 6 * (3 + 3)  # batches x (rates on the tuning seed + evaluation seeds): nothing that was spent is left out
    assert (result.cpu_seconds, result.flops) == (runs, runs * 1e9)
    assert len(set(result.recipes)) == runs
    assert (tmp_path / "sizes" / TARGETS).exists()
    table = Table.read_csv(tmp_path / "sizes" / "steps.csv")
    assert table.rows == 3 * len(study.batches)
    (row,) = CriticalBatch(base=1.0).prepare(table).records()  # (B + NOISE) / (1 + NOISE) = 1.2
    assert row["B_crit"] == pytest.approx(sizes, rel=0.15)
    bar = {"says": "s", "study": "a", "value": "critical_batch", "at_least": 1.0}
    assert finding(ClaimBar.model_validate(bar), result).value == pytest.approx(sizes, rel=0.12)
    less = {**bar, "less": {"study": "b", "value": "critical_batch"}}
    assert finding(ClaimBar.model_validate(less), result, other=result).value == 0.0


def test_a_target_that_no_rate_reaches_is_told(tmp_path):
    with pytest.raises(NumericsError, match="no rate of batch 1 reached 2"):
        run_targets(TargetStudy.from_toml(TOML, "target=2.0"), tmp_path, executor=planted)


def test_batches_beyond_the_critical_one_need_not_reach_the_target(tmp_path):
    """Data of a batch that falls short are more than it was given, and that is all that must be known of it."""
    full = run_targets(TargetStudy.from_toml(TOML), tmp_path / "full", executor=planted)
    most = int(max(full.values["steps_8"]) * 8 * 16 * 1.1)  # 16 and 32 fall short, 4 lies beyond the critical batch
    result = run_targets(TargetStudy.from_toml(TOML, f"tokens={most}"), tmp_path / "short", executor=planted)
    assert result.values["critical_batch"] == pytest.approx(full.values["critical_batch"], rel=0.05)
    assert {"steps_8", "steps_16", "steps_32"} & set(result.values) == {"steps_8"}
    assert [note for note in result.notes if "batch 32 needs more than" in note]


def test_a_bound_is_told_as_one_and_is_no_value(tmp_path):
    few = TargetStudy.from_toml(TOML, "batches=[1, 2, 16]", "tokens=9000")
    result = run_targets(few, tmp_path, executor=planted)
    assert "critical_batch" not in result.values
    assert sum("critical batch lies" in note for note in result.notes) == 3


@pytest.mark.parametrize(
    ("steps", "reached", "found"),
    [
        ([100, 55, 40], [True, True, False], (2.35, "below")),
        ([100, 55, 25], [True, True, False], (2, "above")),
        ([100, 80, 20], [True, True, False], (1.31, "")),
    ],
)
def test_batches_that_fall_short_bound_the_critical_one(steps, reached, found):
    size, side = critical_batch([1, 2, 4], steps, 1.2, reached)
    assert (round(size, 2), side) == found


def test_a_run_that_falls_short_gives_its_steps_as_a_bound():
    (row,) = planted(_one(TargetStudy.from_toml(TOML)))
    steps, reached = steps_to(row, 2.0)
    assert (steps, reached) == (pytest.approx(row.curve[-1].step), False)


def _one(study):
    from isoflop.lab.workers import Assignment

    return [Assignment(study.recipe_of(8, 1, 0.008), "batch 8", 0, "evaluation", {"optimizer.lr": 0.008})]


def test_a_critical_batch_beyond_the_largest_is_said_to_be():
    assert critical_batch([1, 2, 4], [100, 50, 25], 1.2) == (4.0, "above")


@pytest.mark.parametrize(
    "option",
    [["--dry-run"], ["--detect", "1.2"], ["--track", "wandb"], ["--export-runs", "out"], ["--import-runs", "made"]],
)
def test_what_such_a_study_cannot_do_is_refused_and_nothing_runs(option, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("isoflop.lab.targets.run_targets", lambda *given, **named: pytest.fail("it ran"))
    (tmp_path / "sizes.toml").write_text(TOML)
    assert invoke(["compare", str(tmp_path / "sizes.toml"), "--root", str(tmp_path / "runs"), *option]) == 2
    assert f"a study of batch sizes, which has no {option[0]}" in capsys.readouterr().err


def test_its_runs_are_made_on_the_device_that_is_asked_for(tmp_path, monkeypatch, capsys):
    asked = []

    def noted(study, root, **named):
        asked.append(study.recipe_of(8, 1, 0.008).train.device)
        return run_targets(study, root, executor=planted)

    monkeypatch.setattr("isoflop.lab.targets.run_targets", noted)
    (tmp_path / "sizes.toml").write_text(TOML)
    assert invoke(["compare", str(tmp_path / "sizes.toml"), "--root", str(tmp_path), "--device", "cuda"]) == 0
    assert asked == ["cuda"]
    assert "critical_batch: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("batches=[4, 2, 8]", "batches: must ascend"),
        ("tuning_seeds=[1]", "also an evaluation seed"),
        ('recipe.schedule="cosine"', "needs a horizon"),
        ("recipe.train.length=0", "recipe"),
    ],
)
def test_an_unfair_study_is_refused(change, complaint):
    with pytest.raises(RecipeError, match=complaint):
        TargetStudy.from_toml(TOML, change)

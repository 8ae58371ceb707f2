"""A ladder whose rungs branch: longer runs go on from shorter ones, to the same bytes, and steps are paid once."""

from __future__ import annotations

from pathlib import Path

import pytest

from isoflop.errors import RecipeError
from isoflop.lab.branches import most_shared, remarks
from isoflop.lab.compare import bill, evaluation_runs
from isoflop.lab.plan import priced
from isoflop.lab.preflight import Speed
from isoflop.lab.tuning import Tuned
from isoflop.lab.workers import Assignment, LocalWorkers, finished, row_of
from isoflop.ledger.budgets import step_cost
from isoflop.store.results import RunRow, Trunk, Tuning
from isoflop.train.run import train

BRANCHES = ("ladder.branches=true",)
CONSTANT = ('recipe.schedule={name="constant", warmup=2}', *BRANCHES)
DECAYING = ('recipe.schedule={name="wsd", warmup=2, decay=0.5}', *BRANCHES)


def tuned(low: float, top: float) -> Tuned:
    def chosen(arm: str, rung: int, value: float) -> Tuning:
        return Tuning(arm=arm, rung=rung, hyper="optimizer.lr", values=[value], quality=[2.0], chosen=value)

    return Tuned({arm: chosen(arm, 0, low) for arm in ("adamw", "muon")}, chosen("adamw", 2, top))


def made(jobs: list[Assignment], root: Path) -> list[RunRow]:
    """What workers make of runs, in this process: shorter ones first."""
    for job in sorted(jobs, key=lambda job: job.flops):
        train(job.recipe, root, lengthens=job.branch is not None, branch=job.branch or 0)
    return [row_of(run, job, reused=False) for job in jobs if (run := finished(root, job.recipe)) is not None]


@pytest.mark.parametrize(("changes", "shared"), [(CONSTANT, [4, 8]), (DECAYING, [3, 5])], ids=["constant", "wsd"])
def test_rungs_of_one_value_share_their_first_steps_and_the_bill_counts_them_once(tiny, tmp_path, changes, shared):
    study = tiny.with_(*changes)
    jobs = [job for job in evaluation_runs(study, tuned(4e-3, 4e-3)) if (job.arm, job.seed) == ("adamw", 1)]
    rows = made(jobs, tmp_path)
    assert [row.trunk and row.trunk.step for row in rows] == [None, *shared]
    assert [row.end.flops for row in rows] == [job.flops for job in jobs], "a run's own cost is its whole path's"
    cost = step_cost(jobs[0].recipe)
    paid = sum(amounts["flops"] for phase, amounts in bill(rows).items() if phase != "evaluation")
    assert paid == sum(job.flops for job in jobs) - sum(cost.run(steps).flops for steps in shared)
    assert bill(rows)["train"]["steps"] == 4 + 8 + 16 - sum(shared)
    (line,) = remarks(study, tuned(4e-3, 4e-3), rows)
    assert line.startswith("2 of 3 runs went on from a shorter one")
    alone = train(jobs[-1].recipe, tmp_path / "alone")
    assert rows[-1].end.value == alone.result["value"]


def test_a_trunk_that_the_study_did_not_pay_is_in_its_bill():
    row = {"arm": "a", "rung": 1, "seed": 1, "role": "evaluation", "status": "diverged"}
    ledger, trunk = {"train": {"flops": 10.0}}, Trunk(recipe_hash="other", step=4, ledger={"train": {"flops": 4.0}})
    longer = RunRow(run="long", recipe_hash="long", ledger=ledger, trunk=trunk, **row)
    shorter = RunRow(run="short", recipe_hash="other", ledger={"train": {"flops": 5.0}}, **row)
    assert bill([longer])["train"]["flops"] == 10
    assert bill([longer, shorter])["train"]["flops"] == 10 - 4 + 5


def test_values_that_differ_by_rung_share_nothing_and_it_is_said(tiny):
    study = tiny.with_(*CONSTANT)
    jobs = [job for job in evaluation_runs(study, tuned(4e-3, 1e-3)) if job.arm == "adamw" and job.seed == 1]
    assert len({job.path for job in jobs}) == 3
    assert [*remarks(study, tuned(4e-3, 1e-3), [])][1].startswith("adamw was tuned to 0.004, 0.002, 0.001 by rung")


def test_a_run_waits_for_the_shorter_one_that_it_goes_on_from(tiny):
    def order(study):
        workers, pending, out = LocalWorkers(Path("runs"), 1), list(evaluation_runs(study, tuned(4e-3, 4e-3))), []
        pending.sort(key=lambda job: -job.flops)
        while pending:
            out.append(workers._next(pending))
            pending.remove(out[-1])
        return [(job.arm, job.seed, job.rung) for job in out]

    apart, branching = order(tiny), order(tiny.with_(*CONSTANT))
    assert [rung for _, _, rung in apart[:3]] == [2, 2, 2]
    for arm, seed in {(arm, seed) for arm, seed, _ in branching}:
        rungs = [rung for each, own, rung in branching if (each, own) == (arm, seed)]
        assert rungs == sorted(rungs)


def test_the_plan_says_what_is_shared_at_most(tiny):
    study = tiny.with_(*CONSTANT)
    cost = step_cost(study.base("adamw"))
    assert most_shared(study) == 3 * (cost.run(4).flops + cost.run(8).flops) + 4 * cost.run(4).flops
    speeds = {arm: Speed(1e9, 0.1) for arm in study.everyone}
    assert "are steps that longer runs take over from shorter ones" in priced(study, speeds, 1).text()
    assert "take over" not in priced(tiny, speeds, 1).text()


def test_branches_of_a_schedule_that_knows_the_length_are_refused(tiny):
    with pytest.raises(RecipeError, match=r"ladder.branches: every rate goes by the length .* \(cosine of adamw\)"):
        tiny.with_(*BRANCHES)
    assert tiny.to_toml() == tiny.with_("ladder.branches=false").to_toml(), "a study without branches is as it was"

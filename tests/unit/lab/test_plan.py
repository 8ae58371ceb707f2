"""A plan counts a study's runs and FLOPs exactly and says what the study could see."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import stats

from isoflop.core.significance import half_width
from isoflop.errors import NumericsError, Stopped, UsageError
from isoflop.lab import demo as demo_module
from isoflop.lab import preflight as preflight_module
from isoflop.lab.compare import compare
from isoflop.lab.demo import CAP, RESERVE, sized
from isoflop.lab.ladder import interpolation_error, invert
from isoflop.lab.plan import plan, priced
from isoflop.lab.power import Noise, chances, noise_of, shown_by
from isoflop.lab.preflight import Speed, speed_of, speeds_here
from isoflop.lab.study import Study
from isoflop.ledger.budgets import step_cost
from isoflop.store.results import Point, RunRow
from isoflop.store.run import Run


def test_the_plan_lists_every_run_with_exact_flops(tiny):
    speeds = {"adamw": Speed(1e9, 0.5, 0.25), "muon": Speed(5e8, 0.5, 0.25)}
    found = priced(tiny, speeds, workers=2)
    assert found.runs == 4 + 4 + 4 + 3 * 3 + 3
    each = step_cost(tiny.run_recipe("adamw", 0, 1)).run(1).flops
    muon = step_cost(tiny.run_recipe("muon", 0, 1)).run(1).flops
    adamw_steps = 4 * 4 + 4 * 16 + 3 * (4 + 8 + 16)
    assert found.flops == adamw_steps * each + (4 + 3) * 4 * muon
    seconds = adamw_steps * each / 1e9 + 7 * 4 * muon / 5e8 + found.runs * 0.75
    assert found.cpu_seconds == pytest.approx(seconds)
    assert found.minutes == pytest.approx(seconds / 2 / 60)
    assert found.spare == 2 * 3
    assert f"{found.runs} runs" in found.text()
    assert found.to_json()["runs"] == found.runs


def test_the_plan_is_what_the_study_asks_for(tiny, planted, tmp_path):
    """The same runs are planned and carried out."""
    executor = planted({"muon": 2.0})
    compare(tiny, tmp_path, executor=executor, corpus={})
    found = priced(tiny, dict.fromkeys(tiny.everyone, Speed(1e9, 0.0)), workers=1)
    assert found.runs == len(executor.asked)
    assert found.flops == sum(job.flops for job in executor.asked)


def test_only_short_runs_are_made_to_time_them(tiny):
    asked = []

    def executor(assignments):
        for job in assignments:
            asked.append(job)
            yield timed(job.arm)

    found = plan(tiny, executor=executor)
    assert [job.arm for job in asked] == ["adamw", "adamw", "muon"]
    assert all(job.recipe.budget.steps <= 24 and job.recipe.train.evaluations == 2 for job in asked)
    assert not any(job.recipe.seed in tiny.seeds for job in asked)
    assert found.batches[0].seconds == pytest.approx(0.6 + found.batches[0].flops / 1e9 + 0.2)


def timed(arm: str) -> RunRow:
    """A short run: 1 GFLOP/s after the first half, 0.2 s an evaluation, 0.6 s to set up, 90 % of a core."""
    spent = {"step": 12, "hardware_flops": 1, "tokens": 1, "text_bytes": 1, "value": 4.0, "stderr": 0.0}
    curve = [Point(**spent, flops=10**9, seconds=3.0), Point(**spent, flops=2 * 10**9, seconds=4.0)]
    return RunRow(
        run="r", recipe_hash="h", arm=arm, rung=0, seed=101, role="tuning", status="done", curve=curve,
        ledger={"train": {"flops": 2}, "evaluation": {"seconds": 0.4, "flops": 1}}, wall_seconds=5.0, cpu_seconds=4.5,
    )  # fmt: skip


def test_speed_leaves_the_warm_up_out():
    assert speed_of(timed("a")) == Speed(1e9, 0.2, pytest.approx(0.6), 0.9)


def test_an_arm_that_diverges_while_it_is_timed_is_named(tiny):
    def executor(assignments):
        for job in assignments:
            row = timed(job.arm).model_copy(update={"hyper": dict(job.hyper)})
            yield row if job.arm == "adamw" else row.model_copy(update={"status": "diverged", "curve": []})

    with pytest.raises(NumericsError, match=r"muon, optimizer.lr 0.008: diverged within the 24 steps"):
        plan(tiny, executor=executor)


@pytest.fixture
def machine(monkeypatch):
    """Local workers that make real run directories without training, on processors of a name; counts their runs."""

    class Machine:
        cpu, runs, broken = "one", 0, False

        def __init__(self, root, count):
            self.root, self.count = root, count

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def __call__(self, assignments):
            for job in assignments:
                assert Run.find(self.root, job.recipe) is None, "a run of other conditions would be reused"
                run = Run.open(self.root, job.recipe)
                run.set_status("done")
                (run.path / "weights").write_bytes(bytes(5000))
                Machine.runs += 1
                if Machine.broken:
                    raise Stopped(2, "stopped")
                row = timed(job.arm)
                yield row.model_copy(update={"cpu_seconds": float(Machine.runs), "memory_bytes": 3 * 10**8})

    monkeypatch.setattr(preflight_module, "LocalWorkers", Machine)
    monkeypatch.setattr(preflight_module, "process", lambda: {"cpu": Machine.cpu})
    return Machine


def test_speeds_are_measured_once_for_a_processor_and_a_number_of_workers(tiny, machine, tmp_path):
    first = speeds_here(tiny, tmp_path, 2)
    assert machine.runs == 3
    assert speeds_here(tiny, tmp_path, 2) == first
    assert machine.runs == 3
    assert speeds_here(tiny, tmp_path, 1) != first
    machine.cpu = "another"
    assert speeds_here(tiny, tmp_path, 2) != first
    assert machine.runs == 9
    assert speeds_here(tiny.with_("name=other", "baseline=base"), tmp_path, 2).keys() == {"base", "muon"}
    machine.cpu = "one"
    assert speeds_here(tiny, tmp_path, 2) == first


def test_no_run_of_a_pre_flight_stays_among_the_users(tiny, machine, tmp_path):
    plan(tiny, tmp_path, workers=2)
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
    machine.broken = True
    with pytest.raises(Stopped):
        plan(tiny, tmp_path, workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_what_a_killed_pre_flight_left_is_measured_again(tiny, machine, tmp_path):
    _, (left, _) = preflight_module._short_runs(tiny)
    Run.open(tmp_path, left.recipe).set_status("done")
    assert speeds_here(tiny, tmp_path, 2).keys() == {"adamw", "muon"}
    for broken in ("{", "[]", '{"x": 1}'):
        (tmp_path / "cache" / "preflight.json").write_text(broken)
        assert speeds_here(tiny, tmp_path, 2).keys() == {"adamw", "muon"}
    assert machine.runs == 12
    Run.open(tmp_path, left.recipe)
    with Run.find(tmp_path, left.recipe).lock(), pytest.raises(UsageError, match="in use"):
        speeds_here(tiny, tmp_path, 1)


@pytest.mark.parametrize(
    ("n", "comparisons", "low", "high"), [(4, 2, 0.5, 8.0), (4, 1, 1.0, 8.0), (10, 1, 0.9, 8.0), (24, 3, 1.0, 2.0)]
)
def test_the_smallest_multiplier_is_found_as_often_as_it_says(n, comparisons, low, high):
    sd = 0.13
    smallest, bounded = chances(sd, n, comparisons, low, high)
    noise = sd * np.random.default_rng(0).standard_normal((40000, n))
    inside = lambda logs: ((logs > math.log(low)) & (logs < math.log(high))).all(axis=1)  # noqa: E731

    smear = sd / math.log(2) * np.random.default_rng(1).standard_normal(100000)

    def variance(multiplier):
        """Of two runs' difference: the curve between rungs is quieter than a run."""
        t = (math.log2(multiplier / low) + smear) % 1
        return 2 - 1.44 * np.mean(t * (1 - t))

    def found(multiplier):
        logs = math.log(multiplier) + noise * math.sqrt(variance(multiplier) / variance(1.0))
        p = stats.ttest_1samp(logs, 0.0, axis=1).pvalue
        return np.mean((p < 0.05 / comparisons) & (logs.mean(axis=1) > 0) & inside(logs))

    assert found(smallest) == pytest.approx(0.8, abs=0.01)
    assert found(0.97 * smallest) < 0.8
    assert bounded == pytest.approx(1 - np.mean(inside(noise)), abs=0.01)


def test_more_seeds_help_until_one_of_them_is_sure_to_be_censored():
    sd = 0.13
    wide = [chances(sd, n, 1, 0.1, 10.0)[0] for n in (4, 8, 16, 32)]
    assert wide == sorted(wide, reverse=True)
    at_the_start = [chances(sd, n, 1, 1.0, 8.0)[0] for n in (8, 16, 32)]
    assert at_the_start == sorted(at_the_start)
    assert chances(sd, 4, 2, 0.1, 10.0)[0] < chances(sd, 4, 4, 0.1, 10.0)[0]
    assert chances(sd, 4, 1, 0.9, 1.1) == (None, pytest.approx(0.9, abs=0.1)), "a ladder too short to find anything"


@pytest.mark.parametrize(("rung", "cost"), [(0, 1.0), (0, 1.13), (1, 1.0)])
def test_whole_studies_find_what_the_plan_promises(rung, cost):
    """Noise on every run of the ladder, censoring and all: the plan's normal noise is a little above the truth."""
    seed_sd, gain, seeds, studies = 0.02, 0.15, 4, 2500
    x = 2.0 ** np.arange(4)
    spent = cost * x[rung]
    smallest, bounded = chances(math.sqrt(2) * seed_sd / (gain / math.log(2)), seeds, 1, 1 / spent, 8 / spent)
    rng = np.random.default_rng(1)

    def outcomes(multiplier):
        """Whether each study ends as a bound, and whether it finds the arm better."""
        ladder = -gain * np.log2(x) + seed_sd * rng.standard_normal((studies, seeds, 4))
        arm = -gain * math.log2(multiplier * spent) + seed_sd * rng.standard_normal((studies, seeds))
        needed, side = invert(np.log(x), ladder, arm)
        bound = np.any(side != 0, axis=1)
        logs = needed - math.log(spent)
        error = interpolation_error(np.log(x), ladder)
        return bound, ~bound & (logs.mean(axis=1) > half_width(logs, error=error))

    assert 0.78 <= np.mean(outcomes(smallest)[1]) <= 0.92
    assert np.mean(outcomes(1.0)[0]) == pytest.approx(bounded, abs=0.04)


def test_a_plan_says_what_every_row_could_see(tiny):
    speeds = dict.fromkeys(tiny.everyone, Speed(1e9, 0.0))
    found = priced(tiny, speeds, workers=1)
    (only,) = found.sights
    adamw, muon = (step_cost(tiny.run_recipe(arm, 0, 1)).run(1).flops for arm in tiny.everyone)
    assert (only.arm, only.rung) == ("muon", 0)
    assert (only.low, only.high) == (pytest.approx(adamw / muon), pytest.approx(4 * adamw / muon))
    sd = math.sqrt(2) * 0.02 / (0.15 / math.log(2))
    assert (only.smallest, only.bounded) == chances(sd, 3, 1, only.low, only.high)
    again = 'arms.again={overrides=["optimizer=muon"], rungs=[1]}'
    study = tiny.with_("arms.muon.rungs=[0, 1]", again, "seeds=[1, 2, 3, 4, 5, 6]", "ladder.rungs=[4, 8, 16, 32]")
    more = priced(study, dict.fromkeys(study.everyone, Speed(1e9, 0.0)), workers=1).sights
    assert [(sight.arm, sight.rung) for sight in more] == [("muon", 0), ("muon", 1), ("again", 1)]
    expected = chances(sd, 6, 3, only.low / 2, only.high)  # three comparisons, and a rung more
    assert expected[0] is not None
    assert (more[1].smallest, more[1].bounded) == expected


def test_a_plan_warns_of_an_arm_without_a_rung_below_it(tiny):
    alike = tiny.with_('arms={near={overrides=["train.clip=2.0"]}}')
    speeds = dict.fromkeys(alike.everyone, Speed(1e9, 0.0))
    text = priced(alike, speeds, workers=1).text()
    assert "1.00x to 4.00x" in text
    assert "near runs only at rung 0, below which the baseline has no rung: arms.near.rungs = [1] would leave" in text
    for rungs in ("[1]", "[0, 1]"):
        roomy = priced(alike.with_(f"arms.near.rungs={rungs}"), speeds, workers=1)
        assert "near runs only at rung 0" not in roomy.text()
    assert roomy.to_json()["sights"][1]["rung"] == 1
    expected = priced(alike.with_("expect.seed_sd=0.2"), speeds, workers=1).text()
    assert "  none  " in expected
    assert "with 3 seeds there is no effect that every row is expected to show" in expected


SLOW, TOO_SLOW, PAST = "machine slow:", "too slow for the whole study", "is expected"


@pytest.mark.parametrize(
    ("rate", "rungs", "top_points", "remarks"),
    [
        (1e11, 128, None, []),
        (4.2e10, 128, None, []),
        (3.5e10, 96, None, [SLOW]),
        (2.8e10, 96, 2, [TOO_SLOW]),
        (1e10, 96, 2, [TOO_SLOW, PAST]),
    ],
)
def test_the_demo_shrinks_to_the_machine_and_says_so(rate, rungs, top_points, remarks):
    study = Study.load("demo")
    fitted, planned, notes = sized(study, {arm: Speed(rate, 0.2, 0.2) for arm in study.everyone}, workers=2)
    assert (fitted.ladder.rungs[0], fitted.tuning.top_points) == (rungs, top_points)
    assert len(notes) == len(remarks)
    assert all(remark in note for remark, note in zip(remarks, notes, strict=True))
    assert (planned.cpu_seconds <= CAP - RESERVE) == (PAST not in remarks)
    assert fitted.ladder.rungs[-1] == 8 * rungs


def test_the_plan_knows_what_an_optimum_at_an_edge_may_add(tiny):
    speeds = {"adamw": Speed(1e9, 0.5), "muon": Speed(5e8, 0.5)}
    found = priced(tiny, speeds, workers=2)
    low, muon, top = (batch.cpu_seconds for batch in found.batches[:3])
    assert (found.spare, found.spare_cpu_seconds) == (6, pytest.approx(2 * (low + muon + top)))
    thin = priced(tiny.with_("tuning.top_points=2"), speeds, workers=2)
    assert (thin.spare, thin.spare_cpu_seconds) == (4, pytest.approx(2 * (low + muon)))


def test_what_timing_the_arms_spent_is_said(tiny, machine, tmp_path):
    found = plan(tiny, tmp_path)
    assert "timing the arms once took 9.000e+00 FLOPs and 6 CPU-seconds, outside the bill" in found.text()
    assert plan(tiny, tmp_path).preflight == found.preflight, "remembered with the speeds"
    assert machine.runs == 3
    assert priced(tiny, dict.fromkeys(tiny.everyone, Speed(1e9, 0.0)), workers=1).preflight == ""


def test_without_its_device_a_study_is_priced_but_not_timed(tiny, machine, tmp_path):
    away = tiny.with_("recipe.train.device=cuda:63")
    found = plan(away, tmp_path)
    assert machine.runs == 0
    assert found.flops == plan(tiny, tmp_path).flops
    assert f"{found.runs} runs, {found.flops:.3e} FLOPs, not timed: their device is not on this machine" in found.text()
    assert "nan" not in found.text()
    stored = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert stored["cpu_seconds"] is stored["minutes"] is stored["batches"][0]["seconds"] is None
    one = tiny.with_('arms.muon.overrides=["optimizer=muon", "train.device=cuda:63"]')
    assert math.isnan(plan(one, tmp_path).minutes)


def test_the_demo_keeps_what_its_pre_flight_spent(monkeypatch, tmp_path):
    kept = []
    spent = Speed(1e11, 0.2, 0.2, spent_flops=10**9, spent_seconds=3.0)
    monkeypatch.setattr(demo_module, "speeds_here", lambda study, *_: dict.fromkeys(study.everyone, spent))
    monkeypatch.setattr(demo_module, "corpus_facts", lambda *_, **__: {"compressors": {"xz": 2.0}})
    monkeypatch.setattr(demo_module, "compare", lambda *_, notes, **__: kept.extend(notes))
    demo_module.demo(tmp_path)
    assert "timing the arms once took 4.000e+09 FLOPs and 12 CPU-seconds, outside the bill" in kept


def test_a_plan_says_what_more_seeds_would_show_and_cost(tiny):
    study = tiny.with_("arms.muon.rungs=[0, 1]", "ladder.rungs=[4, 8, 16, 32]", "expect.seed_sd=0.005")
    found = priced(study, dict.fromkeys(study.everyone, Speed(1e9, 0.0)), workers=1)
    assert [count for count, _, _ in found.seeds] == [3, 5, 6]
    assert found.seeds[0][1:] == (max(sight.smallest for sight in found.sights), 1.0)
    effects = [effect for _, effect, _ in found.seeds]
    assert effects == sorted(effects, reverse=True)
    for count, effect, cost in found.seeds[1:]:
        more = priced(
            study.with_(f"seeds={list(range(1, count + 1))}"), dict.fromkeys(study.everyone, Speed(1e9, 0.0)), 1
        )
        assert effect == max(sight.smallest for sight in more.sights)
        assert cost == pytest.approx(more.flops / found.flops)
    told = f"with 3 seeds no effect below {effects[0]:.2f}x is expected to show; 5 seeds: {effects[1]:.2f}x, "
    assert f"{told}{found.seeds[1][2] - 1:.0%} more compute" in found.text()
    assert "assumed: two runs of a seed differ by 0.0071 bits per byte" in found.text()
    assert "from the study's [expect], for no study of this baseline exists yet" in found.text()


def test_the_noise_is_that_of_studies_of_the_same_baseline(tiny, planted, tmp_path):
    """Another arm, tuned value, seeds or rungs are no other baseline; another model is."""

    class Noisy(planted):
        def quality(self, job, tokens):
            return super().quality(job, tokens) + 0.02 * math.sin(99 * job.seed + 7 * job.rung)

    result = compare(tiny, tmp_path, executor=Noisy({"muon": 2.0}), corpus={})
    wanted = shown_by(result, str(tmp_path / "tiny" / "study.json"))
    assert wanted.per_doubling == pytest.approx(0.3, abs=0.03)
    logs = [np.log(row.per_seed) for row in result.multipliers if row.axis == "flops" and not row.all_in]
    assert wanted.log_sd == pytest.approx(math.sqrt(np.mean([each.var(ddof=1) for each in logs])))
    alone = shown_by(result.model_copy(update={"multipliers": []}), "it")
    assert 0.005 < alone.seed_sd < 0.03
    assert alone.seed_sd != wanted.seed_sd
    study = tiny.with_("name=next", "seeds=[5, 6, 7, 8]", "ladder.rungs=[8, 16, 32]", "arms.muon.rungs=[1]")
    assert noise_of(study, tmp_path) == wanted
    found = priced(study, dict.fromkeys(study.everyone, Speed(1e9, 0.0)), 1, tmp_path)
    assert found.noise == wanted
    assert "from the 3 seeds of " in found.text()
    (only,) = found.sights
    assert only.smallest == chances(wanted.log_sd, 4, 1, only.low, only.high, wanted.curve)[0]
    for other in ("recipe.model.d_model=32", "recipe.train.batch=4"):
        assert noise_of(study.with_(other), tmp_path) == Noise(0.02, 0.15)
    (tmp_path / "tiny" / "study.json").write_text("{")
    assert noise_of(study, tmp_path) == Noise(0.02, 0.15)


def test_the_curves_error_is_in_what_is_found():
    """It does not go away with more seeds."""
    assert chances(0.05, 4, 1, 0.5, 4.0, 0.0) == chances(0.05, 4, 1, 0.5, 4.0)
    assert chances(0.05, 4, 1, 0.5, 4.0, 0.05)[0] > chances(0.05, 4, 1, 0.5, 4.0)[0]
    curve, rng = 0.04, np.random.default_rng(5)
    smallest, _ = chances(0.03, 6, 1, 0.1, 10.0, curve)
    noise = 0.03 * rng.standard_normal((40000, 6)) + curve * rng.standard_normal((40000, 1))
    logs = math.log(smallest) + noise
    assert np.mean(logs.mean(axis=1) > half_width(logs, error=curve)) == pytest.approx(0.8, abs=0.01)


def test_a_plan_counts_what_is_finished_already(tiny, planted, tmp_path):
    speeds = dict.fromkeys(tiny.everyone, Speed(1e9, 0.5))

    class Leaving(planted):
        """Leaves a finished run of every assignment."""

        def __call__(self, assignments):
            for job, row in zip(assignments, super().__call__(assignments), strict=True):
                run = Run.open(tmp_path, job.recipe)
                run.write_result({"status": "done", "value": row.end.value})
                run.set_status("done")
                yield row

    whole = priced(tiny, speeds, 1, tmp_path)
    assert whole.finished == 0
    assert "finished already" not in whole.text()
    executor = Leaving({"muon": 2.0})
    compare(tiny, tmp_path, executor=executor, corpus={})
    every = priced(tiny, speeds, 1, tmp_path)
    assert (every.finished, every.minutes) == (every.runs, 0.0)
    assert every.flops == whole.flops
    gone = [job for job in executor.asked if job.role == "evaluation" and job.arm == "muon"]
    for job in gone:
        run = Run.find(tmp_path, job.recipe)
        run.set_status("stopped")
    some = priced(tiny, speeds, 1, tmp_path)
    assert some.finished == some.runs - len(gone)
    assert f"{some.finished} of them are finished already and not repeated" in some.text()
    assert some.minutes == pytest.approx(sum(0.5 + job.flops / 1e9 for job in gone) / 60, rel=0.9)


def test_a_plan_says_memory_disk_and_passes_over_the_text(tiny, machine, tmp_path):
    found = plan(tiny, tmp_path)
    assert found.memory_bytes == 3 * 10**8
    assert 5000 * found.runs <= found.disk_bytes <= 20000 * found.runs
    assert found.epochs == pytest.approx(16 * 32 / found.text_tokens)
    text = found.text()
    assert "they take about 0.3 GB of memory for each of 2 workers and " in text
    assert f"the longest baseline run passes {found.epochs:.2f} times over the training text" in text
    assert found.to_json()["epochs"] == found.epochs


def test_no_name_breaks_the_plan_s_table(tiny):
    name = "a" * 60
    study = tiny.with_(f'arms={{{name}={{overrides=["optimizer=muon"]}}}}')
    text = priced(study, dict.fromkeys(study.everyone, Speed(1e9, 0.0)), 1).text()
    rows = [line for line in text.splitlines() if line.startswith(("tuning", "evaluation"))]
    assert len({len(row) for row in rows}) == 1
    assert sum(name in row for row in rows) == 2

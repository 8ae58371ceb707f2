"""A whole study on planted qualities: nothing is trained, everything is decided as it would be."""

from __future__ import annotations

import re

import pytest

from isoflop.core.files import write_json
from isoflop.core.table import Table
from isoflop.lab.compare import Journal, bill, compare, planned_flops, trial_runs
from isoflop.lab.corpus import epochs
from isoflop.lab.tuning import Trial
from isoflop.report.sheets import multiplier_text, refusal_lines
from isoflop.store.results import RunRow, StudyResult


@pytest.fixture
def outcome(tiny, planted, tmp_path):
    executor = planted({"muon": 3.0})
    lines: list[str] = []
    result = compare(tiny, tmp_path, executor=executor, corpus={"fingerprint": "f"}, progress=lines.append)
    return result, executor, lines, tmp_path


def row(result: StudyResult, axis: str, **wanted):
    (found,) = [m for m in result.multipliers if m.axis == axis and not m.all_in and wanted.items() <= vars(m).items()]
    return found


def test_the_planted_multiplier_comes_out_on_every_legal_axis(outcome):
    result, executor, _, _ = outcome
    assert row(result, "tokens").value == pytest.approx(3.0, rel=0.02)
    ratio = executor.asked[-1]
    assert ratio.role == "evaluation"
    share = row(result, "flops").value / row(result, "tokens").value
    assert 0.3 < share < 1, "an optimizer's own FLOPs make its multiplier on FLOPs smaller"
    assert set(result.refusals) == {"seconds"}
    assert "shared the machine" in result.refusals["seconds"]
    assert result.headline.startswith("muon saves compute: adamw needs ")
    assert re.search(r"needs \d\.\d+x as much .*, and 3\.\d+x as many tokens \(9.* to 3\.\d+\)$", result.headline)


def test_tuning_is_alike_and_shares_no_seed_with_evaluation(outcome, tiny):
    """Tuning seed = evaluation seed would favour whatever was tuned on it."""
    _, executor, _, _ = outcome
    tuning = [job for job in executor.asked if job.role == "tuning"]
    assert {job.recipe.seed for job in tuning} == set(tiny.tuning.seeds)
    assert {job.recipe.seed for job in executor.asked if job.role == "evaluation"} == set(tiny.seeds)
    low = [job for job in tuning if job.rung == 0]
    assert sum(job.arm == "muon" for job in low) == sum(job.arm == "adamw" for job in low) == 4
    assert {job.arm for job in tuning if job.rung == tiny.top} == {"adamw"}
    assert executor.batches == [12, 12]  # both tunings in one go, then the evaluation


def test_every_evaluation_run_has_the_tuned_rate(outcome):
    result, executor, _, _ = outcome
    rates = {(job.arm, job.rung): job.recipe.optimizer.lr for job in executor.asked if job.role == "evaluation"}
    chosen = {(t.arm, t.rung): t.chosen for t in result.tunings}
    assert rates["adamw", 0] == chosen["adamw", 0]
    assert rates["adamw", 2] == chosen["adamw", 2]
    assert rates["muon", 0] == chosen["muon", 0]


def test_the_bill_counts_every_run_once_and_tuning_apart(outcome):
    result, executor, _, _ = outcome
    spent = {role: sum(job.flops for job in executor.asked if job.role == role) for role in ("tuning", "evaluation")}
    assert result.bill["tuning"]["flops"] == spent["tuning"]
    assert result.bill["train"]["flops"] == spent["evaluation"]
    assert result.bill["evaluation"]["flops"] == 7 * len(executor.asked)
    assert bill([*result.runs, *result.runs]) == result.bill


def test_all_in_charges_each_side_its_equal_trials(outcome):
    result, _, _, _ = outcome
    (all_in,) = [m for m in result.multipliers if m.axis == "tokens" and m.all_in]
    trials, own = 4 * 128, 128  # 4 trials of 4 steps of 32 tokens, and the run itself
    expected = [(m * own + trials) / (own + trials) for m in row(result, "tokens").per_seed]
    assert all_in.per_seed == pytest.approx(expected)


def test_all_in_charges_each_side_its_own_trials(outcome):
    """On FLOPs the arms' trials cost differently (on tokens they do not): an exchange or a sum over both shows."""
    result, executor, _, _ = outcome
    (all_in,) = [m for m in result.multipliers if m.axis == "flops" and m.all_in]
    low = [job for job in executor.asked if job.role == "tuning" and job.rung == 0]
    theirs, trials = (sum(job.flops for job in low if job.arm == arm) for arm in ("adamw", "muon"))
    assert trials > 1.2 * theirs
    (own,) = {job.flops for job in executor.asked if (job.arm, job.role) == ("muon", "evaluation")}
    expected = [(m * own + theirs) / (own + trials) for m in row(result, "flops").per_seed]
    assert all_in.per_seed == pytest.approx(expected, rel=1e-9)


def test_the_result_is_stored_and_reads_back(outcome, tiny):
    result, _, _, root = outcome
    assert StudyResult.read(root / "tiny" / "study.json") == result
    table = Table.read_csv(root / "tiny" / "points.csv")
    assert table.rows == len(result.runs)
    assert result.notes[-1] == "tiny"
    assert set(result.recipes) == {"adamw", "muon"}


def test_progress_is_a_line_a_run(outcome):
    _, executor, lines, _ = outcome
    assert len(lines) == len(executor.asked)
    assert lines[0].startswith("tuning 1/12: adamw, rung 0, seed 101, optimizer.lr 0.002: ")
    assert "bits per byte" in lines[0]


def test_the_time_left_is_by_the_flops_still_to_do_and_the_workers(tiny):
    """Of four runs of unlike size one had been finished before: it tells nothing of the speed."""
    jobs = [trial_runs(tiny, Trial(arm, rung, 0.004))[0] for arm, rung in (("adamw", 0), ("muon", 0), ("adamw", 2))]
    jobs.append(trial_runs(tiny, Trial("adamw", 1, 0.004))[0])
    lines: list[str] = []

    def executor(assignments):
        for job, seconds, reused in zip(
            assignments, (500.0, 90.0, 30.0, 1.0), (True, False, False, False), strict=True
        ):
            yield RunRow(
                run=job.recipe.id, recipe_hash=job.recipe.hash, arm=job.arm, rung=job.rung, seed=job.seed,
                role="tuning", status="diverged", wall_seconds=seconds, reused=reused,
            )  # fmt: skip

    Journal(tiny.scale, lines.append, workers=3).follow("tuning", jobs, executor)
    _, muon, top, middle = (job.flops for job in jobs)
    assert "finished before" in lines[0]
    assert "left" not in lines[0]
    assert f"(90 s; about {90 / muon * (top + middle) / 3:.0f} s of tuning left)" in lines[1]
    assert f"(30 s; about {120 / (muon + top) * middle / 3:.0f} s of tuning left)" in lines[2]
    assert "left" not in lines[3]


def test_the_time_left_is_that_of_all_phases(tiny, planted, tmp_path):
    """While tuning, the evaluation to come counts; in the last phase there is nothing else."""

    class Timed(planted):
        def __call__(self, assignments):
            for row in super().__call__(assignments):
                yield row.model_copy(update={"wall_seconds": row.end.flops / 1e4})

    executor, lines = Timed({"muon": 2.0}), []
    compare(tiny, tmp_path, executor=executor, corpus={}, progress=lines.append, workers=1)
    done = 0.0
    total = sum(job.flops for job in executor.asked) / 1e4
    assert planned_flops(tiny) / 1e4 == pytest.approx(total)
    for job, line in zip(executor.asked, lines, strict=True):
        done += job.flops / 1e4
        left = total - done
        told = f"{left:.0f} s" if left < 120 else f"{left / 60:.0f} min"
        if line.startswith("tuning"):
            assert f" of tuning left, {told} in all)" in line
        elif left > 1:
            assert f"; about {told} of evaluation left)" in line


def test_beyond_the_ladder_the_headline_is_a_bound(tiny, planted, tmp_path):
    result = compare(tiny, tmp_path, executor=planted({"muon": 100.0}), corpus={})
    found = row(result, "tokens")
    assert (found.value, found.censored, found.bound, found.censored_seeds) == (None, "above", 4.0, 3)
    assert "more than 4.00x as many for the same" in found.sentence
    assert "(3 of 3 seeds end beyond the top of adamw's ladder)" in result.headline


def test_an_arm_that_turns_over_has_no_headline_multiplier(tiny, planted, tmp_path):
    study = tiny.with_("arms.muon.rungs=[1, 2]", "ladder.rungs=[4, 8, 16, 32]")

    class Turning(planted):
        def quality(self, job, tokens):
            self.multipliers = {"muon": 2.0 if job.rung == 1 else 0.5}
            return super().quality(job, tokens)

    result = compare(study, tmp_path, executor=Turning({}), corpus={})
    assert result.headline.startswith("muon crosses adamw in compute near ")
    assert result.headline in result.notes
    assert "muon crosses adamw in tokens near 11.3 steps: no single multiplier holds" in result.notes


def test_a_headline_never_shows_an_insignificant_figure_as_a_finding(tiny, planted, tmp_path):
    class Noisy(planted):
        def quality(self, job, tokens):
            return super().quality(job, tokens) + (0.25 * job.seed if job.arm == "muon" else 0.0)

    result = compare(tiny, tmp_path, executor=Noisy({"muon": 6.8}), corpus={})
    found = row(result, "tokens")
    assert found.value is not None
    assert not found.significant
    assert re.search(r"x as many tokens \(.*, not significant\)$", result.headline)


def test_the_headline_says_both_axes_and_the_tables_in_one_direction(tiny, planted, tmp_path):
    """What the baseline needs over what the arm spent, above and below 1, in sentences as in tables and charts."""
    study = tiny.with_("arms.muon.rungs=[1]")
    result = compare(study, tmp_path, executor=planted({"muon": 0.8}), corpus={})
    assert row(result, "tokens").value == pytest.approx(0.8, rel=0.02)
    assert re.search(
        r"muon takes more compute: adamw needs 0\.\d+x as much .*, and 0\.8\d*x as many tok", result.headline
    )
    for found in result.multipliers:
        shown = multiplier_text(found, interval=False).removesuffix("\N{MULTIPLICATION SIGN}")
        said = re.search(r"needs ([\d.]+)x", found.sentence).group(1)
        assert float(said) == pytest.approx(float(shown), abs=0.006)


def test_an_arm_with_no_rung_below_it_is_told_what_that_costs(tiny, planted, tmp_path):
    def told(result):
        return [note for note in result.notes if note.startswith("muon ran only at rung 0")]

    found = compare(tiny, tmp_path, executor=planted({"muon": 0.9}), corpus={})
    assert row(found, "tokens").censored == "below"
    assert len(told(found)) == 1
    assert "tokens" in told(found)[0]
    assert "arms.muon.rungs = [1] would leave room" in told(found)[0]
    assert not told(compare(tiny, tmp_path, executor=planted({"muon": 3.0}), corpus={}))
    above = compare(tiny.with_("arms.muon.rungs=[1]"), tmp_path, executor=planted({"muon": 0.4}), corpus={})
    assert row(above, "tokens").censored == "below"
    assert not told(above)


def test_arms_above_the_rung_that_they_were_tuned_at_are_named_once(tiny, planted, tmp_path):
    study = tiny.with_("arms.muon.rungs=[0, 1]", 'arms.again={overrides=["optimizer=muon"], rungs=[1]}')
    told = "above the lowest rung optimizer.lr is still the lowest rung's, while adamw was tuned again at its top"
    result = compare(study, tmp_path, executor=planted({"muon": 2.0, "again": 2.0}), corpus={})
    (note,) = [note for note in result.notes if told in note]
    assert note.startswith("muon, again: ")
    assert not any(told in note for note in compare(tiny, tmp_path, executor=planted({"muon": 2.0}), corpus={}).notes)


def test_executed_flops_are_refused_away_from_the_cpu(tiny, planted, tmp_path):
    result = compare(tiny.with_("recipe.train.device=cuda"), tmp_path, executor=planted({"muon": 3.0}), corpus={})
    assert "adamw ran on cuda" in result.refusals["hardware_flops"]
    assert not any(found.axis == "hardware_flops" for found in result.multipliers)


def test_a_diverged_run_never_ranks_and_is_named(tiny, planted, tmp_path):
    executor = planted({"muon": 3.0}, diverges=lambda j: (j.arm, j.role, j.seed) == ("muon", "evaluation", 2))
    result = compare(tiny, tmp_path, executor=executor, corpus={})
    assert result.multipliers == []
    assert result.headline == "muon has no multiplier on compute: see the notes"
    assert "muon diverged at rung 0 seed 2: diverged runs never rank" in result.notes


def test_an_edge_that_stays_and_a_thin_second_tuning_are_noted(tiny, planted, tmp_path):
    executor = planted({"muon": 2.0}, optimum=lambda arm, rung: 5.0 if arm == "muon" else 5e-3)
    result = compare(tiny.with_("tuning.top_points=2"), tmp_path, executor=executor, corpus={})
    assert re.search(
        r"; but the best optimizer.lr of muon, [\d.]+, lies at the edge of what was tried$",
        result.headline.splitlines()[0],
    )
    assert result.headline.splitlines()[-1].startswith("to try further: tuning.extensions=3; leave ")
    assert "adamw was tuned at its top rung with 2 values instead of 4" in result.notes


@pytest.mark.parametrize(
    ("best", "changes", "told"),
    [
        (
            lambda arm, rung: 5.0,
            (),
            ["lr of muon, ", "lr of adamw, ", "lr of adamw at rung 2, "],
        ),
        (lambda arm, rung: 5.0 if rung else 5e-3, ("tuning.top_points=2",), ["leave tuning.top_points out"]),
        (
            lambda arm, rung: 5.0 if arm == "adamw" else 5e-3,
            ("tuning.extensions=0",),
            ["to try further: tuning.extensions=1"],
        ),
    ],
)
def test_every_optimum_at_an_edge_is_in_the_headline_with_its_remedy(tiny, planted, tmp_path, best, changes, told):
    result = compare(tiny.with_(*changes), tmp_path, executor=planted({"muon": 2.0}, optimum=best), corpus={})
    assert sum(tuning.edge for tuning in result.tunings) == result.headline.count("lies at the edge of what was tried")
    for words in told:
        assert words in result.headline
    assert result.headline.count("tuning.extensions") <= 1, "a remedy is said once for all"
    if any(tuning.edge for tuning in result.tunings if tuning.arm == "adamw"):
        assert result.headline.splitlines()[-2].startswith("adamw may be better than it was made here: ")


def test_unequal_parameters_are_in_the_headline(tiny, planted, tmp_path):
    study = tiny.with_('arms={wide={overrides=["model.d_model=32"], rungs=[1]}, muon={overrides=["optimizer=muon"]}}')
    result = compare(study, tmp_path, executor=planted({"wide": 0.5, "muon": 2.0}), corpus={})
    wide, muon = result.headline.splitlines()
    assert re.search(r"; but wide has [\d,]+ parameters and adamw [\d,]+: arms.wide.overrides could make", wide)
    assert "parameters" not in muon


def test_an_axis_that_one_arm_makes_illegal_is_dropped_for_that_arm_alone(tiny, planted, tmp_path):
    study = tiny.with_(
        'arms={wide={overrides=["model.d_model=32"]}, muon={overrides=["optimizer=muon"]}, '
        'slow={overrides=["train.batch=4"]}}'
    )
    result = compare(study, tmp_path, executor=planted({"wide": 2.0, "muon": 2.0, "slow": 1.5}), corpus={})
    on = {axis: {m.arm for m in result.multipliers if m.axis == axis} for axis in ("flops", "tokens", "steps")}
    assert on == {"flops": {"wide", "muon", "slow"}, "tokens": {"muon", "slow"}, "steps": {"wide", "muon"}}
    assert set(result.refusals) == {"seconds"}
    assert {arm: set(axes) for arm, axes in result.arm_refusals.items()} == {
        "wide": {"tokens", "text_bytes"}, "slow": {"steps"},
    }  # fmt: skip
    alone = compare(tiny.with_("name=alone"), tmp_path, executor=planted({"muon": 2.0}), corpus={})
    assert row(result, "tokens", arm="muon").per_seed == row(alone, "tokens").per_seed
    told = refusal_lines(result)
    assert any(line.startswith("wide has no multiplier on tokens: a token costs more") for line in told)


def test_as_many_lines_as_arms(tiny, planted, tmp_path):
    arms = {f"a{i}": 1.0 + 0.5 * i for i in range(4)}
    told = ", ".join(
        f'{arm}={{overrides=["optimizer=muon", "optimizer.momentum=0.9{i}"]}}' for i, arm in enumerate(arms)
    )
    result = compare(tiny.with_(f"arms={{{told}}}"), tmp_path, executor=planted(arms), corpus={})
    assert [line[:2] for line in result.headline.splitlines()] == list(arms)


def test_epochs_are_counted_where_the_corpus_says_its_size(tiny, planted, tmp_path):
    corpus = {"train": {"text": {"tokens": 256}}}
    result = compare(tiny, tmp_path, executor=planted({"muon": 2.0}), corpus=corpus)
    assert result.corpus["epochs"] == 2.0  # 16 steps of 32 tokens
    assert any("passes 2.00 times over the training text" in note for note in result.notes)


def test_epochs_are_those_of_the_baselines_longest_run(tiny, planted, tmp_path):
    """An arm may take more text at the same rung, and lower rungs take less."""
    study = tiny.with_('arms.muon={overrides=["optimizer=muon", "train.batch=4"], rungs=[1, 2]}')
    corpus = {"train": {"prose": {"tokens": 200}, "code": {"tokens": 56}}}
    result = compare(study, tmp_path, executor=planted({"muon": 2.0}), corpus=corpus)
    assert result.corpus["epochs"] == 2.0  # 16 steps of 32 tokens


def test_the_longest_of_unequal_runs_is_counted(tiny, planted):
    jobs = [trial_runs(tiny, Trial("adamw", rung, 0.004))[0] for rung in (0, 2)]
    rows = [row.model_copy(update={"role": "evaluation", "rung": 2}) for row in planted({})(jobs)]
    for order in (rows, rows[::-1]):
        assert epochs({"train": {"text": {"tokens": 256}}}, order, 2) == 2.0
        assert epochs({"train": {"text": {"tokens": 256}}}, order, 1) is None


def test_seconds_are_compared_when_every_run_was_alone(tiny, planted, tmp_path):
    class Alone(planted):
        def __call__(self, assignments):
            for found in super().__call__(assignments):
                yield found.model_copy(update={"exclusive": True})

    result = compare(tiny, tmp_path, executor=Alone({"muon": 3.0}), corpus={}, workers=1)
    assert row(result, "seconds").value == pytest.approx(row(result, "flops").value)


def test_tuning_that_had_company_cannot_be_charged_in_seconds(tiny, planted, tmp_path):
    class Mostly(planted):
        def __call__(self, assignments):
            for found in super().__call__(assignments):
                yield found.model_copy(update={"exclusive": found.role == "evaluation"})

    result = compare(tiny, tmp_path, executor=Mostly({"muon": 3.0}), corpus={}, workers=1)
    assert {m.all_in for m in result.multipliers if m.axis == "seconds"} == {False}
    assert {m.all_in for m in result.multipliers if m.axis == "flops"} == {False, True}


def test_two_arms_of_one_recipe_are_two_rows_of_one_run(tiny, planted, tmp_path):
    executor = planted({"muon": 2.0})
    twins = tiny.with_('arms.again.overrides=["optimizer=muon"]')
    result = compare(twins, tmp_path, executor=executor, corpus={})
    assert len({job.recipe.hash for job in executor.asked}) == len(executor.asked)
    assert row(result, "tokens", arm="again").value == row(result, "tokens", arm="muon").value


def test_a_row_without_an_end_has_no_place_on_an_axis():
    assert RunRow(
        run="r", recipe_hash="h", arm="a", rung=0, seed=1, role="evaluation", status="diverged"
    ).end is None  # fmt: skip


def test_a_study_is_ranked_by_its_first_metric_in_its_own_direction(outcome, tiny, planted, tmp_path):
    class Rising(planted):
        def quality(self, job, tokens):
            return -super().quality(job, tokens)

    falling, lines = outcome[0], []
    study = tiny.with_('recipe.metrics=["accuracy", "bits_per_byte"]')
    result = compare(study, tmp_path / "up", executor=Rising({"muon": 3.0}), corpus={}, progress=lines.append)
    assert (result.unit, result.higher_is_better) == ("accuracy", True)
    assert [(t.values, t.chosen) for t in result.tunings] == [(t.values, t.chosen) for t in falling.tunings]
    assert [(m.axis, m.value, m.low, m.high) for m in result.multipliers] == [
        (m.axis, m.value, m.low, m.high) for m in falling.multipliers
    ]
    assert result.headline == falling.headline.replace("bits per byte", "accuracy")
    assert all(" accuracy (" in line for line in lines)
    assert StudyResult.read(tmp_path / "up" / "tiny" / "study.json") == result


def test_a_result_that_says_no_unit_is_in_bits_per_byte(outcome, tmp_path):
    tree = outcome[0].model_dump(mode="json")
    for key in ("unit", "higher_is_better"):
        del tree[key]
    for run in tree["runs"]:
        for point in run["curve"]:
            del point["bound"]
    for row in tree["multipliers"]:
        del row["bounds"]
    write_json(tmp_path / "old.json", tree)
    assert StudyResult.read(tmp_path / "old.json") == outcome[0]

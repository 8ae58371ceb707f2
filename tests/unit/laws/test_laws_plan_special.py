"""Plans of the laws beyond size and tokens: each answer against brute force on planted constants."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isoflop.core.errors import DataError, UsageError
from isoflop.core.table import Table
from isoflop.laws import Kaplan, LossToLoss, Qqt, simulate
from isoflop.laws.forms.average_n import mean_parameters
from isoflop.laws.forms.loss_to_loss import translate
from isoflop.laws.forms.qqt import best_pools, fit_pools, pool_error
from isoflop.laws.plan.answer import region
from isoflop.laws.plan.batch import critical, together, tuned
from isoflop.laws.plan.best import best, loss_at
from isoflop.laws.plan.draws import Basis, basis_of
from isoflop.laws.plan.pools import pools
from isoflop.laws.plan.qat import qat_start
from isoflop.laws.plan.score import later, score
from isoflop.laws.plan.sparse import sparse
from isoflop.laws.plan.transfer import transferred
from isoflop.laws.plan.transfer_runs import transfer_runs
from isoflop.laws.plan.verb import basis_from, pools_from
from laws_planted import PLANTED, SWEEP, law

SHARED = Path(os.environ.get("ISOFLOP_SHARED", "../shared")) / "data" / "scaling"


@cache
def planted_basis(name: str, noise: float | None = None) -> Basis:
    case = PLANTED[name]
    form = law(name)
    return basis_of(form.fit(simulate(form, case.params, case.x, case.noise if noise is None else noise, seed=2)), 0.9)


def test_the_critical_batch_says_what_time_and_compute_cost() -> None:
    basis = planted_basis("critical_batch")
    made = critical(basis, 1e9)
    p = basis.fit.params
    batch = p["c"] * 1000 ** p["gamma"]
    assert made["critical batch"].value == pytest.approx(batch)
    assert made["critical batch"].low < 93.2 * 1000**0.468 < made["critical batch"].high
    noise = (batch - 1.2 * 256) / 0.2
    assert made["b / a"].value == pytest.approx(noise)
    a, b = 7.0, 7.0 * noise  # steps(B) = a + b / B, samples B steps(B)
    for times in (0.25, 1.0, 4.0):
        size = times * batch
        steps_of = [f for f in made.figures if f.name.endswith(": steps")]
        name = next(f.name for f in steps_of if f.value == pytest.approx(1 + noise / size))
        steps = a + b / size
        assert made[name].value == pytest.approx(steps / a)
        assert made[name.replace("steps", "samples")].value == pytest.approx(size * steps / b)
    excess = (noise + batch) / (noise + 256)
    assert excess == pytest.approx(1.2)  # what makes a batch critical


def test_the_best_rate_is_the_laws() -> None:
    basis = planted_basis("step_law")
    made = tuned(basis, 5e8, 3e10)["learning rate"]
    assert made.value == pytest.approx(basis.fit.predict({"N": [5e8], "D": [3e10]})[0])
    truth = PLANTED["step_law"].params
    assert made.low < truth["c"] * 5e8 ** truth["n"] * 3e10 ** truth["d"] < made.high


def test_qat_begins_where_the_loss_is_least() -> None:
    # With xi > 0 full-precision tokens help too, so that neither phase should be all.
    form, case = law("qat_loss"), PLANTED["qat_loss"]
    table = simulate(form, {**case.params, "xi": 0.5}, case.x, case.noise, seed=2)
    known = {name: v for name, v in case.params.items() if name not in ("A", "B", "phi", "lam", "xi")}
    loss = basis_of(form.fit(table, fixed=known), 0.9)
    share = np.linspace(0.001, 0.999, 9981)
    x = {"N": np.full(9981, 5e8), "bits": np.full(9981, 2.0), "D_qat": share * 1e11, "D_fp": (1 - share) * 1e11}
    found = share[loss.fit.predict(x).argmin()]
    made = qat_start(loss, 5e8, 1e11, 2.0)
    assert made["share of QAT tokens"].value == pytest.approx(found, abs=1e-3)
    assert made["switch at token"].value == pytest.approx((1 - found) * 1e11, abs=1e8)
    fraction = planted_basis("qat_fraction")
    made = qat_start(fraction, 5e8, 1e11, 4.0)
    s = 1e11 / (5e8 * 4 / 8)
    assert made["share of QAT tokens"].low < np.exp(-6.73 / np.log(s)) < made["share of QAT tokens"].high


def test_a_sparse_schedule_has_the_best_average() -> None:
    basis = planted_basis("average_n")
    made = sparse(basis, 1e21, 8e8, 0.2, 0.6)
    n = np.geomspace(1e7, 1e12, 100_001)
    best_n = n[basis.fit.predict({"N_avg": n, "D": 1e21 / 6 / n}).argmin()]
    assert made["average N"].value == pytest.approx(best_n, rel=2e-3)
    start = np.asarray(made["N at the start"].value)
    mean = mean_parameters(start, np.asarray(8e8), np.asarray(0.2), np.asarray(0.6))
    assert float(mean) == pytest.approx(made["average N"].value)
    with pytest.raises(UsageError, match="costs more"):
        sparse(basis, 1e21, 1e12)
    with pytest.raises(UsageError, match="in order"):
        sparse(basis, 1e21, 8e8, 0.7, 0.6)


def test_the_attainable_score_names_the_models_above() -> None:
    basis = planted_basis("frontier", 0.02)
    names = [f"model {i}" for i in range(120)]
    made = score(basis, 1e24, names)
    assert made["score"].value == pytest.approx(basis.fit.predict({"C": [1e24]})[0])
    assert made["score"].low <= made["score"].value <= made["score"].high
    above = np.flatnonzero(basis.fit.problem.y > basis.fit.predict(basis.fit.table))
    if len(above):
        most = above[np.argmax((basis.fit.problem.y - basis.fit.predict(basis.fit.table))[above])]
        assert any(f"model {most} " in text for text in made.warnings)


def dated(drift: float, rows: int = 250) -> Table:
    """Scores below a frontier that rises by ``drift`` over the year."""
    rng = np.random.default_rng(5)
    c, year = 10 ** rng.uniform(21, 25, rows), np.sort(rng.random(rows))
    best = 0.2 + 0.5 / (1 + np.exp(-1.5 * (np.log10(c) - 23))) + drift * year
    day = [str(np.datetime64("2024-01-01") + int(365 * t)) for t in year]
    return Table({"C": c, "score": best * rng.beta(8, 1, rows), "day": np.asarray(day)})


def test_later_models_are_held_against_the_frontier_of_earlier_ones() -> None:
    moved = later(dated(0.4), "day")  # the example in its docstring is of one that stands still
    assert min(figure.high for figure in moved.figures) < 0.98
    assert "the frontier moved" in moved.warnings[0]


def test_dates_that_are_none_are_named() -> None:
    rows = dated(0.0, 20)
    with pytest.raises(DataError, match="row 1: 'soon' is no date"):
        later({**rows, "day": np.asarray(["soon"] * 20)}, "day")
    with pytest.raises(DataError, match="too few dates"):
        later({**rows, "day": np.asarray(["2024-01-01"] * 20)}, "day")


def pool_table(noise: float = 0.002) -> Table:
    pool, seen = np.full(20, 1.28e7), np.geomspace(2e6, 1.28e8, 20)
    rng = np.random.default_rng(1)
    rows = []
    for name, b, tau in (("best", 0.30, 2.0), ("middle", 0.27, 3.0), ("rest", 0.20, 6.0)):
        y = pool_error(0.3, [b], [tau], 0.1, seen, pool) + noise * rng.standard_normal(20)
        rows += [{"quality": name, "seen": s, "pool": 1.28e7, "error": e} for s, e in zip(seen, y, strict=True)]
    return Table.from_records(rows)


@cache
def pool_bases() -> dict[str, Basis]:
    table = pool_table(0.0)
    return {name: basis_from(table.where(table["quality"] == name), "qqt") for name in ("best", "middle", "rest")}


def test_pools_are_read_from_one_table() -> None:
    made = pools_from(pool_table(), "quality", 5e7, 1.28e7)
    figure = made["error on the best 1 (best last)"]
    truth = float(pool_error(0.3, [0.30], [2.0], 0.1, np.asarray([5e7]), np.asarray([1.28e7]))[0])
    assert figure.low < truth < figure.high


def test_pools_are_fitted_with_what_their_mixtures_share() -> None:
    """Each with a scale of its own, utilities that go with it say nothing of a mixture, which has one scale."""
    seen, pool, far = np.geomspace(4e6, 6.4e7, 5), np.full(5, 1.28e7), 3e8
    noise = 0.004 * np.random.default_rng(2).standard_normal((2, 5))
    tables = [
        {"seen": seen, "pool": pool, "error": pool_error(0.3, [b], [tau], 0.1, seen, pool) + added}
        for b, tau, added in zip((0.3, 0.2), (2.0, 6.0), noise, strict=True)
    ]
    together = best_pools(fit_pools(tables), far, 1.28e7)[1][1]
    apart = best_pools([Qqt().fit(table) for table in tables], far, 1.28e7)[1][1]
    truth = float(pool_error(0.3, [0.3, 0.2], [2.0, 6.0], 0.1, np.full(1, far), np.full(1, 1.28e7))[0])
    assert abs(together - truth) < 0.5 * abs(apart - truth)


@pytest.mark.parametrize("seen", [1.28e7, 5e7, 1.2e8])
def test_the_quality_to_keep_is_that_of_a_search(seen: float) -> None:
    made = pools(pool_bases(), seen, 1.28e7)
    b, tau, one = [0.30, 0.27, 0.20], [2.0, 3.0, 6.0], np.ones(1)
    truth = [float(pool_error(0.3, b[:k], tau[:k], 0.1, seen * one, 1.28e7 * one)[0]) for k in (1, 2, 3)]
    kept = made["pools to keep"]
    assert kept.value == 1 + int(np.argmin(truth))
    for k, error in enumerate(truth):
        figure = next(f for f in made.figures if f.name.startswith(f"error on the best {k + 1}"))
        assert figure.value == pytest.approx(error, rel=1e-4)
    assert made["epochs"].value == pytest.approx(seen / kept.value / 1.28e7)


KAPLAN = {"A": 2e9, "B": 1.5e9, "E": 1.2, "alpha": 0.25, "beta": 0.35}


def two_data_sets(noise: float) -> tuple[Any, Table]:
    """A fit on the source, and nine runs on data whose loss is .6 (L - 1.2)^1.1 + .8."""
    x = {name: SWEEP[name] for name in ("N", "D")}
    source = Kaplan().fit(simulate(Kaplan(), KAPLAN, x, noise, seed=1))
    n = np.geomspace(3e7, 2e9, 9)
    runs = {"N": n, "D": 20 * n}
    clean = simulate(Kaplan(), KAPLAN, runs, 0.0)["loss"]
    rng = np.random.default_rng(4)
    return source, Table({**runs, "loss": (0.6 * (clean - 1.2) ** 1.1 + 0.8) * np.exp(noise * rng.standard_normal(9))})


def test_a_law_is_carried_to_new_data_by_a_few_runs() -> None:
    source, runs = two_data_sets(0.001)
    basis = transferred(source, runs)
    n, d = 4e9, 1e11
    truth = 0.6 * (float(simulate(Kaplan(), KAPLAN, {"N": [n], "D": [d]}, 0.0)["loss"][0]) - 1.2) ** 1.1 + 0.8
    made = loss_at(basis, n, d)
    assert made.value == pytest.approx(truth, rel=0.01)
    assert made.low < truth < made.high
    exact, exact_runs = two_data_sets(0.0)
    moved = transferred(exact, exact_runs).fit.params
    pairs = exact_runs.with_columns(loss0=exact.predict(exact_runs))
    between = LossToLoss(E0=exact.params["E"], floors="joint").fit(pairs.select(["loss0", "loss"]))
    again = translate(exact.params, between)
    assert moved == pytest.approx(again, rel=1e-6)
    size = Kaplan().optimum(moved, np.asarray(1e21))[0]
    assert best(transferred(exact, exact_runs), 1e21)["N"].value == pytest.approx(float(size), rel=1e-3)
    with pytest.raises(DataError, match="3 runs"):
        transferred(source, runs.where(np.arange(3)))


def test_the_chosen_runs_say_more_for_their_cost_than_any_others() -> None:
    """Spread of the large run's loss over planted tables: six chosen runs beside six drawn among those as dear."""
    source, _ = two_data_sets(0.003)
    n, ratio = (x.ravel() for x in np.meshgrid(np.geomspace(3e7, 2e9, 8), [8.0, 20.0, 50.0]))
    x, large = {"N": n, "D": ratio * n}, {"N": np.asarray([4e9]), "D": np.asarray([1e11])}
    choice = transfer_runs(source, {**x, "loss": np.full(24, np.nan)}, 6, 4e9, 1e11)
    rows = [lesson.row for lesson in choice.lessons]
    assert len(set(rows)) == 6
    assert all(lesson.after <= lesson.before for lesson in choice.lessons)
    cost = n * x["D"] / (n * x["D"]).sum()
    assert choice.budget == pytest.approx(cost[rows].sum())
    clean, aim = (simulate(Kaplan(), KAPLAN, at, 0.0)["loss"] for at in (x, large))
    truth = 0.6 * (float(aim[0]) - 1.2) ** 1.1 + 0.8

    def error(made: Any, seed: int) -> float:
        noise = np.exp(0.003 * np.random.default_rng(seed).standard_normal(24))
        loss = (0.6 * (clean - 1.2) ** 1.1 + 0.8) * noise
        fit = transferred(source, Table({**x, "loss": loss}).where(np.isin(np.arange(24), made))).fit
        return float(abs(fit.predict(large)[0] / truth - 1))

    rng, others = np.random.default_rng(0), []
    while len(others) < 12:
        drawn = rng.permutation(24)[:6]
        if cost[drawn].sum() <= 1.1 * cost[rows].sum():
            others.append(drawn)
    ours = np.mean([error(rows, seed) for seed in range(12)])
    theirs = np.mean([error(drawn, seed) for seed, drawn in enumerate(others)])
    assert ours < 0.8 * theirs, (ours, theirs)


def test_runs_that_are_made_count_and_candidates_do_not_carry() -> None:
    source, runs = two_data_sets(0.002)
    half = np.where(np.arange(9) < 5, runs["loss"], np.nan)
    table = runs.with_columns(loss=half)
    choice = transfer_runs(source, table, 2, 4e9, 1e11)
    assert {lesson.row for lesson in choice.lessons} <= {5, 6, 7, 8}
    assert choice.spent > 0
    assert transferred(source, table).theta.tolist() == transferred(source, runs.where(np.arange(9) < 5)).theta.tolist()
    with pytest.raises(UsageError, match="4 candidates are not made yet, 5 are wanted"):
        transfer_runs(source, table, 5, 4e9, 1e11)


def planned_chinchilla() -> Any:
    return law("chinchilla").fit(simulate(law("chinchilla"), PLANTED["chinchilla"].params, SWEEP, 0.01, seed=2))


def test_batch_and_rate_stand_in_the_plan_of_their_run() -> None:
    plan = planned_chinchilla()
    asked = plan.plan(compute=1e20)
    size, tokens = asked["N"].value, asked["D"].value
    bases = {"rates.csv": planted_basis("step_law"), "batches.csv": planted_basis("critical_batch")}
    answer = together(asked, bases, size, tokens).answers[-1]
    alone = tuned(planted_basis("step_law"), size, tokens).figures[0]
    rate = answer["learning rate"]
    assert rate.value == pytest.approx(alone.value)
    assert rate.note == "rates.csv"
    wide = np.log(rate.high / rate.low)
    assert wide > np.log(alone.high / alone.low), "what N and D may be widens it"
    n, d = (asked[name] for name in ("N", "D"))
    exponents = [planted_basis("step_law").fit.params[name] for name in ("n", "d")]
    ends = [exponents[0] * np.log(n.high / n.low), exponents[1] * np.log(d.high / d.low)]
    assert wide < np.log(alone.high / alone.low) + abs(ends[0]) + abs(ends[1])
    assert answer["critical batch"].value == pytest.approx(critical(bases["batches.csv"], size).figures[0].value)
    given = plan.plan(params=size, tokens=tokens)
    assert together(given, bases, size, tokens).answers[-1]["learning rate"].high == pytest.approx(alone.high)


def test_a_region_can_be_drawn_from() -> None:
    logs = np.random.default_rng(1).multivariate_normal([1.0, 2.0], [[0.04, 0.018], [0.018, 0.01]], 4000)
    found = region(("N", "D"), list(np.concatenate([[[1.0, 2.0]], logs]).T), 0.9)
    assert found is not None
    drawn = found.draws(4000)
    assert drawn[0].tolist() == found.centre.tolist()
    assert np.cov(drawn.T) == pytest.approx(np.cov(logs.T), rel=0.1, abs=1e-3)


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared tables (ISOFLOP_SHARED)")
@pytest.mark.parametrize("source", ["slimpajama", "starcoder"])
@pytest.mark.parametrize("target", ["fineweb_edu", "proof_pile_2"])
def test_a_transferred_law_holds_the_large_run(source: str, target: str) -> None:
    sweep, large = (Table.read_csv(SHARED / "loss_to_loss" / f"{n}.csv") for n in ("sweep", "extrapolation_1e21"))

    def of(table: Table, data: str) -> Table:
        return table.where(table.equal("data", data)).select({"N": "N", "D": "D", "loss": "own_val_loss"})

    runs = of(sweep, target)
    near = (runs["D"] / runs["N"] > 16) & (runs["D"] / runs["N"] < 23)
    made = transferred(Kaplan().fit(of(sweep, source)), runs.where(near))
    run = of(large, target)
    figure = loss_at(made, float(run["N"][0]), float(run["D"][0]))
    assert figure.low < float(run["loss"][0]) < figure.high


def test_questions_refuse_laws_that_do_not_know() -> None:
    other = planted_basis("chinchilla")
    for asked in (
        lambda: critical(other, 1e9),
        lambda: tuned(other, 1e9, 1e10),
        lambda: qat_start(other, 1e9, 1e10, 4.0),
        lambda: sparse(other, 1e21, 1e8),
        lambda: score(other, 1e21),
        lambda: transferred(other.fit, Table({"N": [1.0]})),
        lambda: pools({"one": other, "two": other}, 1e8, 1e7),
    ):
        with pytest.raises(UsageError):
            asked()
    with pytest.raises(UsageError, match="outside the fitted rows"):
        critical(planted_basis("critical_batch"), 1e15)
    with pytest.raises(UsageError, match="positive"):
        critical(planted_basis("critical_batch"), -1.0)
    with pytest.raises(UsageError, match="two fits"):
        pools({"one": basis_of(Qqt().fit(pool_table().where(np.arange(20))), 0.9)}, 1e8, 1e7)


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared tables (ISOFLOP_SHARED)")
def test_the_published_critical_batches_come_back() -> None:
    table = Table.read_csv(SHARED / "critical_batch_size" / "steps_to_target.csv")
    table = table.with_columns(N=1e6 * table["N_millions"])
    basis = basis_from(table, "critical_batch", {"B": "batch_size", "steps": "steps_to_target"})
    made = critical(basis, 302e6)
    assert made["critical batch"].value == pytest.approx(93.197 * 302**0.46828, rel=0.05)

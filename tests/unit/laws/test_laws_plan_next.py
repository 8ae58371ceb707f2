"""Which runs next: gains against refitted covariances, budgets that hold, designs that beat chance, real pools."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isoflop.core.errors import DataError, UsageError
from isoflop.core.table import Table
from isoflop.laws import Chinchilla, simulate
from isoflop.laws.plan.candidates import next_from, rehearse_from
from isoflop.laws.plan.design import knowledge, pilot
from isoflop.laws.plan.next_runs import fitted, next_runs, pool_of
from isoflop.laws.plan.rehearsal import explained, rehearse
from laws_planted import CHINCHILLA, grid

SHARED = Path(os.environ.get("ISOFLOP_SHARED", "../shared")) / "data" / "scaling" / "active_design"
POOL = grid(N=np.geomspace(2e7, 3e9, 12), D=np.geomspace(5e8, 6e10, 12))
TARGET = {"N": np.asarray([2e10, 4e10, 2e10]), "D": np.asarray([4e11, 8e11, 8e11])}


def candidates(noise: float = 0.003, seed: int = 5) -> Table:
    return Table(simulate(Chinchilla(), CHINCHILLA, POOL, noise, seed=seed))


def goal() -> Table:
    return Table(simulate(Chinchilla(), CHINCHILLA, TARGET, 0.0))


def hidden(table: Table, made: Any) -> Table:
    """The table with results only where runs are made."""
    return table.with_columns(loss=np.where(np.isin(np.arange(table.rows), made), table["loss"], np.nan))


def test_gains_are_what_a_further_run_lowers() -> None:
    table = candidates()
    made = np.arange(0, 144, 9)
    pool = pool_of(Chinchilla(), hidden(table, made), goal())
    fit = fitted(pool)
    assert fit is not None
    known = knowledge(fit, pool.x, pool.target, made, pool.gap)
    gains, before = known.gains(), known.spread() ** 2
    for run in (3, 50, 143):
        one = knowledge(fit, pool.x, pool.target, made, pool.gap)
        one.learn(run)
        assert before - one.spread() ** 2 == pytest.approx(gains[run], rel=1e-6)
        sign, now = np.linalg.slogdet(one.information)
        assert sign > 0
        assert now - np.linalg.slogdet(known.information)[1] == pytest.approx(known.determinants()[run], rel=1e-6)
    again = knowledge(fit, pool.x, pool.target, np.append(made, 50), pool.gap)
    assert again.spread() ** 2 == pytest.approx(before - gains[50], rel=1e-6)


def test_a_pilot_varies_every_column_for_little() -> None:
    cost = POOL["N"] * POOL["D"] / (POOL["N"] * POOL["D"]).sum()
    rows = pilot(POOL, cost, np.empty(0, dtype=int), 0.02, 12)
    assert len(set(rows)) == 12
    assert cost[rows].sum() <= 0.02
    assert len(np.unique(POOL["N"][rows])) >= 3
    assert len(np.unique(POOL["D"][rows])) >= 3


@pytest.mark.parametrize("criterion", ["target", "information", "balanced"])
def test_asked_again_and_again_it_keeps_the_budget(criterion: str) -> None:
    table, made = candidates(), []
    seen: list[str] = []
    while True:
        choice = next_from(hidden(table, made), goal(), "chinchilla", budget=0.05, step=0.25, criterion=criterion)
        if not choice.lessons:
            break
        seen.append("pilot" if choice.fit is None else "designed")
        rows = [lesson.row for lesson in choice.lessons]
        assert not set(rows) & set(made)
        if choice.fit is not None:
            assert all(lesson.after <= lesson.before for lesson in choice.lessons)
            assert choice.lessons[0].teaches
        made += rows
    cost = table["N"] * table["D"]
    assert 0.04 < cost[made].sum() / cost.sum() <= 0.05 + 1e-9
    assert seen[0] == "pilot"
    assert "designed" in seen
    assert "nothing more fits" in str(choice)


def test_a_design_for_the_target_beats_chance() -> None:
    """Mean error at the target over planted tables, beside random runs of the same cost."""
    ours, chance = [], []
    truth = np.asarray(goal()["loss"])
    for seed in range(6):
        table = candidates(0.004, seed)
        ours.append(rehearse_from(table, goal(), "chinchilla", budget=0.05, step=0.2).error)
        rng = np.random.default_rng(seed)
        cost = table["N"] * table["D"] / (table["N"] * table["D"]).sum()
        order = rng.permutation(144)
        taken = order[np.cumsum(cost[order]) <= 0.05]
        taken = taken if len(taken) >= 8 else np.argsort(cost)[:40]
        fit = Chinchilla().fit(table.where(taken))
        chance.append(float(np.mean(np.abs(fit.predict(TARGET) / truth - 1.0))))
    assert np.mean(ours) < 0.7 * np.mean(chance), (ours, chance)


def test_what_is_spent_already_counts() -> None:
    table = candidates()
    dear = np.argsort(table["N"] * table["D"])[-3:]
    choice = next_from(hidden(table, dear), goal(), "chinchilla", budget=0.05)
    assert choice.spent > 0.05
    assert not choice.lessons


def test_costs_may_be_a_column() -> None:
    table = candidates().with_columns(hours=np.ones(144))
    made = np.arange(0, 144, 9)
    chosen = next_from(hidden(table, made), goal(), "chinchilla", "hours", budget=0.2, step=1.0)
    assert len(chosen.lessons) == int(0.2 * 144) - len(made)
    assert "row" in str(chosen)
    assert chosen.to_json()["runs"][0]["row"] == chosen.lessons[0].row + 1


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"budget": 1.5}, UsageError, "shares"),
        ({"budget": -0.1}, UsageError, "shares"),
        ({"budget": 1e-7}, UsageError, "cheapest run"),
        ({"criterion": "targets"}, UsageError, "did you mean target"),
        ({"law": "chinchila"}, UsageError, "did you mean chinchilla"),
        ({"cost": "dollars"}, DataError, "no column 'dollars'"),
        ({"law": "experts", "columns": {"X": "D"}}, DataError, "no column 'cost'"),
    ],
)
def test_bad_questions_are_refused(change: dict[str, Any], error: type[Exception], message: str) -> None:
    asked: dict[str, Any] = {"law": "chinchilla", "budget": 0.05, **change}
    with pytest.raises(error, match=message):
        next_from(hidden(candidates(), []), goal(), **asked)


def test_pools_that_cannot_be_used_are_refused() -> None:
    free = candidates().with_columns(cost=np.zeros(144))
    with pytest.raises(DataError, match="no positive cost in row 1"):
        next_from(free, goal(), "chinchilla")
    with pytest.raises(DataError, match="result of every run"):
        rehearse_from(hidden(candidates(), [1]), goal(), "chinchilla")
    with pytest.raises(DataError, match="needs column"):
        next_from(candidates(), Table({"N": [1e9]}), "chinchilla")
    pool = pool_of(Chinchilla(), candidates(), goal(), measured=True)
    with pytest.raises(DataError, match="do not determine"):
        rehearse(pool, np.asarray(goal()["loss"]), float(1.01 * pool.cost.min()))
    assert not next_runs(pool, 1.0).lessons


def test_a_larger_budget_draws_all_that_a_smaller_one_drew() -> None:
    table = candidates()
    cost = table["N"] * table["D"] / (table["N"] * table["D"]).sum()

    def drawn(budget: float, made: list[int], step: float = 1.0) -> list[int]:
        choice = next_from(hidden(table, made), goal(), "chinchilla", budget=budget, step=step, criterion="drawn")
        assert ("(drawn)" in str(choice)) == bool(choice.lessons)
        return [lesson.row for lesson in choice.lessons]

    small, large = drawn(0.05, []), drawn(0.2, [])
    assert large[: len(small)] == small
    assert cost[small].sum() <= 0.05
    assert drawn(0.2, small) == large[len(small) :], "asked again, it goes on"
    made: list[int] = []
    while more := drawn(0.2, made, step=0.1):
        made += more
    assert made == large


def test_draws_by_chance_are_a_fair_sample_where_cheap_ones_are_not() -> None:
    """A quantile over models of which the cheap ones are worse."""
    rng = np.random.default_rng(3)
    cost = np.exp(rng.normal(0, 1.5, 1200))
    score = np.clip(0.2 + 0.1 * np.log(cost) / 1.5 + 0.05 * rng.standard_normal(1200), 0, 1)
    pool = Table({"C": 10 ** rng.uniform(21, 24, 1200), "score": score, "price": cost})
    asked = {"law": "frontier", "cost": "price", "budget": 0.3, "step": 1.0}
    aims = Table({"C": np.geomspace(3e21, 3e23, 5), "score": np.full(5, 0.4)})
    drawn = rehearse_from(pool, aims, criterion="drawn", **asked)
    assert 0.2 < drawn.spent <= 0.3
    assert drawn.apart < 0.03
    assert rehearse_from(pool, aims, criterion="information", **asked).apart > 2 * drawn.apart


def test_explained_variance_has_no_lower_bound() -> None:
    assert explained(np.asarray([1.0, 2.0]), np.asarray([1.0, 2.0])) == 1.0
    assert explained(np.asarray([9.0, -9.0]), np.asarray([1.0, 2.0])) < -10
    assert np.isnan(explained(np.asarray([1.0, 2.0]), np.asarray([3.0, 3.0])))


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared tables (ISOFLOP_SHARED)")
@pytest.mark.parametrize(
    ("task", "law", "columns", "budget", "published"),
    [
        ("moe", "experts", {"N": "dense_parameter_count", "X": "num_experts", "loss": "loss_validation"}, 0.05, 0.65),
        ("moe", "experts", {"N": "dense_parameter_count", "X": "num_experts", "loss": "loss_validation"}, 0.10, 0.83),
        ("sparsity", "chinchilla", {"N": "N_active", "D": "D2"}, 0.35, 0.44),
        ("sparsity", "chinchilla", {"N": "N_active", "D": "D2"}, 0.50, 0.53),
        ("farseer", "farseer", {}, 0.05, 0.88),
        ("farseer", "farseer", {}, 0.10, 0.93),
    ],
)
def test_real_pools_are_predicted_as_well_as_published(
    task: str, law: str, columns: dict[str, str], budget: float, published: float
) -> None:
    train, test = (Table.read_csv(SHARED / f"{task}_{part}.csv") for part in ("train", "test"))
    costs = {
        "moe": lambda t: t["dense_parameter_count"] * t["num_experts"],
        "sparsity": lambda t: 6 * t["N_dense"] * t["D1"] + 6 * t["N_active"] * t["D2"],
        "farseer": lambda t: 6 * t["N"] * t["D"],
    }
    made = rehearse_from(train.with_columns(price=costs[task](train)), test, law, "price", columns, budget)
    assert made.spent <= budget + 1e-9
    assert made.r_squared >= published - 0.03

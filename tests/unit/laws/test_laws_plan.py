"""What to run: each answer against brute force on a law with known constants, and intervals that cover them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from scipy.optimize import brentq, minimize_scalar

from isoflop.core.errors import DataError, UsageError
from isoflop.core.table import Table
from isoflop.laws import Chinchilla, DataConstrained, Farseer, Kaplan, Overtraining, PowerFloor, simulate
from isoflop.laws.formula import Array
from isoflop.laws.law import Fit
from isoflop.laws.plan.answer import Figure
from isoflop.laws.plan.best import best
from isoflop.laws.plan.cost import TrainingCost, cost_of
from isoflop.laws.plan.draws import basis_of
from isoflop.laws.plan.lifetime import Life
from isoflop.laws.plan.other_laws import other_laws
from isoflop.laws.plan.reach import reach
from isoflop.laws.plan.verb import plan_from
from isoflop.laws.simulation import planted
from isoflop.laws.solve import minimise
from laws_planted import CHINCHILLA, PLANTED, SWEEP, law

SIZES = {name: SWEEP[name] for name in ("N", "D")}


@cache
def fitted(name: str, noise: float = 0.002) -> Fit:
    form = law(name)
    case = PLANTED[name]
    return form.fit(simulate(form, case.params, case.x, noise, seed=3))


def loss_of(fit: Fit, n: Any, d: Any, u: Any = None) -> Any:
    n, d = np.broadcast_arrays(np.asarray(n, dtype=float), np.asarray(d, dtype=float))
    columns = {"N": n.ravel(), "D": d.ravel()}
    if "U" in fit.law.columns:
        columns["U"] = d.ravel() if u is None else np.minimum(d, u).ravel()
    return fit.predict(columns).reshape(n.shape)


def cheapest(fit: Fit, compute: float) -> tuple[float, float]:
    """(N, loss) of the best size, by brute force."""
    n = np.geomspace(1e5, 1e13, 200_001)
    y = loss_of(fit, n, compute / 6 / n)
    return float(n[y.argmin()]), float(y.min())


# ---------------------------------------------------------------- against brute force


@pytest.mark.parametrize("name", ["chinchilla", "kaplan", "overtraining", "farseer"])
def test_the_best_size_is_that_of_a_search(name: str) -> None:
    fit = fitted(name)
    made = fit.plan(compute=1e21)
    n, y = cheapest(fit, 1e21)
    assert made["N"].value == pytest.approx(n, rel=2e-3)
    assert made["D"].value == pytest.approx(1e21 / 6 / n, rel=2e-3)
    assert made["D/N"].value == pytest.approx(1e21 / 6 / n**2, rel=4e-3)
    assert made["loss"].value == pytest.approx(y, rel=1e-6)
    assert made["N"].low < n < made["N"].high


@pytest.mark.parametrize("form", [Chinchilla(), Kaplan()])
def test_the_best_size_is_that_of_the_closed_form(form: Any) -> None:
    fit = fitted(form.name)
    n, d = form.optimum(fit.params, np.asarray(3e20))
    made = fit.plan(compute=3e20)
    assert made["N"].value == pytest.approx(float(n), rel=1e-4)
    assert made["D"].value == pytest.approx(float(d), rel=1e-4)


def test_the_loss_of_a_run_is_the_prediction() -> None:
    fit = fitted("chinchilla")
    expected = fit.predict({"N": [1e9], "D": [3e10]}, interval=0.8)
    made = fit.plan(params=1e9, tokens=3e10, level=0.8)["loss"]
    assert (made.value, made.low, made.high) == pytest.approx((expected.value[0], expected.low[0], expected.high[0]))
    same = fit.plan(compute=6 * 3e19, params=1e9, level=0.8)["loss"]
    assert same.value == pytest.approx(made.value)
    assert fit.plan(compute=6 * 3e19, tokens=3e10, level=0.8)["loss"].value == pytest.approx(made.value)


def test_a_law_of_compute_alone_gives_its_loss() -> None:
    fit = PowerFloor().fit(simulate(PowerFloor(), PLANTED["power_floor"].params, PLANTED["power_floor"].x, 0.003))
    made = fit.plan(compute=1e21)
    assert made["loss"].value == pytest.approx(fit.predict({"C": [1e21]})[0])
    with pytest.raises(UsageError, match="no law of parameters and tokens"):
        fit.plan(loss=2.0)


@pytest.mark.parametrize("name", ["chinchilla", "kaplan"])
def test_the_cost_of_a_loss_is_that_of_a_search(name: str) -> None:
    fit = fitted(name)
    target = cheapest(fit, 2e20)[1]
    made = fit.plan(loss=target)
    assert made["C"].value == pytest.approx(2e20, rel=2e-3)
    assert made["N"].value == pytest.approx(cheapest(fit, 2e20)[0], rel=5e-3)
    assert made["C"].low < 2e20 < made["C"].high
    size = 0.5 * cheapest(fit, 2e20)[0]
    tokens = brentq(lambda d: float(loss_of(fit, size, d)) - target, 1e8, 1e14)
    assert fit.plan(loss=target, params=size)["D"].value == pytest.approx(tokens, rel=1e-4)
    size = brentq(lambda n: float(loss_of(fit, n, 9e10)) - target, 1e6, 1e12)
    assert fit.plan(loss=target, tokens=9e10)["N"].value == pytest.approx(size, rel=1e-4)


def test_the_price_of_being_off_is_that_of_a_search() -> None:
    fit = fitted("chinchilla")
    made = fit.plan(compute=1e21)
    n, d = made["N"].value, made["D"].value
    runs = {
        "N x 2 at equal C": (2 * n, d / 2),
        "N / 2 at equal C": (n / 2, 2 * d),
        "D x 2 at equal N": (n, 2 * d),
        "D / 2 at equal N": (n, d / 2),
    }
    for name, (size, tokens) in runs.items():
        y = float(loss_of(fit, size, tokens))
        needed = brentq(lambda c, y=y: cheapest(fit, c)[1] - y, 1e20, 1e22, rtol=1e-4)
        assert made[name].value == pytest.approx(1 - needed / (6 * size * tokens), abs=2e-3)
        assert made[name].low <= made[name].value <= made[name].high


def test_a_life_of_requests_is_that_of_a_search() -> None:
    fit = fitted("chinchilla")
    target, served = 2.5, 1e9 * 800.0

    def tokens_for(n: float) -> float:
        y = lambda d: float(loss_of(fit, n, d)) - target  # noqa: E731
        return float(brentq(y, 1e8, 1e18)) if y(1e18) < 0 else np.inf

    def whole(log_n: float, answered: float) -> float:
        n = np.exp(log_n)
        return float(6 * n * tokens_for(n) + 2 * n * answered)

    found = minimize_scalar(lambda z: np.log(whole(z, served)), bounds=(np.log(2.2e8), np.log(1e11)), method="bounded")
    trained = minimize_scalar(lambda z: np.log(whole(z, 0.0)), bounds=(np.log(2.2e8), np.log(1e11)), method="bounded")
    made = fit.plan(loss=target, life=Life(1e9, 800))
    assert made["N"].value == pytest.approx(np.exp(found.x), rel=0.01)
    assert made["D"].value == pytest.approx(tokens_for(np.exp(found.x)), rel=0.02)
    assert made["C of the whole life"].value == pytest.approx(np.exp(found.fun), rel=1e-3)
    saved = 1 - np.exp(found.fun) / whole(trained.x, served)
    assert made["saved against that model"].value == pytest.approx(saved, abs=3e-3)
    assert made["N"].value < made["N of the cheapest training"].value
    ours = fit.plan(loss=target, life=Life(1e9, 800, flops_per_token=4e9, flops_at=1e9))
    assert ours["N"].value < made["N"].value
    with pytest.raises(UsageError, match="belong to a size"):
        fit.plan(loss=target, life=Life(1e9, 800, flops_per_token=4e9))


def test_few_unique_tokens_are_repeated_as_a_search_says() -> None:
    fit = fitted("data_constrained")
    compute, unique = 2e21, 3e9
    n = np.geomspace(1e7, 1e12, 100_001)
    y = loss_of(fit, n, compute / 6 / n, unique)
    made = fit.plan(compute=compute, unique=unique)
    assert made["N"].value == pytest.approx(n[y.argmin()], rel=3e-3)
    assert made["epochs"].value == pytest.approx(compute / 6 / n[y.argmin()] / unique, rel=3e-3)
    assert made["loss"].value == pytest.approx(y.min(), rel=1e-6)
    assert made["loss without the limit"].value == pytest.approx(cheapest(fit, compute)[1], rel=1e-6)
    rate = fit.params["R_D"]
    for epoch in (4, 16, 40):
        worth = np.exp(-(epoch - 1) / rate)
        assert made[f"worth of a token in epoch {epoch}"].value == pytest.approx(worth, rel=0.02)
        fresh = (1 + rate * (1 - worth)) / epoch
        assert made[f"{epoch} epochs, as fresh tokens"].value == pytest.approx(fresh, rel=2e-3)
    assert made["epochs to stop at: a tenth left"].value == pytest.approx(1 + rate * np.log(10), rel=0.02)
    assert made["all epochs together, at most"].value == pytest.approx(1 + rate, rel=0.01)


def test_the_tables_own_count_of_flops_is_used() -> None:
    table = Table(simulate(Chinchilla(), CHINCHILLA, SIZES, 0.002))
    counted = 9.0 * table["N"] ** 0.97 * table["D"]
    fit = Chinchilla().fit(table.with_columns(C=counted))
    cost = cost_of(fit)
    assert (cost.factor, cost.power) == pytest.approx((9.0, 0.97))
    assert "0.97" in fit.plan(compute=1e21)["N"].note or "0.970" in str(fit.plan(compute=1e21))
    n = np.geomspace(1e6, 1e12, 100_001)
    y = loss_of(fit, n, cost.tokens(n, 1e21))
    assert fit.plan(compute=1e21)["N"].value == pytest.approx(n[y.argmin()], rel=2e-3)
    assert cost_of(Chinchilla().fit(table.with_columns(C=6.0 * table["N"] * table["D"]))) == TrainingCost()


# ---------------------------------------------------------------- intervals


def small_sweep() -> dict[str, Array]:
    budgets, off = np.meshgrid(np.geomspace(6e18, 3e21, 6), np.geomspace(0.15, 6.0, 8))
    n, _ = Chinchilla().optimum(CHINCHILLA, budgets.ravel())
    size = n * off.ravel()
    return {"N": size, "D": budgets.ravel() / 6 / size}


def fits(x: dict[str, Array], tables: int, noise: float = 0.004) -> list[Fit]:
    """Fits to planted tables, found from the truth in one batch."""
    targets = planted(Chinchilla(), CHINCHILLA, x, noise, tables, 11)
    first = Chinchilla().fit({**x, "loss": targets[0]})
    truth = Chinchilla().to_fitted(np.asarray([[CHINCHILLA[name] for name in Chinchilla().names]]))
    batch = replace(first.problem, y=targets)
    found = minimise(batch, np.repeat(truth, tables, 0), first.loss, tolerance=1e-10)
    return [
        replace(first, theta=theta, problem=replace(first.problem, y=y), table=first.table.with_columns(loss=y))
        for theta, y in zip(found.theta, targets, strict=True)
    ]


def shares(made: list[Fit], compute: float, level: float = 0.9) -> dict[str, float]:
    """How often intervals and joint regions hold the truth."""
    n, d = (float(v) for v in Chinchilla().optimum(CHINCHILLA, np.asarray(compute)))
    truth = {"C": compute, "N": n, "D": d, "D/N": d / n}
    loss = float(Chinchilla().predict({k: np.asarray([[v]]) for k, v in CHINCHILLA.items()}, {"N": n, "D": d})[0, 0])
    hits: dict[str, list[bool]] = {"best": [], "best, jointly": [], "cost": [], "cost, jointly": []}
    for fit in made:
        basis = basis_of(fit, level)
        basis = replace(basis, theta=basis.theta[:1025])
        first, second = best(basis, compute), reach(basis, loss)
        hits["best"].append(first["N"].low <= n <= first["N"].high)
        assert first.region is not None
        hits["best, jointly"].append(first.region.contains(truth))
        hits["cost"].append(second["C"].low <= compute <= second["C"].high)
        assert second.region is not None
        hits["cost, jointly"].append(second.region.contains(truth))
    return {name: float(np.mean(values)) for name, values in hits.items()}


def test_intervals_of_the_plan_hold_the_planted_optimum() -> None:
    for name, share in shares(fits(SIZES, 50), 1e21).items():
        assert 0.8 <= share <= 0.98, name


@pytest.mark.slow
@pytest.mark.parametrize("sweep", ["grid", "isoflops"])
def test_ninety_percent_intervals_hold_the_planted_optimum_in_87_to_93_of_100_tables(sweep: str) -> None:
    made = fits(SIZES if sweep == "grid" else small_sweep(), 1000)
    for name, share in shares(made, 1e21).items():
        assert 0.87 <= share <= 0.93, (name, share)


def test_intervals_widen_beyond_the_rows() -> None:
    fit = fitted("chinchilla")
    most = float((6 * SWEEP["N"] * SWEEP["D"]).max())
    widths = []
    for compute in (most, 10 * most, 100 * most):
        made = fit.plan(compute=compute)
        widths.append(np.log(made["N"].high / made["N"].low))
        assert any(w.startswith("C = ") for w in made.answers[0].warnings) == (compute > most)
    assert widths[0] < widths[1] < widths[2]
    inside, outside = (fit.plan(loss=cheapest(fit, c)[1])["C"] for c in (0.1 * most, 20 * most))
    assert np.log(outside.high / outside.low) > 2 * np.log(inside.high / inside.low)


def test_ends_of_the_joint_region_lie_on_the_isoflop_line() -> None:
    region = fitted("chinchilla").plan(compute=1e21).answers[0].region
    assert region is not None
    for end in region.ends:
        assert 6 * end["N"] * end["D"] == pytest.approx(1e21, rel=1e-3)
    assert region.contains({"N": float(np.exp(region.centre[0])), "D": float(np.exp(region.centre[1]))})
    assert not region.contains({"N": 2 * region.ends[1]["N"], "D": region.ends[1]["D"] / 2})
    assert not region.contains({"N": float(np.exp(region.centre[0])), "D": 1.5 * float(np.exp(region.centre[1]))})


def test_what_the_rows_do_not_determine_is_said_and_widens() -> None:
    case = PLANTED["data_constrained"]
    known = {name: value for name, value in case.params.items() if not name.startswith("R_")}
    table = simulate(DataConstrained(base="fit"), case.params, case.x, 0.02, seed=1)
    few = table["D"] / table["U"] < 8
    vague, clear = (DataConstrained().fit(rows, fixed=known) for rows in (table.where(few), table))
    assert not vague.intervals()["R_D"].identified
    ours, theirs = (fit.plan(unique=1e9) for fit in (vague, clear))
    assert "R_D is unidentified" in str(ours)
    assert "R_D is unidentified" not in str(theirs)
    name = "epochs to stop at: a tenth left"
    assert ours[name].high / ours[name].low > 3 * theirs[name].high / theirs[name].low


# ---------------------------------------------------------------- other forms


def test_the_same_plan_under_other_laws_is_shown_beside() -> None:
    fit = fitted("chinchilla", 0.004)
    made = plan_from(fit, compute=1e22)
    text = str(made)
    assert "the same under every law that extrapolates well" in text
    beside = made.answers[-1]
    own = beside["N: chinchilla"]
    assert own.value == pytest.approx(made["N"].value)
    everything = beside["N: all of them"]
    names = [figure.name for figure in beside.figures if figure.name.startswith("N: ")]
    assert len(names) >= 3
    assert everything.low == min(beside[name].low for name in names)
    json.dumps(made.to_json(), allow_nan=False)


def test_a_law_that_extrapolates_badly_is_left_out() -> None:
    form, case = Farseer(), PLANTED["farseer"]
    fit = form.fit(simulate(form, case.params, case.x, 0.001, seed=3))
    beside = other_laws(basis_of(fit, 0.9), lambda basis: best(basis, 1e21), ("N",))
    assert beside is None or any("left out" in warning for warning in beside.warnings)


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "nothing is asked"),
        ({"compute": -1.0}, "positive"),
        ({"compute": float("nan")}, "positive"),
        ({"compute": 1e30}, "outside the fitted rows"),
        ({"compute": 1e12}, "outside the fitted rows"),
        ({"params": 1e9}, "alone make no run"),
        ({"tokens": 1e9}, "alone make no run"),
        ({"params": 1e20, "tokens": 1e9}, "outside the fitted rows"),
        ({"compute": 1e21, "params": 1e9, "tokens": 1e9}, "twice"),
        ({"compute": 1e21, "loss": 2.0}, "what compute is needed"),
        ({"loss": 1.7}, "the floor"),
        ({"loss": 1.8201}, "floor|not reached"),
        ({"loss": 20.0}, "below the fitted rows"),
        ({"loss": 2.5, "params": 1e9, "tokens": 1e9}, "say everything"),
        ({"loss": 2.0, "params": 2e7}, "not reached"),
        ({"compute": 1e21, "unique": 1e9}, "repeated tokens"),
        ({"compute": 1e21, "level": 90.0}, "level"),
        ({"life": Life(1e9, 100)}, "needs a quality"),
        ({"loss": 2.5, "life": Life(-1.0, 100)}, "positive"),
    ],
)
def test_what_cannot_be_answered_is_refused(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        fitted("chinchilla").plan(**asked)


def test_a_fit_without_residuals_plans_nothing() -> None:
    table = simulate(Chinchilla(), CHINCHILLA, SIZES, 0.002).where(np.asarray([0, 7, 20, 35, 63]))
    fit = Chinchilla().fit(table)
    with pytest.raises(DataError, match=r"no residual|did not converge"):
        fit.plan(compute=1e20)


def test_a_law_without_an_interior_minimum_is_refused() -> None:
    fit = Overtraining().fit(simulate(Overtraining(), {"a": 212.0, "b": 1e-9, "E": 1.84, "eta": 0.136}, SIZES, 0.001))
    with pytest.raises((DataError, UsageError)):
        fit.plan(compute=1e21)


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (1e9, 1e9, "1.00e9 parameters"),  # it was given
        (0.9e9, 1.2e9, "[9.00e8, 1.20e9] parameters"),
        (0.99996e9, 1.00004e9, "[9.9996e8, 1.0000e9] parameters"),
        (1e9, math.inf, "[1.00e9, open] parameters"),
    ],
)
def test_an_intervals_ends_are_told_apart_or_not_shown(low: float, high: float, said: str) -> None:
    assert str(Figure("N", 1e9, low, high, "parameters")).endswith(said)

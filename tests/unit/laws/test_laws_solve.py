"""The solver and the search: losses, batched Newton against SciPy, the global optimum."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from isoflop.core.errors import UsageError
from isoflop.laws import Chinchilla, Kaplan, PowerFloor
from isoflop.laws.fit import build_problem
from isoflop.laws.losses import NAMES, loss_named
from isoflop.laws.solve import minimise
from laws_planted import CHINCHILLA, SWEEP, targets

X = {name: SWEEP[name] for name in ("N", "D")}


def table(seed: int = 0) -> dict[str, Any]:
    return {**X, "loss": targets("chinchilla", 1, seed)[0]}


@pytest.mark.parametrize("name", NAMES)
@given(r=st.floats(-3.0, 3.0))
def test_losses_agree_with_themselves(name: str, r: float) -> None:
    loss = loss_named(name, delta=0.1, tau=0.8, kappa=20.0, penalty=4.0, scale=1e6)  # corners 0.1 wide: smooth enough
    x, h = np.asarray([r]), 1e-6
    slope = (loss.value(x + h) - loss.value(x - h)) / (2 * h)
    assert loss.slope(x) == pytest.approx(slope, rel=1e-4, abs=1e-5)
    if name != "soft_pinball":
        assert loss.majorizer(x) * x == pytest.approx(loss.slope(x), rel=1e-9, abs=1e-12)
        assert loss.majorizer(x) >= loss.curvature(x) - 1e-12


def test_exact_losses_are_what_they_are_called() -> None:
    r = np.asarray([-2.0, -0.5, 0.3, 1.0])
    named = {"delta": 0.1, "tau": 0.9, "kappa": 50.0, "penalty": 10.0, "scale": 1.0}
    assert loss_named("l1", **named).value(r) == pytest.approx(np.abs(r), abs=1e-6)
    assert loss_named("pinball", **named).value(r) == pytest.approx(np.maximum(-0.9 * r, 0.1 * r), abs=1e-6)
    assert loss_named("huber", **named).value(r) == pytest.approx([0.195, 0.045, 0.025, 0.095])
    assert loss_named("asymmetric", **named).value(r) == pytest.approx([0.195, 0.045, 0.25, 0.95])


def test_unknown_loss_is_named_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean huber"):
        Chinchilla().fit(table(), loss="hubert")


@pytest.mark.parametrize("loss", ["huber", "l2"])
def test_search_is_no_worse_than_many_scipy_starts(loss: str) -> None:
    fit = Chinchilla().fit(table(), loss=loss)
    assert fit.certificate.share > 0.8
    rng = np.random.default_rng(1)
    best = np.inf
    for _ in range(20):
        start = fit.theta + rng.normal(0.0, [1.0, 1.0, 0.3, 0.05, 0.05])

        def objective(theta: Any) -> float:
            return 1e3 * float(fit.problem.objective(theta[None], fit.loss)[0])

        best = min(best, minimize(objective, start, method="L-BFGS-B", options={"maxiter": 2000}).fun / 1e3)
    assert fit.objective <= best * (1 + 1e-9)


@pytest.mark.parametrize("loss", ["huber", "l2", "l1", "pinball", "asymmetric"])
def test_stationary_at_the_optimum(loss: str) -> None:
    fit = Chinchilla().fit(table(), loss=loss, tau=0.3)
    assert fit.converged
    rng = np.random.default_rng(0)
    around = fit.theta + 1e-3 * rng.standard_normal((200, 5))
    assert (fit.problem.objective(around, fit.loss) >= fit.objective * (1 - 1e-9)).all()


def test_a_batch_is_its_fits_one_by_one() -> None:
    targets_ = targets("chinchilla", 5)
    together = []
    problem, loss = build_problem(Chinchilla(), *_prepared(targets_[0]))
    from dataclasses import replace

    start = Chinchilla().to_fitted(np.asarray([list(CHINCHILLA.values())]))
    together = minimise(replace(problem, y=targets_), np.repeat(start, 5, 0), loss).theta
    for y, theta in zip(targets_, together, strict=True):
        problem, loss = build_problem(Chinchilla(), *_prepared(y))
        assert minimise(problem, start, loss).theta[0] == pytest.approx(theta, rel=1e-5)


def test_linear_constants_are_solved_for_exactly() -> None:
    from isoflop.laws.search import _solve_linear

    y = targets("chinchilla", 1, noise=0.0)[0]
    problem, _ = build_problem(Chinchilla(), *_prepared(y))
    exact = Chinchilla().to_fitted(np.asarray([list(CHINCHILLA.values())]))
    blind = exact.copy()
    blind[:, :3] = [0.0, 0.0, 1.0]
    assert _solve_linear(problem, blind) == pytest.approx(exact, rel=1e-6)
    without_floor = (y - CHINCHILLA["E"]) * 0.9  # the unconstrained floor is 0; a smaller one would be negative
    problem, _ = build_problem(Chinchilla(), *_prepared(without_floor))
    solved = Chinchilla().to_natural(_solve_linear(problem, blind))[0]
    assert solved[2] == pytest.approx(0.0, abs=1e-6)
    assert solved[0] == pytest.approx(0.9 * CHINCHILLA["A"], rel=1e-5)


def _prepared(y: Any) -> Any:
    from isoflop.core.table import Table
    from isoflop.laws.fit import Settings

    return Table({**X, "loss": y}), Settings()


def test_integer_weights_are_repeated_rows() -> None:
    data = table()
    counts = np.random.default_rng(2).integers(0, 3, len(data["loss"]))
    weighted = Chinchilla().fit(data, weights=counts.astype(float))
    repeated = Chinchilla().fit({name: np.repeat(values, counts) for name, values in data.items()})
    mean = counts.sum() / (counts > 0).sum()  # weights are relative: their mean is 1
    assert weighted.objective * mean == pytest.approx(repeated.objective, rel=1e-9)
    assert weighted.params == pytest.approx(repeated.params, rel=1e-5)


def test_bounds_fixed_and_priors_hold() -> None:
    fit = Chinchilla().fit(table(), fixed={"E": 1.7}, bounds={"alpha": (0.2, 0.3)})
    assert fit.params["E"] == pytest.approx(1.7)
    assert fit.params["alpha"] <= 0.3 + 1e-12
    assert "at a bound: alpha" in fit.warnings
    pulled = Chinchilla().fit(table(), priors={"alpha": (0.5, 1e-5)})
    assert pulled.params["alpha"] == pytest.approx(0.5, abs=1e-3)


def test_a_floor_of_nothing_is_found() -> None:
    c = np.geomspace(1e17, 1e21, 30)
    fit = PowerFloor().fit({"C": c, "loss": 300.0 * c**-0.1})
    assert fit.params["E"] == pytest.approx(0.0, abs=1e-6)
    assert fit.params["a"] == pytest.approx(0.1, rel=1e-6)


def test_outliers_do_not_move_huber() -> None:
    data = table()
    spoiled = {**data, "loss": np.where(np.arange(len(data["loss"])) % 13 == 0, data["loss"] * 1.3, data["loss"])}

    def off(loss: str) -> float:
        params = Chinchilla().fit(spoiled, loss=loss).params
        return sum(abs(params[name] / CHINCHILLA[name] - 1) for name in ("E", "alpha", "beta"))

    assert off("huber") < 0.15
    assert off("l2") > 2 * off("huber")


def test_optima_minimise_the_loss() -> None:
    for law, params in (
        (Chinchilla(), CHINCHILLA),
        (Kaplan(), {"A": 2e9, "B": 1.5e9, "E": 1.2, "alpha": 0.25, "beta": 0.35}),
    ):
        n, d = law.optimum(params, np.asarray([1e21]))
        assert 6 * n * d == pytest.approx([1e21])
        p = {name: np.asarray([[value]]) for name, value in params.items()}
        near = n * np.asarray([0.98, 1.0, 1.02])
        loss = law.predict(p, {"N": near, "D": 1e21 / 6 / near})[0]
        assert np.argmin(loss) == 1

"""Weights are relative: their unit changes nothing, and intervals hold under weights that say how noisy a row is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from isoflop.laws import Chinchilla, Frontier, Power
from isoflop.laws.law import Fit
from isoflop.laws.simulation import coverage, planted
from laws_planted import PLANTED, SWEEP, targets

X = {name: SWEEP[name] for name in ("N", "D")}
POWER = {"A": 0.1, "a": 0.5}
UNITS = (1e-12, 1e-3, 7.0, 1e9)
C = {"C": np.geomspace(1e17, 1e21, 24)}


def noise_of_rows(spread: float, count: int = 24, seed: int = 3) -> Any:
    """Standard deviations (rows,) whose largest is about ``spread`` times the smallest."""
    return 0.05 * spread ** np.random.default_rng(seed).uniform(-0.5, 0.5, count)


def everything(fit: Fit) -> dict[str, Any]:
    """Whatever an interval may be read from."""
    ahead = fit.predict({name: 10.0 * values[-3:] for name, values in fit.problem.x.items()}, interval=0.9)
    name = fit.law.names[-1]
    low, at, high = (fit.params[name] * f for f in (0.9, 1.0, 1.1))
    found: dict[str, Any] = {
        "params": list(fit.params.values()),
        "objective": fit.objective,
        "intervals": [end for i in fit.intervals().values() for end in (i.low, i.high)],
        "verdicts": [i.verdict for i in fit.intervals().values()],
        "covariance": fit.covariance().ravel(),
        "profile": fit.profile(name, np.asarray([low, at, high])).deviance,
        "prediction": np.concatenate([ahead.low, ahead.high, ahead.parameters, ahead.discrepancy]),
        "warnings": list(fit.warnings),
    }
    kinds = ["rows", "residuals", *(["clusters"] if fit.settings.clusters else [])]
    return found | {kind: list(fit.bootstrap(60, kind=kind).errors.values()) for kind in kinds}


@pytest.mark.parametrize(
    "settings",
    [
        {"loss": "l2"},
        {},
        {"loss": "l1"},
        {"priors": {"alpha": (0.3, 0.05)}},
        {"loss": "l2", "clusters": np.arange(64) // 4},
    ],
)
def test_the_unit_of_weights_changes_nothing(settings: dict[str, Any]) -> None:
    data = {**X, "loss": targets("chinchilla", 1)[0]}
    weights = np.random.default_rng(0).uniform(0.2, 3.0, 64)
    wanted = everything(Chinchilla().fit(data, weights=weights, **settings))
    for unit in UNITS:
        found = everything(Chinchilla().fit(data, weights=unit * weights, **settings))
        for name, values in wanted.items():
            same = found[name] == values if name in ("verdicts", "warnings") else None
            close = same or np.allclose(found[name], values, rtol=1e-3, atol=1e-7 * np.max(np.abs(values)))
            assert close, (unit, name, found[name], values)


def test_equal_weights_are_no_weights() -> None:
    data = {**X, "loss": targets("chinchilla", 1)[0]}
    wanted = everything(Chinchilla().fit(data))
    for unit in UNITS:
        found = everything(Chinchilla().fit(data, weights=np.full(64, unit)))
        assert found["intervals"] == pytest.approx(wanted["intervals"], rel=1e-9)
        assert found["rows"] == pytest.approx(wanted["rows"], rel=1e-6)


def test_a_penalty_of_the_law_keeps_its_strength() -> None:
    case = PLANTED["frontier"]
    data = {**case.x, "score": targets("frontier", 1)[0]}
    wanted = Frontier(ridge_weight=1e-3).fit(data, loss="l2").params
    for unit in UNITS:
        found = Frontier(ridge_weight=1e-3).fit(data, loss="l2", weights=np.full(120, unit)).params
        assert found == pytest.approx(wanted, rel=1e-6)


def test_a_weight_of_nothing_leaves_a_row_out() -> None:
    data = {**X, "loss": targets("chinchilla", 1)[0]}
    kept = np.arange(64) % 3 > 0
    weights = np.where(kept, 2.0, 0.0)
    wanted = everything(Chinchilla().fit({name: values[kept] for name, values in data.items()}))
    spoiled = {**data, "loss": np.where(kept, data["loss"], np.nan)}
    found = everything(Chinchilla().fit(spoiled, weights=weights))
    assert found["intervals"] == pytest.approx(wanted["intervals"], rel=1e-6)
    assert found["prediction"] == pytest.approx(wanted["prediction"], rel=1e-6)


def test_weighted_least_squares_is_the_textbooks() -> None:
    sd = noise_of_rows(30.0)
    y = planted(Power(), POWER, C, 0.0, 1)[0] * np.exp(sd * np.random.default_rng(1).standard_normal(24))
    fit = Power().fit({**C, "y": y}, loss="l2", weights=5e4 / sd**2)
    design = np.column_stack([np.ones(24), np.log(C["C"])])
    bread = np.linalg.inv(design.T @ (design / sd[:, None] ** 2))
    theta = bread @ (design.T @ (np.log(y) / sd**2))
    variance = np.sum((np.log(y) - design @ theta) ** 2 / sd**2) / 22
    assert fit.theta == pytest.approx(theta, rel=1e-7)
    assert fit.covariance() == pytest.approx(variance * bread, rel=1e-5)
    found = fit.intervals(0.95)["a"]
    half = stats.t.ppf(0.975, 22) * np.sqrt(variance * bread[1, 1])
    assert (found.low, found.high) == pytest.approx((theta[1] - half, theta[1] + half), rel=1e-4)


def covered(spread: float, tables: int, unit: float, **settings: Any) -> float:
    sd = noise_of_rows(spread)
    draws = np.random.default_rng(7).standard_normal((tables, 24))
    y = planted(Power(), POWER, C, 0.0, 1) * np.exp(sd * draws)
    fit = Power().fit({**C, "y": y[0]}, weights=unit / sd**2, **settings)
    return min(coverage(fit, POWER, y).values(), key=lambda share: -abs(share - 0.95))


@pytest.mark.parametrize("settings", [{"loss": "l2"}, {}, {"delta": 0.05}])
def test_intervals_hold_under_weights_of_any_unit(settings: dict[str, Any]) -> None:
    """400 tables: outside 91-98.5 % with probability below 0.001 if the coverage is 95 %."""
    for unit in (1e-3, 1e9):
        assert 0.91 <= covered(10.0, 400, unit, **settings) <= 0.985


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"loss": "l2"}, {}, {"delta": 0.05}, {"loss": "l1"}])
@pytest.mark.parametrize("spread", [1.0, 3.0, 10.0, 30.0])
def test_intervals_hold_under_weights_in_2000_tables(spread: float, settings: dict[str, Any]) -> None:
    assert 0.92 <= covered(spread, 2000, 1e6, **settings) <= 0.98


def test_bootstraps_hold_the_textbooks_error() -> None:
    sd = noise_of_rows(10.0)
    y = planted(Power(), POWER, C, 0.0, 1)[0] * np.exp(sd * np.random.default_rng(5).standard_normal(24))
    fit = Power().fit({**C, "y": y}, loss="l2", weights=1e-6 / sd**2)
    error = float(np.sqrt(fit.covariance()[1, 1]))
    for kind in ("rows", "residuals"):
        assert fit.bootstrap(800, kind=kind).errors["a"] == pytest.approx(error, rel=0.3), kind
    assert fit.bootstrap(3000, kind="residuals").errors["a"] == pytest.approx(error, rel=0.06)

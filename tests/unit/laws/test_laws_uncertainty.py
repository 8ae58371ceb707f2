"""Intervals and verdicts: what is known, and what is not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from isoflop.core.errors import UsageError
from isoflop.laws import (
    Chinchilla,
    DataConstrained,
    Frontier,
    Imitation,
    InfiniteCompute,
    Overtraining,
    PowerFloor,
    extrapolate,
)
from isoflop.laws.law import Fit
from isoflop.laws.losses import loss_named
from isoflop.laws.noise import _moments, _quantile_window, dispersions
from isoflop.laws.simulation import coverage, planted
from laws_planted import CHINCHILLA, PLANTED, SWEEP, grid, law, targets

X = {name: SWEEP[name] for name in ("N", "D")}


def chinchilla(**settings: Any) -> Fit:
    return Chinchilla().fit({**X, "loss": targets("chinchilla", 1)[0]}, **settings)


def test_profile_is_zero_at_the_optimum_and_crosses_at_the_interval() -> None:
    fit = chinchilla(loss="l2")
    interval = fit.intervals()["beta"]
    at = fit.profile("beta", np.asarray([interval.low, fit.params["beta"], interval.high]))
    assert at.deviance == pytest.approx([at.threshold, 0.0, at.threshold], abs=0.02 * at.threshold)


def test_bootstraps_agree_with_the_profile() -> None:
    fit = chinchilla(loss="l2")
    low, high = fit.intervals()["alpha"].low, fit.intervals()["alpha"].high
    for kind in ("rows", "residuals"):
        a, b = fit.bootstrap(400, kind=kind).intervals()["alpha"]
        assert (b - a) == pytest.approx(high - low, rel=0.35), kind


def test_clusters_widen() -> None:
    rng = np.random.default_rng(0)
    run = np.repeat(np.arange(16), 8)
    x = {"N": np.repeat(np.geomspace(2e7, 5e9, 16), 8), "D": np.tile(np.geomspace(5e8, 2e11, 8), 16)}
    y = planted(Chinchilla(), CHINCHILLA, x, 0.001, 1)[0] * np.exp(0.01 * rng.standard_normal(16))[run]
    alone = Chinchilla().fit({**x, "loss": y}, loss="l2")
    together = Chinchilla().fit({**x, "loss": y}, loss="l2", clusters=run)

    def width(fit: Fit) -> float:
        interval = fit.intervals()["alpha"]
        return float(interval.high - interval.low)

    assert width(together) > 1.3 * width(alone)
    assert together.bootstrap(50).kind == "clusters"
    with pytest.raises(UsageError, match="names no clusters"):
        alone.bootstrap(10, kind="clusters")


def test_bootstrap_is_reproducible() -> None:
    fit = chinchilla()
    assert (fit.bootstrap(20, seed=3).theta == fit.bootstrap(20, seed=3).theta).all()
    assert (fit.bootstrap(20, seed=3).theta != fit.bootstrap(20, seed=4).theta).any()


def test_collinear_sizes_and_tokens_are_a_ridge() -> None:
    n = np.geomspace(1e7, 1e10, 30)
    x = {"N": n, "D": 20 * n}
    fit = Chinchilla().fit({**x, "loss": planted(Chinchilla(), CHINCHILLA, x, 0.004, 1)[0]})
    found = fit.intervals()
    assert not found["A"].identified or not found["B"].identified
    assert any("cannot be told apart" in w for w in fit.warnings)


def test_no_repetition_says_nothing_of_its_price() -> None:
    x = grid(N=np.geomspace(1e8, 8e9, 7), D=np.geomspace(5e9, 2e11, 6))
    x["U"] = x["D"] * np.where(np.arange(len(x["D"])) % 2, 1.0, 0.98)
    case = PLANTED["data_constrained"]
    y = planted(law("data_constrained"), case.params, x, 0.004, 1)[0]
    found = DataConstrained(base="fit").fit({**x, "loss": y}).intervals()
    assert not found["R_D"].identified


def test_returns_far_from_saturation_say_nothing_of_the_maximum() -> None:
    c = np.geomspace(1e13, 1e15, 30)
    y = planted(Imitation(), {"R_max": 5000.0, "C0": 1e19, "a": 0.6}, {"C": c}, 0.05, 1)[0]
    found = Imitation().fit({"C": c, "returns": y}).intervals()
    assert not found["R_max"].identified
    assert found["a"].identified


def test_four_points_and_three_constants_do_not_make_an_asymptote() -> None:
    n = np.asarray([1.5e8, 3e8, 6e8, 1.4e9])
    fit = PowerFloor().fit({"C": n, "loss": 3.43 + 8e7 * n**-1.02 + np.asarray([1, -1, 1, -1]) * 2e-3})
    assert not any(i.identified for i in fit.intervals().values())
    wide = grid(N=np.geomspace(1e7, 1e10, 6), K=(1.0, 2.0, 4.0, 8.0))
    y = planted(InfiniteCompute(), PLANTED["infinite_compute"].params, wide, 1e-3, 1)[0]
    assert InfiniteCompute().fit({**wide, "loss": y}).intervals()["E"].identified


def test_five_points_and_four_constants_are_not_identified() -> None:
    n = np.asarray([1.1e7, 7.9e7, 1.54e8, 4.11e8, 1.1e7])
    x = {"N": n, "D": n * np.asarray([20, 20, 20, 20, 320])}
    y = planted(Overtraining(), PLANTED["overtraining"].params, x, 0.01, 1)[0]
    assert not any(i.identified for i in Overtraining().fit({**x, "loss": y}).intervals().values())


def test_well_planted_constants_are_identified() -> None:
    assert all(interval.identified for interval in chinchilla().intervals().values())


def test_prediction_intervals_widen_beyond_the_data_and_cover_new_runs() -> None:
    fit = chinchilla()
    far = fit.predict({"N": np.geomspace(5e9, 5e11, 4), "D": np.geomspace(2e11, 2e13, 4)}, interval=0.9)
    assert (np.diff((far.high - far.low) / far.value) > 0).all()
    assert far.discrepancy[0] == 0.0
    assert (np.diff(far.discrepancy) > 0).all()
    assert (far.high - far.low > 2 * 1.645 * far.value * far.discrepancy).all()
    again = planted(Chinchilla(), CHINCHILLA, X, 0.004, 20, seed=9)
    inside = fit.predict(X, interval=0.9)
    assert 0.85 <= np.mean((inside.low <= again) & (again <= inside.high)) <= 0.97


def test_a_wrong_law_is_found_out_inside_its_own_table() -> None:
    x = {"C": np.geomspace(1e17, 1e22, 60)}
    bent = 1.7 + 60 * x["C"] ** -0.08 - 0.002 * np.log(x["C"] / 1e17) ** 1.5
    noise = np.exp(0.002 * np.random.default_rng(0).standard_normal(60))
    right = planted(PowerFloor(), {"A": 60.0, "E": 1.7, "a": 0.08}, x, 0.002, 1)[0]
    wrong_rate = extrapolate.inner_rate(PowerFloor().fit({**x, "loss": bent * noise}, fixed={"E": 1.7}), 0.9)
    right_rate = extrapolate.inner_rate(PowerFloor().fit({**x, "loss": right}, fixed={"E": 1.7}), 0.9)
    assert wrong_rate is not None
    assert right_rate is not None
    assert wrong_rate > 2 * right_rate


def test_a_quantile_that_covers_too_much_is_said() -> None:
    rng = np.random.default_rng(0)
    x = {"C": np.geomspace(3e21, 3e25, 600)}
    curve = planted(Frontier(), PLANTED["frontier"].params, x, 0.0, 1)[0]
    score = curve - 0.005 * np.abs(rng.standard_normal(600))  # quieter than 1 / kappa
    soft = Frontier(ridge_weight=0.0).fit({**x, "score": score}, tau=0.9)
    sharp = Frontier(ridge_weight=0.0).fit({**x, "score": score}, tau=0.9, loss="pinball")
    assert "lie below the curve, not 90 %" in " ".join(soft.warnings)
    assert not any("below the curve" in warning for warning in sharp.warnings)
    assert np.mean(score <= sharp.predict(x)) == pytest.approx(0.9, abs=0.02)


def test_intervals_of_a_quantile_hold() -> None:
    rng = np.random.default_rng(1)
    x = {"C": np.geomspace(3e21, 3e25, 200)}
    law_ = Frontier(ridge_weight=0.0)
    truth = PLANTED["frontier"].params
    y = planted(law_, truth, x, 0.0, 1)[0] + 0.03 * (rng.standard_normal((40, 200)) - 1.2815515655446004)
    fit = law_.fit({**x, "score": y[0]}, tau=0.9, loss="pinball")
    assert min(coverage(fit, truth, y).values()) >= 0.85


def test_counting_by_deviance_is_counting_by_intervals() -> None:
    y = targets("chinchilla", 12, seed=5)
    fits = [Chinchilla().fit({**X, "loss": row}) for row in y]
    for name, share in coverage(fits[0], CHINCHILLA, y, level=0.5).items():
        inside = [i.low <= CHINCHILLA[name] <= i.high for i in (fit.intervals(0.5)[name] for fit in fits)]
        assert np.mean(inside) == pytest.approx(share)


def test_the_drift_is_the_measured_one_inflated_and_a_hundredth_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """In squares; where a table is too small to measure any, three hundredths stand for it."""
    fit = chinchilla()
    measured = extrapolate.inner_rate(fit, 0.9)
    assert measured is not None
    for rate, expected in ((0.04, math.hypot(0.03, 0.01)), (0.0, 0.01), (None, 0.03)):
        monkeypatch.setattr(extrapolate, "inner_rate", lambda *_, rate=rate: rate)
        assert extrapolate.discrepancy_rate(fit, 0.9) == pytest.approx(expected)
        far = fit.predict({"N": 5e9 * math.e, "D": 2e11 * math.e}, interval=0.9)
        assert far.discrepancy == pytest.approx(2 * expected), "two e-folds of compute beyond the table"


def test_the_inner_rate_is_the_smallest_that_covers_the_forecasts(monkeypatch: pytest.MonkeyPatch) -> None:
    """|error| / t, less the spread that was expected, over the e-folds ahead; in order, until the level is covered."""
    fit = chinchilla()
    reach = stats.t.ppf(0.5 + 0.8 / 2, fit.degrees_of_freedom)
    needed, spread, ahead = np.asarray([0.5, 0.1, 0.3, 0.2]), np.full(4, 0.3), np.asarray([1.0, 2.0, 0.5, 4.0])
    error = reach * np.sqrt((needed * ahead) ** 2 + spread**2)

    def rate(share: tuple[float, ...]) -> float | None:
        monkeypatch.setattr(extrapolate, "_inner", lambda *_: (error, spread, ahead, np.asarray(share)))
        return extrapolate.inner_rate(fit, 0.8)

    assert rate((0.1, 0.4, 0.2, 0.3)) == pytest.approx(0.3)
    assert rate((0.2, 0.3, 0.2, 0.3)) == pytest.approx(0.3), "covered exactly"
    assert rate((0.3, 0.3, 0.1, 0.3)) == pytest.approx(0.5)
    error = 0.9 * reach * spread
    assert rate((0.1, 0.4, 0.2, 0.3)) == 0, "forecasts no worse than expected tell of no drift"


def test_forecasts_inside_the_table_are_of_its_dearer_rows() -> None:
    fit = PowerFloor().fit({"C": np.geomspace(1e17, 1e22, 60), "loss": 2 + 5e2 * np.geomspace(1e17, 1e22, 60) ** -0.15})
    error, spread, ahead, share = extrapolate._inner(fit, 0.9)
    step = math.log(1e5) / 59
    counts = [60 - round(60 * cut) for cut in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)]
    assert len(error) == len(spread) == sum(counts)
    assert ahead == pytest.approx(np.concatenate([step * np.arange(1, count + 1) for count in counts]))
    assert share == pytest.approx(np.repeat([1 / 7 / count for count in counts], counts))


def test_a_target_that_is_not_in_logarithms_drifts_in_its_own_unit() -> None:
    """A score in points of 100 has 100 times the discrepancy of one in shares: in shares of its median size."""
    rng = np.random.default_rng(2)
    x = {"C": np.geomspace(3e21, 3e25, 120)}
    score = planted(Frontier(), PLANTED["frontier"].params, x, 0.0, 1)[0] + 0.01 * rng.standard_normal(120)
    fit = Frontier(ridge_weight=0.0).fit({**x, "score": score}, tau=0.9)
    assert fit.problem.link != "log"
    assert extrapolate.unit(fit) == pytest.approx(np.median(score))
    least = extrapolate.discrepancy_rate(fit, 0.9, inflation=0.0)
    assert least == pytest.approx(0.01 * np.median(score))
    assert extrapolate.unit(chinchilla()) == 1.0


@pytest.mark.parametrize(("tau", "count", "width"), [(0.5, 100, 0.2093), (0.5, 1000, 0.0972), (0.9, 1000, 0.0346)])
def test_the_density_at_a_quantile_is_taken_over_hall_and_sheathers_window(
    tau: float, count: int, width: float
) -> None:
    """On a uniform table, where half the distance between the quantiles tau +- b is b; b by the paper's formula."""
    z, bell = stats.norm.ppf(tau), stats.norm.pdf(stats.norm.ppf(tau))
    b = (1.96**2 * 1.5 * bell**2 / (2 * z**2 + 1) / count) ** (1 / 3)
    assert b == pytest.approx(width, abs=1e-3)
    rows = np.stack([np.linspace(0, 1, count), np.linspace(0, 3, count)])
    assert _quantile_window(rows, tau, np.full(2, count)) == pytest.approx([b, 3 * b], rel=1e-3)


@pytest.mark.parametrize("tau", [0.2, 0.5, 0.9])
def test_the_standard_error_of_a_quantile_is_the_textbooks(tau: float) -> None:
    """sqrt(tau (1 - tau) / n) / density, for residuals that are normal and a law that is their quantile alone."""
    count, sd = 4000, 0.7
    r = sd * (stats.norm.ppf((np.arange(count) + 0.5) / count) - stats.norm.ppf(tau))
    loss = loss_named("pinball", delta=1e-3, tau=tau, kappa=200.0, penalty=10.0, scale=1.0)
    found = dispersions(-r[None], np.ones((1, count)), loss, 1)
    second, bend = _moments(-r[None], np.ones((1, count)), loss, 1)
    density = stats.norm.pdf(stats.norm.ppf(tau)) / sd
    error = math.sqrt(second[0] / count) / bend[0]
    assert error == pytest.approx(math.sqrt(tau * (1 - tau) / count) / density, rel=0.05)
    assert found == pytest.approx(second / bend)

"""Intervals and verdicts: what is known, and what is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from isoflop.core.errors import UsageError
from isoflop.laws import Chinchilla, DataConstrained, Frontier, Imitation, InfiniteCompute, Overtraining, PowerFloor
from isoflop.laws.law import Fit
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
    from isoflop.laws.extrapolate import inner_rate

    x = {"C": np.geomspace(1e17, 1e22, 60)}
    bent = 1.7 + 60 * x["C"] ** -0.08 - 0.002 * np.log(x["C"] / 1e17) ** 1.5
    noise = np.exp(0.002 * np.random.default_rng(0).standard_normal(60))
    right = planted(PowerFloor(), {"A": 60.0, "E": 1.7, "a": 0.08}, x, 0.002, 1)[0]
    wrong_rate = inner_rate(PowerFloor().fit({**x, "loss": bent * noise}, fixed={"E": 1.7}), 0.9)
    right_rate = inner_rate(PowerFloor().fit({**x, "loss": right}, fixed={"E": 1.7}), 0.9)
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

"""The baseline's curve: monotone, exact where it can be, and its error is what it says."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import isotonic_regression

from isoflop.lab.ladder import interpolation_error, invert, isotonic, left_out, slopes

OCTAVES = np.arange(6) * math.log(2)
gaps = st.lists(st.floats(0.3, 1.5), min_size=2, max_size=5)
qualities = st.lists(st.floats(0.5, 5), min_size=3, max_size=6)


def between(u, count=201):
    return np.linspace(u[0], u[-1], count)


@given(y=qualities)
def test_isotonic_regression_is_scipy_s(y):
    wanted = isotonic_regression(y, increasing=False).x
    assert isotonic(np.asarray(y)) == pytest.approx(wanted, abs=1e-12)


@given(gaps=gaps, exponent=st.floats(0.01, 0.6), floor=st.floats(0, 3), scale=st.floats(0.1, 10))
def test_power_laws_are_inverted_exactly_on_any_ladder(gaps, exponent, floor, scale):
    u = np.cumsum([0.0, *gaps])
    curve = lambda v: floor + scale * np.exp(-exponent * v)  # noqa: E731
    found, side = invert(u, curve(u), curve(between(u)))
    assert not np.any(side[1:-1])
    bound = max(gaps) ** 4 * exponent**3 / 128  # of a cubic with exact slopes, and a little
    assert found == pytest.approx(between(u), abs=bound + 1e-6)


@given(slope=st.floats(0.01, 5), gaps=gaps)
def test_straight_lines_stay_straight(slope, gaps):
    u = np.cumsum([0.0, *gaps])
    assert slopes(u, 3 - slope * u) == pytest.approx(np.full(len(u), slope))
    assert invert(u, 3 - slope * u, 3 - slope * between(u))[0] == pytest.approx(between(u), abs=1e-9)


@given(y=qualities, data=st.data())
def test_curves_are_monotone_and_keep_to_the_ladder(y, data):
    u = np.cumsum([data.draw(st.floats(0.1, 2)) for _ in y])
    fitted = isotonic(np.asarray(y))
    steep = slopes(u, fitted)
    chords = -np.diff(fitted) / np.diff(u)
    assert np.all(steep >= 0)
    assert np.all(steep[1:] <= 3 * chords * (1 + 1e-9) + 1e-12)
    assert np.all(steep[:-1] <= 3 * chords * (1 + 1e-9) + 1e-12)
    targets = np.linspace(max(y) + 0.1, min(y) - 0.1, 101)
    needed, side = invert(u, np.asarray(y), targets)
    assert np.all(np.diff(needed) >= -1e-12), "a better target needed less"
    assert np.all((needed >= u[0]) & (needed <= u[-1]))
    assert np.all(needed[side > 0] == u[-1])
    assert np.all(needed[side < 0] == u[0])


def test_rungs_themselves_are_hit():
    u, y = OCTAVES[:4], np.asarray([3.0, 2.5, 2.3, 2.2])
    assert invert(u, y, y)[0] == pytest.approx(u, abs=1e-12)
    assert not np.any(invert(u, y, y)[1])


def test_many_curves_at_once_are_each_its_own():
    rng = np.random.default_rng(0)
    u, y, t = np.sort(rng.uniform(0, 4, (5, 3, 4))), rng.uniform(1, 3, (5, 3, 4)), rng.uniform(1, 3, (5, 3))
    needed, side = invert(u, y, t)
    assert needed.shape == side.shape == (5, 3)
    one, where = invert(u[2, 1], y[2, 1], t[2, 1])
    assert (one, where) == (pytest.approx(needed[2, 1]), side[2, 1])


def test_a_rung_left_out_is_an_arm_of_the_others():
    u, y = OCTAVES[:4], np.asarray([3.0, 2.5, 2.3, 2.2])
    found = left_out(u, y)
    assert found[0] == invert(u[[0, 2, 3]], y[[0, 2, 3]], y[1])[0] - u[1]
    assert found[1] == invert(u[[0, 1, 3]], y[[0, 1, 3]], y[2])[0] - u[2]
    assert np.all(np.abs(found) > 0.02)


def test_the_error_is_an_eighth_of_what_leaving_rungs_out_shows():
    u, y = OCTAVES[:5], np.asarray([3.0, 2.5, 2.35, 2.15, 2.1])
    assert interpolation_error(u, y[None]) == pytest.approx(math.sqrt(np.mean(left_out(u, y) ** 2)) / 8)


def test_with_three_rungs_the_error_is_what_a_spread_of_exponents_allows():
    a = 0.4
    y = np.exp(-a * OCTAVES[:3])
    chord = (left_out(OCTAVES[:3], y) ** 2).item()
    assert interpolation_error(OCTAVES[:3], y[None]) == pytest.approx(0.385 * 4 / 18 * chord / math.log(2))
    evenly = lambda v: np.mean([np.exp(-b * v) for b in np.linspace(1e-9, 2 * a, 400)], axis=0)  # noqa: E731
    off = invert(OCTAVES[:3], evenly(OCTAVES[:3]), evenly(between(OCTAVES[:3])))[0] - between(OCTAVES[:3])
    stated = interpolation_error(OCTAVES[:3], evenly(OCTAVES[:3])[None])
    assert 0.3 * stated < np.max(np.abs(off)) < 1.5 * stated


@pytest.mark.parametrize("rungs", [4, 5, 6])
@pytest.mark.parametrize(("slow", "fast"), [(0.2, 0.8), (0.1, 1.0), (0.05, 1.5)])
def test_a_mixture_of_powers_lies_within_its_stated_error(rungs, slow, fast):
    curve = lambda v: 1.5 + np.exp(-slow * v) + 0.4 * np.exp(-fast * v)  # noqa: E731
    u = OCTAVES[:rungs]
    off = invert(u, curve(u), curve(between(u)))[0] - between(u)
    stated = interpolation_error(u, curve(u)[None])
    assert 0 < stated < 0.02
    assert np.sqrt(np.mean(off**2)) < stated
    assert np.max(np.abs(off)) < 3 * stated


def test_noise_of_the_seeds_is_not_taken_for_an_error_of_the_curve():
    rng = np.random.default_rng(1)
    u = OCTAVES[:4]
    quiet = 1.8 + 1.2 * np.exp(-0.3 * u)
    y = quiet + 0.01 * rng.standard_normal((2000, 5, 4))
    found = interpolation_error(u, y)
    noise = np.sqrt(np.mean(left_out(u, y).mean(axis=1) ** 2))
    assert np.median(found) < noise / 8 / 2
    assert np.mean(found == 0) > 0.4
    assert interpolation_error(u, quiet[None]) < 1e-3

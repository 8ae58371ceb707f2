"""Calibration errors and calibrators by their definitions, and refusals of what makes no sense."""

from __future__ import annotations

import numpy as np
import pytest

from isoflop.core.errors import DataError
from isoflop.evals.calibration import (
    Binning,
    PlattScaling,
    calibration_error,
    debiased_error,
    paired,
    temperature_of,
    top,
)
from isoflop.evals.core_score import above_chance, core_score

DRAW = np.random.default_rng(5)


def test_errors_by_a_loop() -> None:
    c, r = DRAW.random(200), DRAW.integers(0, 2, 200)
    expected = 0.0
    for k in range(15):
        inside = (c > k / 15) & (c <= (k + 1) / 15) if k else c <= 1 / 15
        expected += abs(c[inside].sum() - r[inside].sum()) / 200
    assert calibration_error(c, r) == pytest.approx(expected, abs=1e-12)


def test_a_calibrated_model_has_no_debiased_error_on_average_and_a_biased_one() -> None:
    """Of outcomes that come with the probability said: the plain estimate is above 0, the debiased one near it."""
    c = DRAW.random((60, 300))
    r = (DRAW.random((60, 300)) < c).astype(int)
    plain = np.mean([calibration_error(a, b, kind="mass", power=2) for a, b in zip(c, r, strict=True)])
    mended = np.mean([debiased_error(a, b) for a, b in zip(c, r, strict=True)])
    assert plain > 0.08
    assert mended < plain / 2


def test_scalings_find_what_was_planted() -> None:
    z = DRAW.normal(size=20_000) * 2
    right = (DRAW.random(20_000) < 1 / (1 + np.exp(-(0.5 * z + 0.3)))).astype(int)
    confidence = 1 / (1 + np.exp(-z))
    found = PlattScaling.fit(confidence, right)
    assert (found.slope, found.offset) == (pytest.approx(0.5, abs=0.03), pytest.approx(0.3, abs=0.05))
    assert calibration_error(found(confidence), right) < calibration_error(confidence, right) / 3
    assert calibration_error(Binning.scaled(confidence, right)(confidence), right) < 0.02
    logits = DRAW.normal(size=(5000, 4)) * 3
    p = np.exp(logits / 2) / np.exp(logits / 2).sum(1, keepdims=True)
    labels = (p.cumsum(1) > DRAW.random((5000, 1))).argmax(1)
    assert temperature_of(logits, labels) == pytest.approx(2, abs=0.1)


def test_separable_outcomes_do_not_break_a_scaling() -> None:
    found = PlattScaling.fit([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1])
    assert np.isfinite(found([0.0, 0.5, 1.0])).all()


@pytest.mark.parametrize(
    ("p", "y"), [([[0.5, 0.6]], [2]), ([[1.5, 0.0]], [0]), ([[np.nan, 0.0]], [0]), ([0.5], [0]), ([[0.5, 0.5]], [0.5])]
)
def test_what_is_no_probability_is_refused(p: list[float], y: list[int]) -> None:
    with pytest.raises(DataError):
        top(p, y)


def test_paired_models() -> None:
    one, two = np.zeros(100), np.zeros(100)
    one[:12], two[10:13] = 1, 1
    found = paired(one, two)
    assert found.difference == pytest.approx(0.09)
    assert found.p == pytest.approx(2 * sum([1, 11]) / 2**11)  # 10 to 1 of 11
    assert paired(DRAW.normal(1, 1, 50), DRAW.normal(0, 1, 50)).p < 0.01
    with pytest.raises(DataError):
        paired([1, 0], [1, 0, 1])


def test_core_says_what_is_missing_and_refuses_per_cent() -> None:
    assert core_score({}).missing[0] == "hellaswag_zeroshot"
    assert above_chance("siqa", 0.5) == 0 != above_chance("siqa", 0.5, "v1")
    with pytest.raises(DataError, match="per cent"):
        above_chance("copa", 81.0)
    with pytest.raises(DataError, match="copa"):
        above_chance("coppa", 0.8)

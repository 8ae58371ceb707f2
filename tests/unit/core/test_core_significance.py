"""Student's interval and test, and Holm's correction, against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from isoflop.core.significance import half_width, holm, p_value


def test_an_error_that_all_values_share_does_not_shrink_with_their_number():
    values = np.arange(1.0, 101.0)
    own = values.std(ddof=1) / 10
    wider = half_width(values, 0.95, 20.0)
    assert wider / half_width(values) == pytest.approx(math.hypot(own, 20.0) / own)
    assert half_width(np.ones((2, 3)), 0.95, [0.0, 1.0]) == pytest.approx([0.0, 4.302652729911275])


def test_a_p_value_that_is_nan_counts_and_shows_nothing():
    assert holm([math.nan, 0.02]) == pytest.approx([1.0, 0.04])
    assert holm([0.02, math.nan, None, 0.03]) == pytest.approx([0.06, 1.0, None, 0.06])


def test_the_half_width_is_student_s_over_the_last_axis():
    one = 4.302652729911275 * 1.0 / math.sqrt(3)  # 2 degrees of freedom, standard deviation 1
    assert half_width([1.0, 2.0, 3.0]) == pytest.approx(one)
    assert half_width([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0]]) == pytest.approx([one, 2 * one])
    assert half_width([1.0, 2.0, 3.0], 0.9) == pytest.approx(2.919985580353725 / math.sqrt(3))
    assert isinstance(half_width(np.zeros((5, 4))), np.ndarray)
    with pytest.raises(ValueError, match="at least 3 seeds, not 2: Student"):
        half_width([1.0, 2.0])


def test_the_p_value_is_student_s_and_agrees_with_the_interval():
    values = np.array([0.2, 1.1, 0.4, 0.9])
    assert p_value(values) == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
    mean = values.mean()
    for error in (0.0, 0.3):
        assert p_value(values - mean + half_width(values, 0.9, error), error) == pytest.approx(0.1)
    assert (p_value(np.zeros(3)), p_value(np.ones(3)), p_value(np.ones(3), 1.0)) == (1.0, 0.0, pytest.approx(0.422650))


def test_holm_is_step_down_and_monotone():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.6]) == [1.0, 1.0]
    assert holm([0.01, None, 0.04, 0.03]) == pytest.approx([0.03, None, 0.06, 0.06])

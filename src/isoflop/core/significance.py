"""Student's t and Holm: what an interval and several comparisons at once allow to be said."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import stdtr, stdtrit

from .complaints import SEEDS, few_seeds

LEVEL = 0.95


def half_width(values: npt.ArrayLike, level: float = LEVEL, error: npt.ArrayLike = 0.0) -> Any:
    """Half the width of Student's t interval of the mean over the last axis: (..., n) -> (...), n >= 3.

    Args:
        values: (..., n) independent values, one a seed.
        level: confidence level, a share.
        error: (...) a standard error that all the values share, so that more of them do not lessen it.
    """
    listed = np.asarray(values, dtype=np.float64)
    n = listed.shape[-1]
    if n < SEEDS:
        raise ValueError(few_seeds(n))
    return stdtrit(n - 1, 0.5 + level / 2) * np.hypot(listed.std(axis=-1, ddof=1) / math.sqrt(n), error)


def p_value(values: npt.ArrayLike, error: float = 0.0) -> float:
    """Two-sided p-value of Student's t test that the mean is 0; where nothing varies, 1 if it is and 0 if not.

    Args:
        values: (n,) independent values, one a seed, n >= 2.
        error: a standard error that all the values share, so that more of them do not lessen it.
    """
    listed = np.asarray(values, dtype=np.float64)
    mean = abs(float(listed.mean()))
    deviation = math.hypot(listed.std(ddof=1) / math.sqrt(len(listed)), error)
    if deviation == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * stdtr(len(listed) - 1, -mean / deviation))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's adjustment (Holm 1979), in the order given; None stays None and is no comparison.

    A p-value that is NaN is a comparison that was made and shows nothing: it counts as 1.
    """
    given = [1.0 if p is not None and math.isnan(p) else p for p in p_values]
    known = sorted((p, i) for i, p in enumerate(given) if p is not None)
    out: list[float | None] = [None] * len(p_values)
    top = 0.0
    for rank, (p, i) in enumerate(known):
        top = max(top, min(1.0, p * (len(known) - rank)))
        out[i] = top
    return out

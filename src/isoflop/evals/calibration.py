"""Calibration: does a model that is p sure come right with probability p; and calibrators that mend it.

Errors are estimated over bins of confidence: sum_B |B|/n |mean confidence - share right|. Scaling-binning, the debiased
estimate and equal-mass bins follow Kumar et al. 2019 (arXiv 1909.10155), whose library gives the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt

from ..core.errors import DataError

Array = npt.NDArray[np.float64]
Bins = Literal["width", "mass"]
_EPS = 1e-12


def top(probabilities: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[Array, Array]:
    """Confidence of the likeliest class, and 1.0 where it is right, of (n, classes) probabilities and (n,) labels.

    Raises:
        DataError: shapes, labels or probabilities do not fit.
    """
    p, y = np.asarray(probabilities, np.float64), np.asarray(labels)
    if p.ndim != 2 or y.shape != p.shape[:1] or not len(p):
        raise DataError(f"probabilities {p.shape} and labels {y.shape} do not fit", fix="give (n, classes) and (n,)")
    if not (np.isfinite(p).all() and (p >= 0).all() and (p <= 1).all()):
        raise DataError("probabilities are not all in [0, 1]", fix="normalise them over the label words first")
    if not np.issubdtype(y.dtype, np.integer) or y.min() < 0 or y.max() >= p.shape[1]:
        raise DataError("labels are no classes", fix=f"give whole numbers below {p.shape[1]}")
    return p.max(1), (p.argmax(1) == y).astype(np.float64)


def edges(confidence: Array, bins: int, kind: Bins) -> Array:
    """Upper ends of bins, the last 1: of equal width, or halfway between neighbours of about equally many values."""
    if kind == "width":
        return np.arange(1, bins + 1) / bins
    parts = np.array_split(np.sort(confidence), min(bins, len(confidence)))
    inner = [(a[-1] + b[0]) / 2 for a, b in pairwise(parts)]
    return np.unique(np.append(inner, 1.0))


def calibration_error(
    confidence: npt.ArrayLike, right: npt.ArrayLike, *, bins: int = 15, kind: Bins = "width", power: int = 1
) -> float:
    """(sum_B |B|/n |mean confidence - share right|^power)^(1/power); ECE by default. It is biased upwards.

    Args:
        confidence: (n,) in [0, 1].
        right: (n,) 0 or 1.
        bins: how many at most.
        kind: of equal width, or of equal mass.
        power: 1 or 2.

    Example:
        >>> round(calibration_error([0.9, 0.9, 0.6, 0.6], [1, 1, 1, 0]), 3)
        0.1
    """
    n, gap, _ = _binned(confidence, right, bins, kind)
    return float((n / n.sum() @ np.abs(gap) ** power) ** (1 / power))


def debiased_error(confidence: npt.ArrayLike, right: npt.ArrayLike, *, bins: int = 15, kind: Bins = "mass") -> float:
    """The quadratic calibration error without the part that chance adds; 0 where that is the larger one.

    From each bin's squared gap the variance of its share, q (1 - q) / (|B| - 1), is taken off.

    Args:
        confidence: (n,) in [0, 1].
        right: (n,) 0 or 1.
        bins: how many at most.
        kind: of equal mass, or of equal width.
    """
    n, gap, share = _binned(confidence, right, bins, kind)
    error = np.where(n > 1, gap**2 - share * (1 - share) / np.maximum(n - 1, 1), 0.0)
    return float(max(n / n.sum() @ error, 0.0) ** 0.5)


def marginal_error(probabilities: npt.ArrayLike, labels: npt.ArrayLike, *, bins: int = 15) -> float:
    """The debiased quadratic error of every class by itself, their quadratic mean.

    Args:
        probabilities: (n, classes).
        labels: (n,) classes.
        bins: of equal mass, at most.
    """
    p, y = np.asarray(probabilities, np.float64), np.asarray(labels)
    top(p, y)
    found = [debiased_error(p[:, k], y == k, bins=bins) ** 2 for k in range(p.shape[1])]
    return float(np.mean(found) ** 0.5)


def _binned(confidence: npt.ArrayLike, right: npt.ArrayLike, bins: int, kind: Bins) -> tuple[Array, Array, Array]:
    """Of every bin that holds something: how many, the gap, and the share that is right."""
    c, r = _checked(confidence, right)
    place = np.searchsorted(edges(c, bins, kind), c)
    count = np.bincount(place)
    filled = count > 0
    n = count[filled].astype(np.float64)
    share = np.bincount(place, r)[filled] / n
    return n, np.bincount(place, c)[filled] / n - share, share


def _checked(confidence: npt.ArrayLike, right: npt.ArrayLike) -> tuple[Array, Array]:
    c, r = np.asarray(confidence, np.float64), np.asarray(right, np.float64)
    if c.shape != r.shape or c.ndim != 1 or not len(c):
        raise DataError(f"confidences {c.shape} and outcomes {r.shape} do not fit", fix="give one of each an item")
    if not (np.isfinite(c).all() and (c >= 0).all() and (c <= 1).all() and np.isin(r, (0, 1)).all()):
        raise DataError("confidences lie outside [0, 1], or outcomes are neither 0 nor 1")
    return c, r


@dataclass(frozen=True)
class PlattScaling:
    """sigmoid(a logit(c) + b), fitted by maximum likelihood.

    Args:
        slope: a.
        offset: b.

    Example:
        >>> scaling = PlattScaling.fit([0.9, 0.9, 0.9, 0.9, 0.2, 0.2, 0.2], [1, 1, 0, 1, 0, 1, 0])
        >>> scaling([0.9]).round(2).tolist()
        [0.75]
    """

    slope: float
    offset: float

    @classmethod
    def fit(cls, confidence: npt.ArrayLike, right: npt.ArrayLike, *, temperature: bool = False) -> PlattScaling:
        """Fit to (n,) confidences and outcomes by Newton's method; with ``temperature`` only the slope, 1 / T."""
        c, r = _checked(confidence, right)
        columns = [_logit(c)] if temperature else [_logit(c), np.ones(len(c))]
        x, w = np.stack(columns, 1), np.zeros(len(columns))
        w[0] = 1.0
        for _ in range(200):
            p = 1 / (1 + np.exp(-np.clip(x @ w, -500, 500)))
            slope = x.T @ (p - r) + 1e-10 * w
            curve = (x * (p * (1 - p))[:, None]).T @ x + 1e-10 * np.eye(len(w))
            step = np.linalg.solve(curve, slope)
            step *= min(1.0, 4.0 / max(float(np.abs(step).max()), 1e-300))
            w = w - step
            if float(np.abs(step).max()) < 1e-12 * (1 + float(np.abs(w).max())):
                break
        return cls(float(w[0]), 0.0 if temperature else float(w[1]))

    def __call__(self, confidence: npt.ArrayLike) -> Array:
        z = self.slope * _logit(np.asarray(confidence, np.float64)) + self.offset
        return np.asarray(1 / (1 + np.exp(-np.clip(z, -500, 500))))


def temperature_of(logits: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """The temperature T by which softmax(logits / T) is likeliest, of (n, classes) logits and (n,) labels."""
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    z, y = np.asarray(logits, np.float64), np.asarray(labels)
    rows = np.arange(len(z))

    def loss(log_t: float) -> float:
        scaled = z * np.exp(-log_t)
        return float(np.mean(logsumexp(scaled, axis=1) - scaled[rows, y]))

    return float(np.exp(minimize_scalar(loss, bounds=(-7, 7), method="bounded", options={"xatol": 1e-10}).x))


@dataclass(frozen=True)
class Binning:
    """A step function of the confidence: in each bin the mean of what was seen there.

    ``fit`` on outcomes is histogram binning; on the outputs of a fitted scaling, scaling-binning, whose error can be
    measured with far fewer items.

    Args:
        ends: upper ends of the bins, the last 1.
        values: what each gives.
        scaling: what the confidence goes through first.

    Example:
        >>> Binning.fit([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1], bins=2)([0.3, 0.95]).tolist()
        [0.0, 1.0]
    """

    ends: tuple[float, ...]
    values: tuple[float, ...]
    scaling: PlattScaling | None = None

    @classmethod
    def fit(
        cls, confidence: npt.ArrayLike, seen: npt.ArrayLike, *, bins: int = 10, scaling: PlattScaling | None = None
    ) -> Binning:
        """Bins of equal mass of (n,) confidences, with the means of (n,) ``seen``; an empty bin gives its middle."""
        c, values = np.asarray(confidence, np.float64), np.asarray(seen, np.float64)
        ends = edges(c, bins, "mass")
        place = np.searchsorted(ends, c)
        count, total = np.bincount(place, minlength=len(ends)), np.bincount(place, values, minlength=len(ends))
        middle = (ends + np.append(0.0, ends[:-1])) / 2
        means = np.where(count > 0, total / np.maximum(count, 1), middle)
        return cls(tuple(ends.tolist()), tuple(means.tolist()), scaling)

    @classmethod
    def scaled(
        cls, confidence: npt.ArrayLike, right: npt.ArrayLike, *, bins: int = 10, others: npt.ArrayLike | None = None
    ) -> Binning:
        """Scaling-binning: Platt scaling, then bins of its outputs on ``others`` (None: on the same items)."""
        scaling = PlattScaling.fit(confidence, right)
        outputs = scaling(confidence if others is None else others)
        return cls.fit(outputs, outputs, bins=bins, scaling=scaling)

    def __call__(self, confidence: npt.ArrayLike) -> Array:
        c = np.asarray(confidence, np.float64) if self.scaling is None else self.scaling(confidence)
        return np.asarray(self.values)[np.searchsorted(self.ends, c)]


def _logit(confidence: Array) -> Array:
    c = np.clip(confidence, _EPS, 1 - _EPS)
    return np.asarray(np.log(c / (1 - c)))


@dataclass(frozen=True)
class Paired:
    """Two models on the same items.

    Args:
        difference: mean of the first one's values less the second one's.
        stderr: its standard error, over items.
        p: two-sided: McNemar's exact one for right and wrong, else Student's t.
        n: items.

    Example:
        >>> paired([1, 1, 1, 0], [0, 1, 1, 0]).p
        1.0
    """

    difference: float
    stderr: float
    p: float
    n: int


def paired(one: Sequence[float] | Array, two: Sequence[float] | Array) -> Paired:
    """Whether one model is better than another on the same items.

    Where values are right or wrong, the items on which they differ fall to either side with equal chance if neither is
    better (McNemar 1947, exact).

    Args:
        one: (n,) values of the first model, e.g. 1 where it is right.
        two: (n,) of the second, in the same order.
    """
    from scipy.stats import binomtest

    from ..core.significance import p_value

    a, b = np.asarray(one, np.float64), np.asarray(two, np.float64)
    if a.shape != b.shape or a.ndim != 1 or len(a) < 2:
        raise DataError(f"the models' values {a.shape} and {b.shape} are not of the same items", fix="match them first")
    gap = a - b
    spread = float(gap.std(ddof=1) / np.sqrt(len(gap)))
    if np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all():
        wins, losses = int((gap > 0).sum()), int((gap < 0).sum())
        p = float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0
    else:
        p = p_value(gap)
    return Paired(float(gap.mean()), spread, p, len(gap))

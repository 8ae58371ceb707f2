"""The baseline's curve through its rungs: monotone, smooth, exact for power laws, and with an error of its own.

Rungs (u = log x, y) are made non-increasing by isotonic regression and joined by cubics (Hermite). A cubic needs the
slope at both of its rungs. Each is that of the one exponential E + A exp(-a u), a power law in x, through the rung and
its two neighbours. Slopes are bounded by three times the chords beside them, which keeps the curve monotone (Fritsch
and Carlson 1980), and are 0 beside a plateau.

Why not straight lines: the chord lies above a convex curve, by up to h^2 a / 8 in u for y = E + A exp(-a u) and rungs
h apart. At factor 2 and a = .3 to .6 that makes a multiplier 2 to 4 % too high, several standard errors where seeds
are quiet. The slopes of PCHIP leave up to .5 %, those of the exponential .02 %.

How wrong the curve may be between rungs, for whatever baseline, is asked of the rungs themselves. Each but the first
and the last is left out in turn and treated as an arm: the curve through the others says which u its quality needs, and
the difference e to where it was run should be 0. Slopes from three points err by h^2, so the curve by h^3; leaving a
rung out doubles h, so between the full ladder's rungs an eighth of e is expected. Its square is averaged over the
rungs, after the seeds' noise is taken off: error^2 = max(0, mean over rungs of (mean e)^2 - var(e) / n) / 64.

With three rungs the two that stay show no curvature, and e is that of the chord: e = h^2 a / 2 measures a and no more.
What can be said is how wrong one exponential is for a mixture of them: the remainder of interpolation by three points,
(u - u1)(u - u2)(u - u3) / 6 times the variance of the exponents, at most .385 h^3 / 6 var(a). Exponents spread evenly
between 0 and 2 a have var(a) = a^2 / 3, which gives error = .0856 e^2 / h. It is an allowance and not a measurement:
a bend between three rungs cannot be seen.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
STEEPEST = 3.0
"""Slope over chord up to which a cubic is monotone."""


def isotonic(y: Array) -> Array:
    """Isotonic regression, non-increasing along the last axis: (..., K) -> (..., K), by its min-max formula."""
    last = y.shape[-1]
    fitted = np.empty_like(y)
    for k in range(last):
        most = [np.max([y[..., i : j + 1].mean(-1) for j in range(k, last)], axis=0) for i in range(k + 1)]
        fitted[..., k] = np.min(most, axis=0)
    return fitted


def invert(u: Array, y: Array, target: Array) -> tuple[Array, npt.NDArray[np.int_]]:
    """Where curves first reach their targets.

    Args:
        u: (..., K) log amounts of the rungs, ascending.
        y: (..., K) quality there, lower is better (turn one of which more is better: ``Scale.cost``).
        target: (...) quality to be reached.

    Returns:
        (...) log amounts, never beyond the ladder; (...) sides: 1 where the target lies beyond the top rung, -1 where
        the lowest is better already, 0 within.
    """
    u, fitted, targets = np.broadcast_arrays(u, isotonic(y), target[..., None])
    target = targets[..., 0]
    side = np.where(target < fitted[..., -1], 1, np.where(target > fitted[..., 0], -1, 0))
    first = np.sum(fitted > target[..., None], axis=-1)  # the first rung that is good enough
    gap = np.clip(first, 1, u.shape[-1] - 1)[..., None] - 1

    def ends(values: Array) -> tuple[Array, Array]:
        """A quantity at both ends of each target's gap."""
        return np.take_along_axis(values, gap, -1)[..., 0], np.take_along_axis(values, gap + 1, -1)[..., 0]

    (start, stop), (high, low), (before, after) = ends(u), ends(fitted), ends(slopes(u, fitted))
    drop = high - low
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # far beyond the ladder: clipped
        before = np.where(drop > 0, before * (stop - start) / drop, 0.0)
        after = np.where(drop > 0, after * (stop - start) / drop, 0.0)
        share = np.where(drop > 0, (high - target) / drop, 0.0)
    where = start + (stop - start) * _solve(before, after, np.clip(share, 0.0, 1.0))
    return np.where(side > 0, u[..., -1], np.where(side < 0, u[..., 0], np.minimum(where, stop))), side


def slopes(u: Array, y: Array) -> Array:
    """-dy/du at the rungs, (..., K) -> (..., K), for non-increasing y; two rungs have their chord's."""
    h = np.diff(u)
    d = -np.diff(y) / h
    if y.shape[-1] == 2:
        return np.concatenate([d, d], axis=-1)
    left, middle, right = _exponential(h[..., :-1], h[..., 1:], d[..., :-1], d[..., 1:])
    found = np.concatenate([left[..., :1], middle, right[..., -1:]], axis=-1)
    beside = np.minimum(np.concatenate([d[..., :1], d], axis=-1), np.concatenate([d, d[..., -1:]], axis=-1))
    return np.asarray(np.minimum(found, STEEPEST * beside))


def left_out(u: Array, y: Array) -> Array:
    """Each rung between the ends as an arm of the others: (..., K) -> (..., K - 2) errors in log x, 0 if exact."""
    errors = []
    for k in range(1, y.shape[-1] - 1):
        others = [i for i in range(y.shape[-1]) if i != k]
        errors.append(invert(u[..., others], y[..., others], y[..., k])[0] - u[..., k])
    return np.stack(errors, axis=-1)


def interpolation_error(u: Array, y: Array) -> Array:
    """Standard error that interpolating leaves in a mean log multiplier: (..., n, K) seeds and rungs -> (...); K >= 3.

    Derived above. The noise of the seeds is taken off if there are at least two.
    """
    u, y = np.broadcast_arrays(u, y)
    errors = left_out(u, y)
    n = errors.shape[-2]
    noise = errors.var(axis=-2, ddof=1) / n if n > 1 else 0.0
    square = np.maximum(np.mean(errors.mean(axis=-2) ** 2 - noise, axis=-1), 0.0)
    if y.shape[-1] > 3:
        return np.asarray(np.sqrt(square) / 8)
    h = np.mean(u[..., -1] - u[..., 0], axis=-1) / 2
    return np.asarray(0.385 / 18 * 4 * square / h)


def _exponential(h1: Array, h2: Array, d1: Array, d2: Array) -> tuple[Array, Array, Array]:
    """Slopes at the three points of an exponential whose chords over gaps h1, h2 fall by d1, d2 >= 0 a unit.

    A chord's slope is the slope at its gap's middle times sinh(t) / t, t = a h / 2, so a solves
    log d1 - log d2 = a (h1 + h2) / 2 + the difference of log sinh(t) / t, which is 0 for equal gaps. 0 at the middle
    where a chord is level; at an end, the limit: 0, or steep without bound.
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratio = np.log(d1) - np.log(d2)
        rate = ratio / ((h1 + h2) / 2)
        for _ in range(8):
            rate = (ratio - _bulge(rate * h1) + _bulge(rate * h2)) / ((h1 + h2) / 2)
        first, second = np.log(d1) - _bulge(rate * h1), np.log(d2) - _bulge(rate * h2)
        left, middle = np.exp(first + rate * h1 / 2), np.exp(first - rate * h1 / 2)
        right = np.exp(second - rate * h2 / 2)
    level = (d1 == 0) | (d2 == 0)
    middle = np.where(level, 0.0, middle)
    left, right = (np.where(level, np.where(own > 0, np.inf, 0.0), s) for own, s in ((d1, left), (d2, right)))
    return left, middle, right


def _bulge(t: Array) -> Array:
    """log(sinh(t / 2) / (t / 2)), 0 at 0."""
    size = np.abs(t)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(size < 1e-9, 0.0, size / 2 + np.log(-np.expm1(-size) / size))


def _solve(before: Array, after: Array, share: Array) -> Array:
    """s in [0, 1] where the cubic from 0 to 1 with these slopes is ``share``: Newton, kept within bisected bounds."""
    s, low, high = share.copy(), np.zeros_like(share), np.ones_like(share)
    square, cube = 3 - 2 * before - after, before + after - 2
    for _ in range(60):
        off = s * (before + s * (square + s * cube)) - share
        low, high = np.where(off < 0, s, low), np.where(off < 0, high, s)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            new = s - off / (before + s * (2 * square + 3 * s * cube))
        new = np.where((new >= low) & (new <= high), new, (low + high) / 2)
        done = np.all(np.abs(new - s) < 1e-13)
        s = new
        if done:
            break
    return np.where(share < 1, s, 1.0)

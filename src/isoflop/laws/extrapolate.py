"""Prediction intervals that are meant to hold beyond the data: noise, constants, and the law's own error.

A law that fits is still wrong further out, by an amount that its residuals do not show. It is measured where it can
be: the fit is repeated on the cheaper part of its own table and asked for the dearer part. The discrepancy is taken to
grow in proportion to ln(C / C_max), at the smallest rate with which those inner forecasts are covered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import stats

from ..core.errors import IsoflopError
from .arguments import check_level
from .fit import Solved, fit_law
from .formula import Array
from .noise import covariances
from .solve import minimise
from .tables import cuts

SHARES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Shares of the rows, cheapest first, from which the rest is forecast."""
INFLATION = 0.75
"""What the inner rate is multiplied by; tuned on tables other than the one that is predicted (docs/laws.md)."""
LEAST = 0.01
"""Least discrepancy per e-fold of compute, relative; three times it where a table cannot measure its own."""

_AHEAD = 0.1  # e-folds: nearer forecasts say nothing about the law's own error


@dataclass(frozen=True)
class Prediction:
    """Predictions with intervals; as an array it is its values.

    Attributes:
        value: predictions (n,) in the target's units.
        low: lower ends (n,).
        high: upper ends (n,).
        noise: standard deviation (n,) in link space that the residuals give.
        parameters: standard deviation (n,) in link space that the constants' covariance gives.
        discrepancy: standard deviation (n,) in link space of the law's own error.

    Example, with ``sweep`` a table of N, D and loss:
        >>> from isoflop.laws import Chinchilla
        >>> ahead = Chinchilla().fit(sweep).predict({"N": [7e10], "D": [1.4e12]}, interval=0.9)
        >>> [round(float(part[0]), 3) for part in (ahead.low, ahead.value, ahead.high)]
        [1.828, 1.974, 2.132]
    """

    value: Array
    low: Array
    high: Array
    noise: Array
    parameters: Array
    discrepancy: Array

    def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
        return np.asarray(self.value, dtype=dtype)


def predict_interval(
    fit: Solved, table: Mapping[str, Any], level: float, *, inflation: float = INFLATION, least: float = LEAST
) -> Prediction:
    """Intervals for new runs; for a quantile law, of the quantile itself.

    They are infinite where no residual is left to tell the noise by.

    ``fit.predict(table, interval=level)`` calls this; call it itself to choose how much is added for the law's own
    error.

    Args:
        fit: the fit.
        table: the law's columns.
        level: level of the intervals, a share.
        inflation: what the measured rate of the law's own error is multiplied by.
        least: least rate of it, relative, per e-fold of compute.

    Raises:
        UsageError: a level that is no share.
        DataError: a declared column is missing, or not finite and positive as the law wants it.

    Example, with ``sweep`` a table of N, D and loss:
        >>> from isoflop.laws import Chinchilla
        >>> fit, run = Chinchilla().fit(sweep), {"N": [7e10], "D": [1.4e12]}
        >>> careful, bold = (predict_interval(fit, run, 0.9, inflation=x, least=x / 100) for x in (1.0, 0.0))
        >>> bool(careful.high[0] > bold.high[0])
        True
    """
    check_level(level)
    x = fit.columns_of(table)
    f, jac = fit.law.jacobian(fit.theta[None], x, fit.problem.link)
    parameters = np.sqrt(np.maximum(np.einsum("in,ij,jn->n", jac[0], fit.covariance(), jac[0]), 0.0))
    noise = np.full(f.shape[1], noise_of(fit, level))
    discrepancy = discrepancy_rate(fit, level, inflation=inflation, least=least) * efolds_beyond(fit, x)
    half_width = quantile(fit, level) * np.sqrt(noise**2 + parameters**2 + discrepancy**2)
    law, link = fit.law, fit.problem.link
    with np.errstate(over="ignore"):
        value, low, high = (law.unlinked(f[0] + side * half_width, link) for side in (0.0, -1.0, 1.0))
    if fit.degrees_of_freedom < 1 and not law.likelihood:
        low, high = np.full(len(value), -np.inf), np.full(len(value), np.inf)
    return Prediction(value, low, high, noise, parameters, discrepancy)


def efolds_beyond(fit: Solved, x: Mapping[str, Array]) -> Array:
    """e-folds of compute (n,) by which rows lie beyond the dearest fitted row; 0 inside.

    Compute is counted alike on both sides: C serves only where both tables have it.
    """
    known = fit.problem.x
    with np.errstate(all="ignore"):
        here, there = (fit.law.compute({name: t[name] for name in known if name in x}) for t in (x, known))
        ahead = np.log(here) - np.log(there).max()
    return np.asarray(np.maximum(np.nan_to_num(ahead), 0.0))


def noise_of(fit: Solved, level: float) -> float:
    """Standard deviation of the normal that has the residuals' ``level`` quantile: right for heavy tails."""
    if fit.loss.quantile is not None:
        return 0.0
    return float(_sizes(fit.residuals[None], fit.problem.weights[None], len(fit.problem.free), level)[0])


def discrepancy_rate(fit: Solved, level: float, *, inflation: float = INFLATION, least: float = LEAST) -> float:
    """Discrepancy per e-fold of compute, in link space: the inner rate, inflated, and the least one in squares."""
    rate = inner_rate(fit, level)
    floor = least * unit(fit)
    return float(np.hypot(inflation * rate, floor)) if rate is not None else 3.0 * floor


def inner_rate(fit: Solved, level: float) -> float | None:
    """The smallest rate with which forecasts inside the table are covered; None if it is too small to make any."""
    error, spread, ahead, share = _inner(fit, level)
    if len(error) < 2:
        return None
    limit = quantile(fit, level)
    needed = np.sqrt(np.maximum((error / limit) ** 2 - spread**2, 0.0)) / ahead
    order = np.argsort(needed)
    covered = np.cumsum(share[order])
    return float(needed[order][min(int(np.searchsorted(covered, level - 1e-9)), len(needed) - 1)])


def _inner(fit: Solved, level: float) -> tuple[Array, Array, Array, Array]:
    """Forecasts inside the table: |error|, its expected spread, e-folds ahead, and weights that sum to 1."""
    problem, width = fit.problem, len(fit.problem.free)
    with np.errstate(all="ignore"):
        c = np.log(problem.law.compute(problem.x))
    edges = _edges(c, width + 2) if np.isfinite(c).all() and width else []  # refits need rows beyond their constants
    if not edges:
        return np.empty(0), np.empty(0), np.empty(0), np.empty(0)
    r, spread, good = (_refitted if fit.origin else _reweighted)(fit, c, edges, level)
    ahead = c[None] - np.asarray(edges)[:, None]
    test = (ahead > _AHEAD) & np.isfinite(r) & np.isfinite(spread) & good[:, None]
    share = test / np.maximum(test.sum(1, keepdims=True), 1) / max(1, int(test.any(1).sum()))
    return np.abs(r)[test], spread[test], ahead[test], share[test]


def _edges(c: Array, least: int) -> list[float]:
    """Values of ``c``, log compute (rows,), up to which ``least`` rows lie, with rows to be forecast beyond."""
    return [float(edge) for edge in cuts(c, SHARES) if (c <= edge).sum() >= least and (c > edge + _AHEAD).any()]


def _reweighted(fit: Solved, c: Array, edges: list[float], level: float) -> tuple[Array, Array, Array]:
    """Residuals (k, n), their spread, and whether each refit converged: rows beyond an edge have no weight."""
    train = np.asarray([c <= edge for edge in edges])
    cut = replace(fit.problem, weights=train * fit.problem.weights)
    found = minimise(cut, np.repeat(fit.theta[None], len(edges), axis=0), fit.loss, tolerance=1e-8)
    r = cut.residuals(found.theta, np.arange(len(edges)))
    jac = fit.law.jacobian(found.theta, cut.x, cut.link)[1]
    spread = np.einsum("kin,kij,kjn->kn", jac, covariances(cut, found.theta, fit.loss), jac)
    noise = _sizes(r, cut.weights, len(cut.free), level)
    return r, np.sqrt(np.maximum(spread, 0.0) + noise[:, None] ** 2), found.converged


def _refitted(fit: Solved, c: Array, edges: list[float], level: float) -> tuple[Array, Array, Array]:
    """The same where a first stage must be made again on the cheaper rows."""
    assert fit.origin is not None
    law, raw, settings = fit.origin
    axis = np.log(fit.law.compute({name: raw.numbers(name) for name in fit.problem.x}))
    r, spread, good = (np.full((len(edges), len(c)), np.nan) for _ in range(3))
    for i, edge in enumerate(edges):
        try:
            small = fit_law(law, raw.where(axis <= edge), settings)
        except IsoflopError:  # too few rows for the first stage
            continue
        f, jac = small.law.jacobian(small.theta[None], fit.problem.x, fit.problem.link)
        r[i] = f[0] - small.law.linked(fit.problem.y, fit.problem.link)
        variance = np.einsum("in,ij,jn->n", jac[0], small.covariance(), jac[0])
        spread[i] = np.sqrt(np.maximum(variance, 0.0) + noise_of(small, level) ** 2)
        good[i] = 1.0
    return r, spread, good[:, 0] == 1.0


def _sizes(r: Array, weights: Array, parameters: int, level: float) -> Array:
    """(k,) noise sizes of residuals (k, n) at rows with weight."""
    used = weights > 0
    count = used.sum(-1)
    size = np.quantile(np.where(used, np.abs(r), np.nan), level, axis=-1) if used.all() else _masked(r, used, level)
    return np.asarray(size / stats.norm.ppf(0.5 + level / 2) * np.sqrt(count / np.maximum(count - parameters, 1)))


def _masked(r: Array, used: Array, level: float) -> Array:
    return np.asarray([np.quantile(np.abs(row[mask]), level) for row, mask in zip(r, used, strict=True)])


def quantile(fit: Solved, level: float) -> float:
    """Half the width, in standard deviations, of Student's interval at the fit's degrees of freedom."""
    return float(stats.t.ppf(0.5 + level / 2, max(1, fit.degrees_of_freedom)))


def unit(fit: Solved) -> float:
    """What a relative error of 1 is in link space: 1 for logarithms, the target's typical size otherwise."""
    return 1.0 if fit.problem.link == "log" else float(np.median(np.abs(fit.problem.y)))

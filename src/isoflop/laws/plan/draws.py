"""What a fit's constants may be, as draws, and by how much more an answer drifts beyond the fitted rows.

Constants are drawn from Student's t with the fit's covariance, which has the sandwich's factors, and degrees of
freedom. Intervals of planted optima from these draws cover what they promise; percentiles of refits to resampled rows
or residuals cover 80 to 97 % where 90 are asked for (docs/guide/planning.md). Only where a constant is unidentified,
so that no covariance describes it, the draws are refits to resampled rows, which err on the wide side.

The law's own error is measured as that of predictions is (``isoflop.laws.extrapolate``): the fit is repeated on the
cheapest rows and asked for the answer at the dearest one; what is left beyond the constants' error, per e-fold of
compute, goes on beyond the table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats
from scipy.stats import qmc

from ...core.rng import Rng
from ..bootstrap import bootstrap
from ..extrapolate import INFLATION, SHARES, discrepancy_rate, quantile
from ..fit import Solved
from ..formula import Array
from ..intervals import intervals
from ..noise import covariances
from ..solve import minimise
from ..tables import cuts
from .cost import TrainingCost, cost_of
from .limits import check_usable, spans

COUNT = 2048
"""Draws: a power of two, as Sobol sequences want it."""
_REFITS = 512  # to resampled rows
LEAST = 0.02
"""Least drift per e-fold of the logarithm of an answer; three times it where a table cannot measure its own."""
_AHEAD = 0.1  # e-folds: nearer repeats say nothing of a drift
_STEP = 1e-4  # of a difference, in standard errors of a constant

Quantity = Callable[[Array], Array]
"""An answer's logarithm (k,) from constants (k, p) in fitted space."""


@dataclass(frozen=True)
class Basis:
    """What all questions of one call stand on.

    Attributes:
        fit: the fit.
        level: level of the intervals, a share.
        cost: how training FLOPs are counted.
        theta: constants (1 + k, p) in fitted space, the fitted ones first.
        vague: constants that the rows do not determine, each with the reason.
        judged_by: whose residuals tell the noise and the law's own error; None: the fit, by whose covariance constants
            are drawn.

    Example, with ``basis(law)`` the draws of a fit:
        >>> made = basis("chinchilla")
        >>> made.theta.shape[1], made.vague, made.cost.factor
        (5, (), 6.0)
    """

    fit: Solved
    level: float
    cost: TrainingCost
    theta: Array
    vague: tuple[str, ...] = ()
    judged_by: Solved | None = None


def basis_of(fit: Solved, level: float) -> Basis:
    """Draws of a fit's constants and how its table counts FLOPs.

    Args:
        fit: a converged fit with rows beyond its constants.
        level: level of the intervals of all answers, a share.

    Raises:
        DataError: a fit that plans nothing.

    Example, with ``sweep`` a table of N, D and loss:
        >>> from isoflop.laws import Chinchilla
        >>> basis_of(Chinchilla().fit(sweep), 0.9).vague
        ()
    """
    check_usable(fit)
    vague = [f"{name} is unidentified: {i.reason}" for name, i in intervals(fit).items() if not i.identified]
    resampled = bool(vague) and not fit.law.likelihood
    theta = _resampled(fit) if resampled else draw(fit)
    return Basis(fit, level, cost_of(fit), theta, tuple(vague), fit if resampled else None)


def _resampled(fit: Solved) -> Array:
    """Refits to resampled rows, or clusters, spread by what the fit itself absorbed of the noise."""
    found = bootstrap(fit, _REFITS).theta
    degrees = fit.degrees_of_freedom
    wider = np.sqrt((degrees + len(fit.problem.free)) / degrees)
    theta = np.clip(fit.theta + wider * (found - fit.theta), fit.problem.low, fit.problem.high)
    return np.concatenate([fit.theta[None], theta])


def draw(fit: Solved, count: int = COUNT) -> Array:
    """Constants (1 + count, p) in fitted space, the fitted ones first, within their bounds.

    The draws are a Sobol sequence: ends of intervals are far steadier than those of random draws.
    """
    covariance = fit.covariance()
    size = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    safe = np.where(size > 0, size, 1.0)
    values, vectors = np.linalg.eigh(covariance / safe[:, None] / safe)
    root = safe[:, None] * vectors * np.sqrt(np.maximum(values, 0.0))
    even = qmc.Sobol(len(size) + 1, scramble=False).random(count) + 0.5 / count  # none lies at 0
    degrees = max(1, fit.degrees_of_freedom)
    tails = np.sqrt(degrees / stats.chi2.ppf(even[:, -1], degrees)) if not fit.law.likelihood else np.ones(count)
    moves = (stats.norm.ppf(even[:, :-1]) * tails[:, None]) @ root.T
    theta = np.clip(fit.theta + moves, fit.problem.low, fit.problem.high)
    return np.concatenate([fit.theta[None], theta])


def drifted(fit: Solved, values: Array, rate: float, efolds: float, seed: int = 0) -> Array:
    """Draws (k,) of a logarithm with the law's own error added: ``rate`` times e-folds beyond the rows, as Student's t.

    Args:
        fit: the fit.
        values: draws, the fitted one first, which stays.
        rate: drift per e-fold.
        efolds: e-folds of compute beyond the fitted rows, on either side.
        seed: of the added draws.
    """
    if rate * efolds == 0:
        return values
    noise = Rng(seed)("drift").at().standard_t(max(1, fit.degrees_of_freedom), len(values))
    noise[0] = 0.0
    return np.asarray(values + rate * efolds * noise)


def shifted(basis: Basis, target: float, compute: float, count: int) -> Array:
    """A loss to be reached, (count,) in link space, moved by the law's own error; the first is not."""
    low, high = spans(basis.fit, basis.cost)["C"]
    rate = discrepancy_rate(basis.judged_by or basis.fit, basis.level)
    return drifted(basis.fit, np.full(count, target), rate, outside(low, high, compute))


def outside(low: float, high: float, at: float) -> float:
    """e-folds by which ``at`` lies outside a range of compute."""
    return float(max(np.log(at / high), np.log(low / at), 0.0))


def drift_rate(fit: Solved, quantity: Quantity, level: float) -> float:
    """Drift of an answer's logarithm per e-fold of compute.

    Args:
        fit: the fit.
        quantity: the answer at the dearest row's compute.
        level: share of the repeats that the rate must explain.
    """
    needed = np.sort(_needed(fit, quantity, level))
    if not len(needed):
        return 3.0 * LEAST
    place = int(np.ceil((level - 1e-9) * len(needed))) - 1
    return float(np.hypot(INFLATION * needed[place], LEAST))


def _needed(fit: Solved, quantity: Quantity, level: float) -> Array:
    """Per repeat on cheaper rows: the rate with which its answer would be covered."""
    none = np.empty(0)
    problem, width = fit.problem, len(fit.problem.free)
    if fit.origin is not None:  # a first stage would have to be made again
        return none
    with np.errstate(all="ignore"):
        c = np.log(problem.law.compute(problem.x))
    if not np.isfinite(c).all():
        return none
    edges = np.asarray([edge for edge in cuts(c, SHARES) if (c <= edge).sum() >= width + 2 and edge < c.max() - _AHEAD])
    if not len(edges):
        return none
    part = replace(problem, weights=(c <= edges[:, None]) * problem.weights)
    found = minimise(part, np.repeat(fit.theta[None], len(edges), axis=0), fit.loss, tolerance=1e-8)
    error = quantity(found.theta) - quantity(fit.theta[None])
    spread = _spread(quantity, found.theta, covariances(part, found.theta, fit.loss))
    good = found.converged & np.isfinite(error) & np.isfinite(spread)
    ahead = c.max() - edges
    needed = np.sqrt(np.maximum((error / quantile(fit, level)) ** 2 - spread**2, 0.0)) / ahead
    return np.asarray(needed[good])


def _spread(quantity: Quantity, theta: Array, covariance: Array) -> Array:
    """Standard deviation (k,) of an answer under the covariances (k, p, p), by differences."""
    size = np.sqrt(np.maximum(np.einsum("kii->ki", covariance), 0.0))
    gradient = np.zeros_like(theta)
    for j in np.flatnonzero(size.any(0)):
        step = _STEP * np.where(size[:, j] > 0, size[:, j], 1.0)
        up, down = theta.copy(), theta.copy()
        up[:, j] += step
        down[:, j] -= step
        gradient[:, j] = (quantity(up) - quantity(down)) / (2 * step)
    return np.asarray(np.sqrt(np.maximum(np.einsum("ki,kij,kj->k", gradient, covariance, gradient), 0.0)))

"""How noisy the rows are, and what that makes of the constants: dispersion, sandwich factors, covariances.

All of it needs a problem and parameters, single or in a batch, and no fit: the fit itself is told the noise before its
priors count, and refits are judged in batches.
"""

from __future__ import annotations

import numpy as np
from scipy import stats

from .formula import Array
from .losses import ResidualLoss
from .solve import FitProblem, exact_hessian

_NORMAL = 1.4826  # standard deviation of a normal over its median |r|
_ROWS_EACH = 20  # rows a parameter from which the sandwich is less noisy than what it corrects
_MOST_WIDER = 1e4  # of a variance; beyond it the sandwich divides by rounding


def dispersion(problem: FitProblem, theta: Array, loss: ResidualLoss) -> float:
    """E[psi^2] / E[psi'] of the weighted residuals: the noise variance under least squares; 1 for a likelihood."""
    if problem.law.likelihood:
        return 1.0
    r = problem.residuals(theta[None], np.zeros(1, dtype=int))
    return float(dispersions(r, np.atleast_2d(problem.weights), loss, len(problem.free))[0])


def dispersions(r: Array, weights: Array, loss: ResidualLoss, parameters: int) -> Array:
    """``dispersion`` of a batch, (k,).

    Args:
        r: residuals (k, n) in link space.
        weights: weights (k, n) of the rows.
        loss: the loss of a residual.
        parameters: how many constants were fitted to the rows.
    """
    variance, curvature = _moments(r, weights, loss, parameters)
    return np.asarray(variance / curvature)


def _moments(r: Array, weights: Array, loss: ResidualLoss, parameters: int) -> tuple[Array, Array]:
    """(E[psi^2], E[psi']) of residuals (k, n), each (k,), as if all rows had their mean weight.

    A row of weight w is one whose noise is that of a row of weight 1, divided by sqrt(w). So all rows tell about the
    noise at each weight, and the moments there are averaged as the rows add to the variance of the scores w psi and
    to the Hessian w psi'. Under least squares that leaves the textbook's sum(w r^2) / (n - p).
    """
    used = weights > 0
    alike = np.where(used, r * np.sqrt(weights), np.nan)
    variance, curvature, total = np.zeros(len(r)), np.zeros(len(r)), weights.sum(-1)
    for weight in np.unique(weights[used]):
        share = np.where(weights == weight, weight, 0.0).sum(-1) / total
        of_slope, of_curvature = _moments_alike(alike / np.sqrt(weight), loss, parameters)
        variance, curvature = variance + weight * share * of_slope, curvature + share * of_curvature
    return variance, curvature


def _moments_alike(r: Array, loss: ResidualLoss, parameters: int) -> tuple[Array, Array]:
    """``_moments`` of residuals (k, n) of equal weight, NaN where a row is left out.

    psi' is a difference over a window as wide as a kernel estimate of a density needs, 1.2 spreads x n^(-1/5), which
    gives the corners of |r| a curvature. A fit through p points leaves p residuals of 0, which are not draws of the
    noise: they are taken off the window's count, of which a fifth is kept where hardly any other is left.
    """
    used = np.isfinite(r)
    left = np.maximum(used.sum(-1) - parameters, 1)
    spread = _NORMAL * np.nanmedian(np.abs(r), axis=-1) * np.sqrt(used.sum(-1) / left)
    width = 1.2 * spread * left**-0.2
    if loss.quantile is not None:
        width = _quantile_window(-r, loss.quantile, left)
    width = np.maximum(width, 1e-300)[:, None]
    variance = np.where(used, loss.slope(r) ** 2, 0.0).sum(-1) / left
    each = np.where(used, (loss.slope(r + width) - loss.slope(r - width)) / (2 * width), 0.0)
    curvature = np.maximum(each.sum(-1) - parameters * each.max(-1), 0.2 * each.sum(-1)) / left
    return variance, np.maximum(curvature, 1e-300)


def _quantile_window(u: Array, tau: float, n: Array) -> Array:
    """Half the distance between the quantiles tau +- b of residuals (k, n), with Hall and Sheather's b (1988)."""
    z = stats.norm.ppf(tau)
    b = n ** (-1 / 3) * stats.norm.ppf(0.975) ** (2 / 3) * (1.5 * stats.norm.pdf(z) ** 2 / (2 * z * z + 1)) ** (1 / 3)
    rows = [np.nanquantile(row, [max(tau - s, 0.0), min(tau + s, 1.0)]) for row, s in zip(u, b, strict=True)]
    return np.asarray([0.5 * (high - low) for low, high in rows])


def robustness(problem: FitProblem, theta: Array, loss: ResidualLoss, clusters: Array | None) -> Array:
    """(k, p) factors by which unequal noise, or noise shared within clusters, multiplies the variances; at least 1.

    The diagonal of the sandwich covariance over that of dispersion x H^-1. Without ``clusters`` (n,), and with fewer
    than twenty rows a parameter, it is 1: the sandwich itself would be too noisy.

    Args:
        problem: what was minimised; its weights or targets may be (k, n), one set a fit.
        theta: optima (k, p) in fitted space.
        loss: the loss of a residual.
        clusters: number of each row's cluster, (n,), or None.
    """
    free, k, n = problem.free, len(theta), len(problem.target.T)
    out = np.ones((k, theta.shape[1]))
    if problem.law.likelihood or (clusters is None and n < _ROWS_EACH * len(free)):
        return out
    items = np.arange(k)
    f, jac = problem.law.jacobian(theta, problem.x, problem.link, free)
    r = f - problem.target
    weights = np.broadcast_to(problem.weights, r.shape)
    variance, _ = _moments(r, weights, loss, len(free))
    scores = jac * (weights * loss.slope(r))[:, None, :]
    jac = jac * np.sqrt(weights)[:, None, :]
    size = 1.0 / np.sqrt(np.maximum((jac**2).sum(-1), 1e-300))
    jac, scores = jac * size[:, :, None], scores * size[:, :, None]
    bread = np.linalg.pinv(jac @ jac.swapaxes(1, 2), rcond=1e-13, hermitian=True)
    groups = n
    if clusters is not None:
        order = np.argsort(clusters, kind="stable")
        first = np.flatnonzero(np.diff(clusters[order], prepend=-1))
        groups, scores = len(first), np.add.reduceat(scores[:, :, order], first, axis=-1)
    small = groups / max(1, groups - 1) * n / max(1, n - len(free))
    meat = bread @ (scores @ scores.swapaxes(1, 2)) @ bread * small
    ratio = np.einsum("kii->ki", meat) / np.maximum(np.einsum("kii->ki", bread) * variance[:, None], 1e-300)
    out[np.ix_(items, free)] = np.clip(ratio, 1.0, _MOST_WIDER)
    return out


def covariances(problem: FitProblem, theta: Array, loss: ResidualLoss, clusters: Array | None = None) -> Array:
    """Covariances (k, p, p) in fitted space of a batch of fits, zero at fixed and bounded parameters.

    Dispersion x H^-1, widened by ``robustness``.

    Args:
        problem: what was minimised; its weights may be (k, n), one set a fit.
        theta: optima (k, p) in fitted space.
        loss: the loss of a residual.
        clusters: number of each row's cluster, (n,), or None.
    """
    free, k, p = problem.free, len(theta), theta.shape[1]
    out = np.zeros((k, p, p))
    if not len(free):
        return out
    inside = problem.inside(theta)
    if problem.law.likelihood:
        hessian = np.stack([exact_hessian(problem, row, loss) for row in theta])
        factor = np.ones(k)
    else:
        f, jac = problem.law.jacobian(theta, problem.x, problem.link, free)
        weights = np.broadcast_to(problem.weights, f.shape)
        variance, curvature = _moments(f - problem.target, weights, loss, len(free))
        hessian = curvature[:, None, None] * ((jac * weights[:, None, :]) @ jac.swapaxes(1, 2)) + np.diag(
            problem.strength[free]
        )
        factor = variance / curvature
    size = np.sqrt(np.maximum(np.abs(np.einsum("kii->ki", hessian)), 1e-300))
    both = inside[:, :, None] & inside[:, None, :]
    scaled = np.where(both, hessian / size[:, :, None] / size[:, None, :], np.eye(len(free)))
    inverse = np.where(both, np.linalg.pinv(np.nan_to_num(scaled), rcond=1e-13, hermitian=True), 0.0)
    widen = np.sqrt(robustness(problem, theta, loss, clusters))[:, free]
    inverse = inverse / size[:, :, None] / size[:, None, :] * factor[:, None, None]
    out[np.ix_(np.arange(k), free, free)] = inverse * widen[:, :, None] * widen[:, None, :]
    return out

"""Profile likelihood: the objective with one parameter held and all others refitted.

For a loss that is not a likelihood the deviance 2 (S(v) - S_min) is divided by the dispersion E[psi^2] / E[psi'], which
makes it chi-squared with one degree of freedom in large samples (Ronchetti 1982); F(1, n - p) serves small ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from ..core.errors import UsageError, nearest
from .law import Array
from .losses import Loss
from .solve import Problem, exact_hessian, minimise

if TYPE_CHECKING:
    from .fit import Fit

_EXPANSIONS = 40
_REFINEMENTS = 12


@dataclass(frozen=True)
class Profile:
    """``objective`` (m,) at the held ``values`` (m,) in natural units; ``threshold`` is the deviance's 95 % point."""

    name: str
    values: Array
    objective: Array
    deviance: Array
    threshold: float


def dispersion(problem: Problem, theta: Array, loss: Loss) -> float:
    """E[psi^2] / E[psi'] of the weighted residuals: the noise variance under least squares; 1 for a likelihood."""
    if problem.law.likelihood:
        return 1.0
    r = problem.residuals(theta[None], np.zeros(1, dtype=int))
    return float(dispersions(r, np.atleast_2d(problem.weights), loss, len(problem.free))[0])


def dispersions(r: Array, weights: Array, loss: Loss, parameters: int) -> Array:
    """``dispersion`` of a batch: residuals and weights (k, n) -> (k,)."""
    second, bend = _moments(r, weights, loss, parameters)
    return np.asarray(second / bend)


def _moments(r: Array, weights: Array, loss: Loss, parameters: int) -> tuple[Array, Array]:
    """(E[psi^2], E[psi']) of residuals (k, n), each (k,), as if all rows had their mean weight.

    A row of weight w is one whose noise is that of a row of weight 1, divided by sqrt(w). So all rows tell about the
    noise at each weight, and the moments there are averaged as the rows add to the variance of the scores w psi and
    to the Hessian w psi'. Under least squares that leaves the textbook's sum(w r^2) / (n - p).
    """
    used = weights > 0
    alike = np.where(used, r * np.sqrt(weights), np.nan)
    second, bend, total = np.zeros(len(r)), np.zeros(len(r)), weights.sum(-1)
    for weight in np.unique(weights[used]):
        share = np.where(weights == weight, weight, 0.0).sum(-1) / total
        s, b = _moments_alike(alike / np.sqrt(weight), loss, parameters)
        second, bend = second + weight * share * s, bend + share * b
    return second, bend


def _moments_alike(r: Array, loss: Loss, parameters: int) -> tuple[Array, Array]:
    """``_moments`` of residuals (k, n) of equal weight, NaN where a row is left out.

    psi' is a difference over a window as wide as a kernel estimate of a density needs, which gives the corners of
    |r| a curvature. A fit through p points leaves p residuals of 0, which are not draws of the noise: they are taken
    off the window's count.
    """
    used = np.isfinite(r)
    left = np.maximum(used.sum(-1) - parameters, 1)
    spread = 1.4826 * np.nanmedian(np.abs(r), axis=-1) * np.sqrt(used.sum(-1) / left)
    width = 1.2 * spread * left**-0.2
    if loss.quantile is not None:
        width = _quantile_window(-r, loss.quantile, left)
    width = np.maximum(width, 1e-300)[:, None]
    second = np.where(used, loss.slope(r) ** 2, 0.0).sum(-1) / left
    bends = np.where(used, (loss.slope(r + width) - loss.slope(r - width)) / (2 * width), 0.0)
    bend = np.maximum(bends.sum(-1) - parameters * bends.max(-1), 0.2 * bends.sum(-1)) / left
    return second, np.maximum(bend, 1e-300)


def _quantile_window(u: Array, tau: float, n: Array) -> Array:
    """Half the distance between the quantiles tau +- b of residuals (k, n), with Hall and Sheather's b (1988)."""
    z = stats.norm.ppf(tau)
    b = n ** (-1 / 3) * stats.norm.ppf(0.975) ** (2 / 3) * (1.5 * stats.norm.pdf(z) ** 2 / (2 * z * z + 1)) ** (1 / 3)
    rows = [np.nanquantile(row, [max(tau - s, 0.0), min(tau + s, 1.0)]) for row, s in zip(u, b, strict=True)]
    return np.asarray([0.5 * (high - low) for low, high in rows])


def robustness(problem: Problem, theta: Array, loss: Loss, clusters: Array | None) -> Array:
    """(k, p) factors by which unequal noise, or noise shared within clusters, multiplies the variances; at least 1.

    The diagonal of the sandwich covariance over that of dispersion x H^-1. Without ``clusters`` (n,), and with fewer
    than twenty rows a parameter, it is 1: the sandwich itself would be too noisy.
    """
    free, k, n = problem.free, len(theta), len(problem.target.T)
    out = np.ones((k, theta.shape[1]))
    if problem.law.likelihood or (clusters is None and n < 20 * len(free)):
        return out
    items = np.arange(k)
    f, jac = problem.law.jacobian(theta, problem.x, problem.link, free)
    r = f - problem.target
    weights = np.broadcast_to(problem.weights, r.shape)
    second, _ = _moments(r, weights, loss, len(free))
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
    ratio = np.einsum("kii->ki", meat) / np.maximum(np.einsum("kii->ki", bread) * second[:, None], 1e-300)
    out[np.ix_(items, free)] = np.clip(ratio, 1.0, 1e4)
    return out


def threshold(fit: Fit, level: float) -> float:
    """What a deviance must stay below for its value to lie in the interval; infinite where that cannot be told."""
    if fit.law.likelihood:
        return float(stats.chi2.ppf(level, 1))
    if fit.spare < 1:  # the fit passes through its rows: nothing says how far off it may be
        return float("inf")
    return float(stats.f.ppf(level, 1, fit.spare))


def profile(fit: Fit, name: str, values: Array | None = None) -> Profile:
    """Profile one parameter over ``values`` (natural units; default: 25 around its 99 % interval).

    Raises:
        UsageError: an unknown or fixed parameter, or values that it cannot take.
    """
    if name not in fit.law.names or fit.law.names.index(name) not in fit.problem.free:
        raise UsageError(
            f"{name!r} is not a fitted parameter",
            where="profile",
            fix=nearest(name, [fit.law.names[j] for j in fit.problem.free]),
        )
    j = fit.law.names.index(name)
    if values is None:
        low, high = roots(fit, 0.99, [j])[j][:2]
        grid = np.linspace(low, high, 25)
    else:
        given = np.atleast_1d(np.asarray(values, dtype=float))
        log = fit.law.parameters[j].log
        if not np.isfinite(given).all() or (log and (given <= 0).any()):
            raise UsageError(f"values of {name} must be finite{' and positive' if log else ''}", where="profile")
        grid = np.log(given) if log else given
    ordered = np.argsort(np.abs(grid - fit.theta[j]), kind="stable")
    objective, starts = np.empty(len(grid)), {0: fit.theta.copy(), 1: fit.theta.copy()}
    for i in ordered:  # outward from the optimum on either side, each started at its inner neighbour
        side = int(grid[i] > fit.theta[j])
        theta, value = _held(fit, np.asarray([j]), np.asarray([grid[i]]), starts[side][None])
        objective[i], starts[side] = value[0], theta[0]
    factor = dispersion(fit.problem, fit.theta, fit.loss)
    natural = np.exp(grid) if fit.law.parameters[j].log else grid
    return Profile(name, natural, objective, 2 * (objective - fit.objective) / factor, threshold(fit, 0.95))


def roots(fit: Fit, level: float, which: list[int] | None = None) -> dict[int, tuple[float, float, bool, bool]]:
    """Per parameter: (low, high, low is open, high is open) in fitted space, where the deviance crosses its threshold.

    An end is open if the deviance stays below the threshold up to the parameter's bound.
    """
    problem = fit.problem
    chosen = np.asarray(problem.free.tolist() if which is None else which, dtype=int)
    task = np.repeat(chosen, 2)
    sign = np.tile([-1.0, 1.0], len(chosen))
    widen = robustness(problem, fit.theta[None], fit.loss, clusters_of(fit))[0]
    factor = dispersion(problem, fit.theta, fit.loss) * widen[task]
    most = threshold(fit, level)
    limit = most * factor / 2.0 if np.isfinite(most) else np.full(len(task), np.inf)
    bound = np.where(sign < 0, problem.low[task], problem.high[task])
    step = np.maximum(_standard_errors(fit)[task], 1e-6 * (1 + np.abs(fit.theta[task])))
    inner = fit.theta[task].copy()
    inner_theta = np.repeat(fit.theta[None], len(task), axis=0)
    inner_excess, outer_excess = -limit, np.full(len(task), np.nan)
    outer, is_open = np.full(len(task), np.nan), inner == bound
    for _ in range(_EXPANSIONS):
        live = np.flatnonzero(np.isnan(outer) & ~is_open)
        if not len(live):
            break
        at = inner[live] + sign[live] * step[live]
        past = sign[live] * (at - bound[live]) >= 0
        at = np.where(past, bound[live], at)
        theta, value = _held(fit, task[live], at, inner_theta[live])
        excess = value - fit.objective - limit[live]
        out = ~(excess <= 0)
        outer[live[out]], outer_excess[live[out]] = at[out], excess[out]
        inside = live[~out]
        inner[inside], inner_theta[inside], inner_excess[inside] = at[~out], theta[~out], excess[~out]
        is_open[live[~out & past]] = True
        step[live] *= 1.7
    is_open |= np.isnan(outer)
    for turn in range(_REFINEMENTS):
        live = np.flatnonzero(~is_open)
        if not len(live):
            break
        with np.errstate(all="ignore"):
            share = np.sqrt(-inner_excess[live] / limit[live])  # the deviance is nearly quadratic: place by its root
            far = np.sqrt(np.maximum(outer_excess[live] / limit[live] + 1.0, 1.0))
            near = np.sqrt(np.maximum(inner_excess[live] / limit[live] + 1.0, 0.0))
            share = (1.0 - near) / (far - near)
        share = np.where(np.isfinite(share) & (turn % 3 < 2), np.clip(share, 0.02, 0.98), 0.5)
        at = inner[live] + share * (outer[live] - inner[live])
        theta, value = _held(fit, task[live], at, inner_theta[live])
        excess = value - fit.objective - limit[live]
        out = ~(excess <= 0)
        outer[live[out]], outer_excess[live[out]] = at[out], excess[out]
        inside = live[~out]
        inner[inside], inner_theta[inside], inner_excess[inside] = at[~out], theta[~out], excess[~out]
        if (np.abs(outer - inner)[live] <= 1e-4 * np.abs(inner - fit.theta[task])[live]).all():
            break
    ends = np.where(is_open, inner, 0.5 * (inner + outer))
    ends = np.where(is_open, bound, ends)
    return {
        int(j): (float(ends[2 * i]), float(ends[2 * i + 1]), bool(is_open[2 * i]), bool(is_open[2 * i + 1]))
        for i, j in enumerate(chosen)
    }


def covariance(fit: Fit) -> Array:
    """(p, p) in fitted space, zero at fixed and bounded parameters: dispersion x H^-1, widened by ``robustness``."""
    return np.asarray(covariances(fit.problem, fit.theta[None], fit.loss, clusters_of(fit))[0])


def covariances(problem: Problem, theta: Array, loss: Loss, clusters: Array | None = None) -> Array:
    """``covariance`` of a batch of fits, (k, p, p), each with its own weights or data."""
    free, k, p = problem.free, len(theta), theta.shape[1]
    out = np.zeros((k, p, p))
    if not len(free):
        return out
    margin = 1e-9 * (1 + np.abs(theta))
    inside = ((theta > problem.low + margin) & (theta < problem.high - margin))[:, free]
    if problem.law.likelihood:
        hessian = np.stack([exact_hessian(problem, row, loss) for row in theta])
        factor = np.ones(k)
    else:
        f, jac = problem.law.jacobian(theta, problem.x, problem.link, free)
        weights = np.broadcast_to(problem.weights, f.shape)
        second, bend = _moments(f - problem.target, weights, loss, len(free))
        hessian = bend[:, None, None] * ((jac * weights[:, None, :]) @ jac.swapaxes(1, 2)) + np.diag(
            problem.strength[free]
        )
        factor = second / bend
    size = np.sqrt(np.maximum(np.abs(np.einsum("kii->ki", hessian)), 1e-300))
    both = inside[:, :, None] & inside[:, None, :]
    scaled = np.where(both, hessian / size[:, :, None] / size[:, None, :], np.eye(len(free)))
    inverse = np.where(both, np.linalg.pinv(np.nan_to_num(scaled), rcond=1e-13, hermitian=True), 0.0)
    widen = np.sqrt(robustness(problem, theta, loss, clusters))[:, free]
    inverse = inverse / size[:, :, None] / size[:, None, :] * factor[:, None, None]
    out[np.ix_(np.arange(k), free, free)] = inverse * widen[:, :, None] * widen[:, None, :]
    return out


def clusters_of(fit: Fit) -> Array | None:
    """Number of the cluster of each row, (n,), or None."""
    if not fit.settings.clusters:
        return None
    return np.asarray(np.unique(fit.table.texts(fit.settings.clusters).astype(str), return_inverse=True)[1])


def _standard_errors(fit: Fit) -> Array:
    return np.asarray(np.sqrt(np.maximum(np.diag(covariance(fit)), 0.0)))


def _held(fit: Fit, which: Array, at: Array, starts: Array) -> tuple[Array, Array]:
    """Refit with parameter ``which[i]`` held at ``at[i]``, from ``starts`` (k, p) and from the optimum; the better."""
    problem = fit.problem
    theta = starts.copy()
    theta[np.arange(len(at)), which] = at
    low, high = (np.repeat(b[None], len(at), axis=0) for b in (problem.low, problem.high))
    low[np.arange(len(at)), which] = high[np.arange(len(at)), which] = at
    found = minimise(replace(problem, low=low, high=high), theta, fit.loss, tolerance=1e-7, limit=100)
    return found.theta, found.value

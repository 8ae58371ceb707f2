"""Profile likelihood: the objective with one parameter held and all others refitted.

For a loss that is not a likelihood the deviance 2 (S(v) - S_min) is divided by the dispersion E[psi^2] / E[psi'], which
makes it chi-squared with one degree of freedom in large samples (Ronchetti 1982); F(1, n - p) serves small ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from ..core.errors import UsageError, nearest
from .fit import Solved
from .formula import Array
from .noise import dispersion, robustness
from .solve import minimise

_EXPANSIONS = 40  # steps outward, each 1.7 times the one before: 1e9 standard errors
_REFINEMENTS = 12  # most steps between the two sides: halving alone would leave a 4000th of the distance
_PRECISION = 1e-4  # of an end, relative to its distance from the estimate: more digits than are printed


@dataclass(frozen=True)
class Profile:
    """``objective`` (m,) at the held ``values`` (m,) in natural units; ``threshold`` is the deviance's 95 % point.

    Draw deviance against values to see how well, and how symmetrically, the rows know a constant.

    Attributes:
        name: the parameter.
        values: where it was held (m,), in natural units.
        objective: the refitted objective (m,) there.
        deviance: twice its rise over the optimum, in units of the dispersion, (m,).
        threshold: what the deviance stays below inside the 95 % interval.

    Example:
        >>> from isoflop.laws import Power
        >>> fit = Power().fit({"C": [1.0, 2.0, 4.0, 8.0], "y": [1.0, 2.1, 3.9, 8.2]})
        >>> held = fit.profile("a", [0.9, 1.0, 1.1])
        >>> (held.deviance < held.threshold).tolist()
        [True, True, True]
    """

    name: str
    values: Array
    objective: Array
    deviance: Array
    threshold: float


def threshold(fit: Solved, level: float) -> float:
    """What a deviance must stay below for its value to lie in the interval; infinite where that cannot be told."""
    if fit.law.likelihood:
        return float(stats.chi2.ppf(level, 1))
    if fit.degrees_of_freedom < 1:  # the fit passes through its rows: nothing says how far off it may be
        return float("inf")
    return float(stats.f.ppf(level, 1, fit.degrees_of_freedom))


def profile(fit: Solved, name: str, values: Array | None = None) -> Profile:
    """Profile one parameter: the objective with it held, all others refitted.

    Args:
        fit: the fit.
        name: the parameter.
        values: where it is held (m,), in natural units; None: 25 values over its 99 % interval.

    Raises:
        UsageError: an unknown or fixed parameter, or values that it cannot take.

    Example:
        >>> from isoflop.laws import Power
        >>> fit = Power().fit({"C": [1.0, 2.0, 4.0, 8.0], "y": [1.0, 2.1, 3.9, 8.2]})
        >>> profile(fit, "a").values.shape
        (25,)
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


def roots(fit: Solved, level: float, which: list[int] | None = None) -> dict[int, tuple[float, float, bool, bool]]:
    """Where the deviance crosses its threshold, per parameter: (low, high, low is open, high is open) in fitted space.

    An end is open if the deviance stays below the threshold up to the parameter's bound.

    Args:
        fit: the fit.
        level: level of the interval, a share.
        which: positions of parameters in the law's order; None: all fitted ones.
    """
    problem = fit.problem
    chosen = np.asarray(problem.free.tolist() if which is None else which, dtype=int)
    task = np.repeat(chosen, 2)  # one an end: the lower and the upper one of each parameter
    sign = np.tile([-1.0, 1.0], len(chosen))
    widen = robustness(problem, fit.theta[None], fit.loss, fit.clusters)[0]
    factor = dispersion(problem, fit.theta, fit.loss) * widen[task]
    most = threshold(fit, level)
    limit = most * factor / 2.0 if np.isfinite(most) else np.full(len(task), np.inf)
    bound = np.where(sign < 0, problem.low[task], problem.high[task])
    brackets = _Brackets(fit, task, limit)
    is_open = _widen(brackets, sign, bound, brackets.inner == bound)
    _narrow(brackets, np.flatnonzero(~is_open))
    ends = np.where(is_open, bound, 0.5 * (brackets.inner + brackets.outer))
    return {
        int(j): (float(ends[2 * i]), float(ends[2 * i + 1]), bool(is_open[2 * i]), bool(is_open[2 * i + 1]))
        for i, j in enumerate(chosen)
    }


class _Brackets:
    """Of each interval end (m,) the last value known to lie inside the interval, and the first one outside, or NaN.

    Args:
        fit: the fit.
        task: (m,) the parameter of each end.
        limit: (m,) by how much the objective may rise inside the interval.
    """

    def __init__(self, fit: Solved, task: Array, limit: Array) -> None:
        self.fit, self.task, self.limit = fit, task, limit
        self.inner, self.inner_excess = fit.theta[task].copy(), -limit
        self.inner_theta = np.repeat(fit.theta[None], len(task), axis=0)
        self.outer, self.outer_excess = np.full(len(task), np.nan), np.full(len(task), np.nan)

    def try_values(self, live: Array, at: Array) -> Array:
        """Hold the parameters of the ends ``live`` at ``at``; which of these values lie outside, (len(live),)."""
        theta, value = _held(self.fit, self.task[live], at, self.inner_theta[live])
        excess = value - self.fit.objective - self.limit[live]
        outside = ~(excess <= 0)
        self.outer[live[outside]], self.outer_excess[live[outside]] = at[outside], excess[outside]
        inside = live[~outside]
        self.inner[inside], self.inner_excess[inside] = at[~outside], excess[~outside]
        self.inner_theta[inside] = theta[~outside]
        return outside


def _widen(brackets: _Brackets, sign: Array, bound: Array, is_open: Array) -> Array:
    """Step outward until every end has a value outside or is open, which is returned, (m,)."""
    fit, task = brackets.fit, brackets.task
    # A law without noise has errors of 0, from which no step would grow.
    step = np.maximum(_standard_errors(fit)[task], 1e-6 * (1 + np.abs(fit.theta[task])))
    for _ in range(_EXPANSIONS):
        live = np.flatnonzero(np.isnan(brackets.outer) & ~is_open)
        if not len(live):
            break
        at = brackets.inner[live] + sign[live] * step[live]
        past = sign[live] * (at - bound[live]) >= 0
        outside = brackets.try_values(live, np.where(past, bound[live], at))
        is_open[live[~outside & past]] = True
        step[live] *= 1.7
    return np.asarray(is_open | np.isnan(brackets.outer))


def _narrow(brackets: _Brackets, live: Array) -> None:
    """Bring both sides of the ends ``live`` together."""
    limit = brackets.limit[live]
    for turn in range(_REFINEMENTS):
        if not len(live):
            break
        inner, outer = brackets.inner[live], brackets.outer[live]
        with np.errstate(all="ignore"):  # the deviance is nearly quadratic: interpolate its root linearly
            far = np.sqrt(np.maximum(brackets.outer_excess[live] / limit + 1.0, 1.0))
            near = np.sqrt(np.maximum(brackets.inner_excess[live] / limit + 1.0, 0.0))
            share = (1.0 - near) / (far - near)
        # Every third turn halves instead, since interpolation may creep towards the end from one side only.
        share = np.where(np.isfinite(share) & (turn % 3 < 2), np.clip(share, 0.02, 0.98), 0.5)
        brackets.try_values(live, inner + share * (outer - inner))
        width = np.abs(brackets.outer - brackets.inner)[live]
        if (width <= _PRECISION * np.abs(brackets.inner - brackets.fit.theta[brackets.task])[live]).all():
            break


def _standard_errors(fit: Solved) -> Array:
    return np.asarray(np.sqrt(np.maximum(np.diag(fit.covariance()), 0.0)))


def _held(fit: Solved, which: Array, at: Array, starts: Array) -> tuple[Array, Array]:
    """Refit with parameter ``which[i]`` held at ``at[i]``, from ``starts`` (k, p) and from the optimum; the better."""
    problem = fit.problem
    theta = starts.copy()
    theta[np.arange(len(at)), which] = at
    low, high = (np.repeat(b[None], len(at), axis=0) for b in (problem.low, problem.high))
    low[np.arange(len(at)), which] = high[np.arange(len(at)), which] = at
    found = minimise(replace(problem, low=low, high=high), theta, fit.loss, tolerance=1e-7, limit=100)
    return found.theta, found.value

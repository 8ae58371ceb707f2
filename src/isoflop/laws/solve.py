"""Batched damped Newton: many weighted fits of one law at once, each from its own start, with its own weights or data.

Step s solves (H + mu M) s = -g, where H is the Gauss-Newton Hessian with the loss's true curvature (for Huber's loss:
only the rows inside delta) and M the one of its quadratic majorizer. mu -> 0 is Newton's method, large mu a short step
of iteratively re-weighted least squares, which cannot go up. Parameters at a bound that push outward are frozen.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .formula import Array, Columns, Formula, complex_step
from .losses import ResidualLoss

_BLOCK = 400_000  # numbers in one block of residuals: keeps the working set inside the cache

# Damping mu of the first step, and its ends. It starts small, since starts are already good where linear parameters
# were solved for. Below the least end H + mu M is H to the precision that matters; at the largest a step is below the
# rounding of any parameter.
_FIRST_DAMPING, _LEAST_DAMPING, _MOST_DAMPING = 1e-2, 1e-9, 1e16
_HOPELESS_DAMPING = 1e14  # a fit that goes down with no smaller damping has no way down left
# Factors on mu after a step: a good step brings Newton's method closer by 5, a bad one takes five times shorter steps,
# so that one of each leaves mu as it was.
_AFTER_GOOD, _AFTER_BAD = 0.2, 5.0
_MARGIN = 1e-9  # relative distance to a bound within which a parameter counts as lying on it
_ROUNDING = 1e-15  # an objective that rose by less than this share of itself did not rise

EXACT = 1e-18
"""Objective a row of residuals of 1e-9: where the law is exact, what is left of the objective is rounding."""


@dataclass(frozen=True)
class FitProblem:
    """What is minimised: sum_i weight_i loss(f_i(theta) - target_i) + sum_j strength_j (theta_j - centre_j)^2 / 2.

    ``y`` and ``weights`` are (n,), or (k, n) where each fit of the batch has its own. ``free`` are the indices of the
    fitted parameters; the others stay at their start. Bounds are (p,), or (k, p) one set a fit; equal ones hold a
    parameter at its start. All are in fitted space.

    Example, with ``fitted(law)`` a fit:
        >>> fit = fitted("power")
        >>> (value,) = fit.problem.objective(fit.theta[None], fit.loss)
        >>> fit.problem.free.tolist(), bool(np.isclose(value, fit.objective))
        ([0, 1], True)
    """

    law: Formula
    x: Columns
    y: Array
    weights: Array
    link: str
    free: Array
    low: Array
    high: Array
    strength: Array
    centre: Array
    target: Array = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "target", self.law.linked(self.y, self.link))

    def residuals(self, theta: Array, items: Array | None = None) -> Array:
        """(k, n) prediction - observation in link space; ``items`` says which data each row of theta belongs to."""
        return self.law.value(theta, self.x, self.link) - self._of(self.target, items)

    def objective(self, theta: Array, loss: ResidualLoss, items: Array | None = None) -> Array:
        """(k,) objective values; infinite where the law is not defined."""
        with np.errstate(all="ignore"):
            if self.law.likelihood:
                rows = self.law.nll(self.law.named(theta), self.x, self._of(self.y, items))
            else:
                rows = loss.value(self.residuals(theta, items))
            total = (self._of(self.weights, items) * rows).sum(-1)
            total = total + 0.5 * (self.strength * (theta - self.centre) ** 2).sum(-1)
        return np.where(np.isfinite(total), total, np.inf)

    def expand(self, theta: Array, loss: ResidualLoss, items: Array) -> tuple[Array, Array, Array, Array]:
        """(value (k,), gradient (k, f), Newton Hessian (k, f, f), majorizer (k, f, f)) by the free parameters."""
        weights = self._of(self.weights, items)
        with np.errstate(all="ignore"):
            if self.law.likelihood:
                y = self._of(self.y, items)
                rows = self.law.nll(self.law.named(theta), self.x, y)
                jac = complex_step(lambda t: self.law.nll(self.law.named(t), self.x, y), theta, self.free)
                gradient = (jac @ np.broadcast_to(weights, rows.shape)[:, :, None])[:, :, 0]
                newton = (jac * weights[..., None, :]) @ jac.swapaxes(1, 2)  # outer products of scores
                major = newton
            else:
                f, jac = self.law.jacobian(theta, self.x, self.link, self.free)
                r = f - self._of(self.target, items)
                rows = loss.value(r)
                gradient = (jac @ (weights * loss.slope(r))[:, :, None])[:, :, 0]
                transposed = jac.swapaxes(1, 2)
                major = (jac * (weights * loss.majorizer(r))[:, None, :]) @ transposed
                newton = (jac * (weights * loss.curvature(r))[:, None, :]) @ transposed
            value = (weights * rows).sum(-1) + 0.5 * (self.strength * (theta - self.centre) ** 2).sum(-1)
        strength = self.strength[self.free]
        if strength.any():
            gradient = gradient + strength * (theta[:, self.free] - self.centre[self.free])
            newton, major = newton + np.diag(strength), major + np.diag(strength)
        bad = ~(np.isfinite(value) & np.isfinite(gradient).all(-1) & np.isfinite(major).all((-1, -2)))
        value = np.where(bad, np.inf, value)
        return value, gradient, newton, major

    def inside(self, theta: Array) -> Array:
        """Which free parameters lie off their bounds: (..., p) -> (..., f) booleans."""
        margin = _MARGIN * (1.0 + np.abs(theta))
        return np.asarray((theta > self.low + margin) & (theta < self.high - margin))[..., self.free]

    def _of(self, data: Array, items: Array | None) -> Array:
        return data if data.ndim == 1 or items is None else data[items]


@dataclass(frozen=True)
class Solution:
    """Per fit of the batch: parameters (k, p) in fitted space, objective, convergence, the last predicted decrease.

    Example, with ``fitted(law)`` a fit:
        >>> fit = fitted("power")
        >>> solution = minimise(fit.problem, fit.theta[None] + 0.1, fit.loss)
        >>> solution.converged.tolist(), bool(abs(solution.theta[0] - fit.theta).max() < 1e-6)
        ([True], True)
    """

    theta: Array
    value: Array
    converged: Array
    decrease: Array
    iterations: int


def minimise(
    problem: FitProblem,
    theta: Array,
    loss: ResidualLoss,
    *,
    limit: int = 200,
    tolerance: float = 1e-11,
    scale: float | None = None,
) -> Solution:
    """Minimise from many starts at once.

    Args:
        problem: what is minimised.
        theta: starts (k, p) in fitted space.
        loss: the loss of a residual.
        limit: most steps of a fit.
        tolerance: decrease that a step promises, relative to the objective, below which a fit has converged.
        scale: size of the residuals; with it the loss's path, from a smooth one to ``loss``, is walked first.
    """
    count, rows = len(theta), len(next(iter(problem.x.values())))
    block = max(1, _BLOCK // max(1, rows * max(1, len(problem.free))))
    parts = []
    for begin in range(0, count, block):
        items = np.arange(begin, min(count, begin + block))
        now = np.array(theta[items], dtype=float)
        for stage in loss.path(scale)[:-1] if scale else []:  # a few rough steps each: only the last one is kept
            now = _descend(problem, now, stage, items, 12, 1e-4).theta
        parts.append(_descend(problem, now, loss, items, limit, tolerance))
    return Solution(
        np.concatenate([s.theta for s in parts]),
        np.concatenate([s.value for s in parts]),
        np.concatenate([s.converged for s in parts]),
        np.concatenate([s.decrease for s in parts]),
        max(s.iterations for s in parts),
    )


def _descend(
    problem: FitProblem, theta: Array, loss: ResidualLoss, items: Array, limit: int, tolerance: float
) -> Solution:
    """Damped Newton steps of all fits at once, each with its own damping, until each promises no decrease any more.

    A step is taken if the objective falls. Damping falls after steps that gain more than half of what the quadratic
    model promised, stays after lesser ones, and rises where the objective did not fall.

    Args:
        problem: what is minimised.
        theta: starts (k, p) in fitted space.
        loss: the loss of a residual.
        items: (k,) which data of the problem each fit has, where fits have their own.
        limit: most steps.
        tolerance: relative decrease promised by a step, below which a fit has converged.
    """
    free = problem.free
    low, high = (
        np.broadcast_to(b if b.ndim == 1 else b[items], theta.shape)[:, free] for b in (problem.low, problem.high)
    )
    theta = theta.copy()
    count, width = len(theta), len(free)
    value, gradient, newton, major = problem.expand(theta, loss, items)
    if not width:
        return Solution(theta, value, np.ones(count, bool), np.zeros(count), 0)
    damping = np.full(count, _FIRST_DAMPING)
    undefined = ~np.isfinite(value)  # nothing leads away from where the law is not defined
    converged, decrease = undefined.copy(), np.full(count, np.inf)
    iteration, exact = 0, EXACT * float(problem.weights.sum(-1).max())
    for iteration in range(1, limit + 1):  # noqa: B007  its last value is reported
        live = np.flatnonzero(~converged)
        if not len(live):
            break
        at, hessian = theta[np.ix_(live, free)], newton[live]
        g, trial = _step(at, gradient[live], hessian, major[live], damping[live], low[live], high[live])
        moved = trial - at
        expected = -(g * moved).sum(-1) - 0.5 * np.einsum("ki,kij,kj->k", moved, hessian, moved)
        ahead = theta[live]
        ahead[:, free] = trial
        new_value, new_gradient, new_newton, new_major = problem.expand(ahead, loss, items[live])
        better = new_value < value[live]
        magnitude = np.abs(value[live]) + exact
        small = np.abs(expected) <= tolerance * magnitude
        # A small promise says nothing where the damping made it small, unless the step fell or all but did.
        level = better | (damping[live] <= _FIRST_DAMPING) | (new_value <= value[live] + _ROUNDING * magnitude)
        done = small & level | (damping[live] > _HOPELESS_DAMPING)
        decrease[live] = expected
        good_step = value[live] - new_value > 0.5 * expected
        take = live[better]
        theta[take], value[take], gradient[take] = ahead[better], new_value[better], new_gradient[better]
        newton[take], major[take] = new_newton[better], new_major[better]
        factor = np.where(better, np.where(good_step, _AFTER_GOOD, 1.0), _AFTER_BAD)
        damping[live] = np.clip(damping[live] * factor, _LEAST_DAMPING, _MOST_DAMPING)
        converged[live] = done
    # A fit that only damping stopped is stationary if its last promise was small, though not as small as asked for.
    small = decrease <= 1e-6 * (np.abs(value) + exact)
    return Solution(theta, value, converged & ~undefined & small, decrease, iteration)


def _step(
    at: Array, gradient: Array, newton: Array, major: Array, damping: Array, low: Array, high: Array
) -> tuple[Array, Array]:
    """(gradient (k, f), 0 where a bound stops it; parameters (k, f) after the damped step, within the bounds).

    Matrices are scaled to a diagonal near 1. 1e-6 of the diagonal keeps the damping effective where the majorizer is
    singular (a ridge); 1e-13, a hundred times double precision, keeps the undamped matrix invertible.
    """
    eye = np.eye(at.shape[1])
    stuck = ((at <= low) & (gradient > 0)) | ((at >= high) & (gradient < 0)) | (low == high)
    gradient = np.where(stuck, 0.0, gradient)
    size = np.maximum(np.einsum("kii->ki", major), 1e-300)
    damped = newton + damping[:, None, None] * (major + 1e-6 * size[:, :, None] * eye) + 1e-13 * size[:, :, None] * eye
    damped = np.where(stuck[:, :, None] | stuck[:, None, :], eye * size[:, :, None], damped)
    root = 1.0 / np.sqrt(size)
    step = -root * _solve(damped * root[:, :, None] * root[:, None, :], gradient * root)
    return gradient, np.clip(at + step, low, high)


def _solve(a: Array, b: Array) -> Array:
    try:
        return np.asarray(np.linalg.solve(a, b[:, :, None])[:, :, 0])
    except np.linalg.LinAlgError:  # one singular item: the least-squares step for all
        return np.asarray((np.linalg.pinv(a) @ b[:, :, None])[:, :, 0])


def exact_hessian(problem: FitProblem, theta: Array, loss: ResidualLoss) -> Array:
    """Hessian (f, f) of the objective at ``theta`` (p,): central differences of the exact gradient.

    A step of 1e-5, about the cube root of double precision, balances rounding and truncation; 0.1 serves parameters
    near 0.
    """
    free = problem.free
    steps = 1e-5 * np.maximum(np.abs(theta[free]), 0.1)
    moved = np.repeat(theta[None], 2 * len(free), axis=0)
    for i, j in enumerate(free):
        moved[2 * i, j] += steps[i]
        moved[2 * i + 1, j] -= steps[i]
    gradient = problem.expand(moved, loss, np.zeros(len(moved), dtype=int))[1]
    hessian = (gradient[0::2] - gradient[1::2]) / (2 * steps[:, None])
    return np.asarray(0.5 * (hessian + hessian.T))

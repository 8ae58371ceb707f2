"""Batched damped Newton: many weighted fits of one law at once, each from its own start, with its own weights or data.

Step s solves (H + mu M) s = -g, where H is the Gauss-Newton Hessian with the loss's true curvature (for Huber's loss:
only the rows inside delta) and M the one of its quadratic majorizer. mu -> 0 is Newton's method, large mu a short step
of iteratively re-weighted least squares, which cannot go up. Parameters at a bound that push outward are frozen.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .law import Array, Columns, Law, complex_step
from .losses import Loss

_BLOCK = 400_000  # numbers in one block of residuals: keeps the working set inside the cache


@dataclass(frozen=True)
class Problem:
    """What is minimised: sum_i weight_i loss(f_i(theta) - target_i) + sum_j strength_j (theta_j - centre_j)^2 / 2.

    ``y`` and ``weights`` are (n,), or (k, n) where each fit of the batch has its own. ``free`` are the indices of the
    fitted parameters; the others stay at their start. Bounds are (p,), or (k, p) one set a fit; equal ones hold a
    parameter at its start. All are in fitted space.
    """

    law: Law
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

    def objective(self, theta: Array, loss: Loss, items: Array | None = None) -> Array:
        """(k,) objective values; infinite where the law is not defined."""
        with np.errstate(all="ignore"):
            if self.law.likelihood:
                rows = self.law.nll(self.law.named(theta), self.x, self._of(self.y, items))
            else:
                rows = loss.value(self.residuals(theta, items))
            total = (self._of(self.weights, items) * rows).sum(-1)
            total = total + 0.5 * (self.strength * (theta - self.centre) ** 2).sum(-1)
        return np.where(np.isfinite(total), total, np.inf)

    def expand(self, theta: Array, loss: Loss, items: Array) -> tuple[Array, Array, Array, Array]:
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

    def _of(self, data: Array, items: Array | None) -> Array:
        return data if data.ndim == 1 or items is None else data[items]


@dataclass(frozen=True)
class Solution:
    """Per fit of the batch: parameters (k, p) in fitted space, objective, convergence, the last predicted decrease."""

    theta: Array
    value: Array
    converged: Array
    decrease: Array
    iterations: int


def minimise(
    problem: Problem,
    theta: Array,
    loss: Loss,
    *,
    limit: int = 200,
    tolerance: float = 1e-11,
    scale: float | None = None,
) -> Solution:
    """Minimise from the starts ``theta`` (k, p). With ``scale`` (size of residuals) it walks the loss's path first."""
    count, rows = len(theta), len(next(iter(problem.x.values())))
    block = max(1, _BLOCK // max(1, rows * max(1, len(problem.free))))
    parts = []
    for begin in range(0, count, block):
        items = np.arange(begin, min(count, begin + block))
        now = np.array(theta[items], dtype=float)
        for stage in loss.path(scale)[:-1] if scale else []:
            now = _descend(problem, now, stage, items, 12, 1e-4).theta
        parts.append(_descend(problem, now, loss, items, limit, tolerance))
    return Solution(
        np.concatenate([s.theta for s in parts]),
        np.concatenate([s.value for s in parts]),
        np.concatenate([s.converged for s in parts]),
        np.concatenate([s.decrease for s in parts]),
        max(s.iterations for s in parts),
    )


def _descend(problem: Problem, theta: Array, loss: Loss, items: Array, limit: int, tolerance: float) -> Solution:
    free = problem.free
    low, high = (
        np.broadcast_to(b if b.ndim == 1 else b[items], theta.shape)[:, free] for b in (problem.low, problem.high)
    )
    theta = theta.copy()
    count, width = len(theta), len(free)
    value, gradient, newton, major = problem.expand(theta, loss, items)
    mu = np.full(count, 1e-2)
    converged = ~np.isfinite(value) if width else np.ones(count, bool)
    hopeless = converged.copy() if width else np.zeros(count, bool)
    decrease = np.full(count, np.inf)
    if not width:
        return Solution(theta, value, converged, np.zeros(count), 0)
    eye = np.eye(width)
    iteration = 0
    tiny = 1e-18 * float(problem.weights.sum(-1).max())  # of residuals of 1e-9: rounding, where the law is exact
    for iteration in range(1, limit + 1):  # noqa: B007  its last value is reported
        live = np.flatnonzero(~converged)
        if not len(live):
            break
        at = theta[np.ix_(live, free)]
        g, h, m, bottom, top = gradient[live], newton[live], major[live], low[live], high[live]
        stuck = ((at <= bottom) & (g > 0)) | ((at >= top) & (g < 0)) | (bottom == top)
        g = np.where(stuck, 0.0, g)
        size = np.maximum(np.einsum("kii->ki", m), 1e-300)
        damped = h + mu[live, None, None] * (m + 1e-6 * size[:, :, None] * eye) + 1e-13 * size[:, :, None] * eye
        damped = np.where(stuck[:, :, None] | stuck[:, None, :], eye * size[:, :, None], damped)
        root = 1.0 / np.sqrt(size)
        step = -root * _solve(damped * root[:, :, None] * root[:, None, :], g * root)
        trial = np.clip(at + step, bottom, top)
        moved = trial - at
        expected = -(g * moved).sum(-1) - 0.5 * np.einsum("ki,kij,kj->k", moved, h, moved)
        ahead = theta[live]
        ahead[:, free] = trial
        new_value, new_gradient, new_newton, new_major = problem.expand(ahead, loss, items[live])
        better = new_value < value[live]
        magnitude = np.abs(value[live]) + tiny
        small = np.abs(expected) <= tolerance * magnitude
        done = small & (better | (mu[live] <= 1e-2) | (new_value <= value[live] + 1e-15 * magnitude)) | (
            mu[live] > 1e14
        )
        decrease[live] = expected
        good_step = value[live] - new_value > 0.5 * expected
        take = live[better]
        theta[take], value[take], gradient[take] = ahead[better], new_value[better], new_gradient[better]
        newton[take], major[take] = new_newton[better], new_major[better]
        mu[live] = np.clip(mu[live] * np.where(better, np.where(good_step, 0.2, 1.0), 5.0), 1e-9, 1e16)
        converged[live] = done
    small = decrease <= 1e-6 * (np.abs(value) + tiny)  # stopped by damping: only then a stationary point
    return Solution(theta, value, converged & ~hopeless & small, decrease, iteration)


def _solve(a: Array, b: Array) -> Array:
    try:
        return np.asarray(np.linalg.solve(a, b[:, :, None])[:, :, 0])
    except np.linalg.LinAlgError:  # one singular item: the least-squares step for all
        return np.asarray((np.linalg.pinv(a) @ b[:, :, None])[:, :, 0])


def exact_hessian(problem: Problem, theta: Array, loss: Loss) -> Array:
    """Hessian (f, f) of the objective at ``theta`` (p,): central differences of the exact gradient."""
    free = problem.free
    steps = 1e-5 * np.maximum(np.abs(theta[free]), 0.1)
    moved = np.repeat(theta[None], 2 * len(free), axis=0)
    for i, j in enumerate(free):
        moved[2 * i, j] += steps[i]
        moved[2 * i + 1, j] -= steps[i]
    gradient = problem.expand(moved, loss, np.zeros(len(moved), dtype=int))[1]
    hessian = (gradient[0::2] - gradient[1::2]) / (2 * steps[:, None])
    return np.asarray(0.5 * (hessian + hessian.T))

"""From nothing to the global optimum: exact linear solves over a grid of the rest, the best refined, a certificate."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from ..core.rng import Rng
from .formula import Array, Formula
from .losses import ResidualLoss
from .solve import EXACT, FitProblem, exact_hessian, minimise

_BLOCK = 4_000_000  # numbers of the grid that are held at once
DOUBTFUL = 0.3
"""A smaller share of starts at the optimum calls for more starts, and is said if they do not meet either."""

_SAME = 1e-3  # objectives within this share of the best are one optimum: along a ridge fits stop early
_TOGETHER = 1e-6  # objectives within this share of the best are one point, not neighbours on a corner of |r|
_HOPS, _HOP_STARTS, _MET = 3, 16, 0.6  # rounds of the search around the best, its starts, the share that ends it
_POLISHES = 6  # Newton steps converge quadratically: the second or third is the last that moves anything


@dataclass(frozen=True)
class Certificate:
    """How far the optimum can be trusted.

    Read ``share`` first: where few starts meet in one optimum, another may be lower. ``converged`` false means that the
    constants are no optimum at all.

    Attributes:
        grid: points at which the linear parameters were solved exactly.
        starts: points refined by Newton's method.
        share: share of those that ended within 0.1 % of the best objective.
        gradient: largest |dS/dtheta_j| * sd_j / S, free of units; ~0 at an optimum.
        condition: condition number of the Hessian scaled to unit diagonal; > 1e10 is a ridge.
        converged: the best start met the tolerance.
        at_bounds: parameters that ended on a bound.

    Example, with ``sweep`` a table of N, D and loss:
        >>> from isoflop.laws import Chinchilla
        >>> certificate = Chinchilla().fit(sweep).certificate
        >>> certificate.converged, certificate.share == 1.0, certificate.gradient < 1e-6, certificate.at_bounds
        (True, True, True, ())
    """

    grid: int
    starts: int
    share: float
    gradient: float
    condition: float
    converged: bool
    at_bounds: tuple[str, ...]


def search(problem: FitProblem, loss: ResidualLoss, values: Array, *, refine: int) -> tuple[Array, float, Certificate]:
    """The best parameters (p,) in fitted space, the objective there, and the certificate.

    The best starts, as judged after solving for the linear parameters, are refined; a few far from the best are always
    among them, so that the share means something.

    Args:
        problem: what is minimised.
        loss: the loss of a residual.
        values: starts (g, p) in natural units.
        refine: how many of them are refined; five times as many where too few of those meet.

    Example, with ``fitted(law)`` a fit:
        >>> fit = fitted("power")
        >>> starts = fit.law.start_values(fit.problem.x, fit.problem.y)
        >>> theta, objective, certificate = search(fit.problem, fit.loss, starts, refine=8)
        >>> bool(abs(theta - fit.theta).max() < 1e-6), certificate.converged
        (True, True)
    """
    law = problem.law
    theta = np.clip(law.to_fitted(values), problem.low, problem.high)
    frozen = np.setdiff1d(np.arange(theta.shape[1]), problem.free)
    theta[:, frozen] = problem.low[frozen]
    rows = len(problem.target.T)
    block = max(1, _BLOCK // (rows * max(1, theta.shape[1])))
    first = np.empty(len(theta))
    for begin in range(0, len(theta), block):
        part = slice(begin, begin + block)
        theta[part] = _solve_linear(problem, theta[part])
        first[part] = problem.objective(theta[part], loss, np.zeros(len(theta[part]), dtype=int))
    order = np.argsort(first, kind="stable")
    order = order[np.isfinite(first[order])]
    chosen = _spread(theta[order], refine) if len(order) else np.empty(0, int)
    starts = theta[order[chosen]] if len(order) else theta[:refine]
    scale = _residual_scale(problem, starts[0])
    found = minimise(problem, starts, loss, scale=scale)
    if _share(found.value, float(found.value.min()), rows) < DOUBTFUL and len(order) > len(starts):
        more = theta[order[_spread(theta[order], 5 * refine)]]
        again = minimise(problem, more, loss, scale=scale)
        found = again if again.value.min() < found.value.min() else found
        starts = starts if found is not again else more
    best = int(np.argmin(found.value))
    at, value = found.theta[best], float(found.value[best])
    converged = bool(found.converged[best])
    if not converged and np.isfinite(value):
        # Ten times the usual steps: a long ridge is walked to its end before it is called unconverged.
        again = minimise(problem, at[None], loss, limit=2000)
        at, value, converged = again.theta[0], float(again.value[0]), bool(again.converged[0])
    at, value = _hop(problem, at, value, loss, found.value)
    at, value = _polish(problem, at, value, loss)
    share = _share(found.value, value, rows)
    gradient, condition = _stationarity(problem, at, loss, value)
    limits = _at_bounds(law, problem, at)
    return at, value, Certificate(len(theta), len(starts), share, gradient, condition, converged, limits)


def _share(ends: Array, best: float, rows: int) -> float:
    """Of the objectives ``ends``, those within 0.1 % of the best one, or alike up to residuals of 1e-9."""
    return float(np.mean(ends <= best + _SAME * abs(best) + EXACT * rows)) if np.isfinite(best) else 0.0


def _spread(theta: Array, count: int) -> Array:
    """Indices of the best three quarters of ``count`` and, evenly through the ranking, the rest."""
    if len(theta) <= count:
        return np.arange(len(theta))
    top = max(1, 3 * count // 4)
    far = np.linspace(top, len(theta) - 1, count - top).astype(int)
    return np.unique(np.concatenate([np.arange(top), far]))


def _solve_linear(problem: FitProblem, theta: Array) -> Array:
    """Replace the free linear parameters by the best positive ones: relative least squares, re-weighted twice.

    Weights 1 / |r| turn squares into |r|, which outliers do not pull; residuals below a tenth of the median keep the
    weight of that, or a row fitted by chance would decide alone. Two rounds suffice for a start.
    """
    law = problem.law
    free = set(problem.free.tolist())
    linear = [j for j, q in enumerate(law.parameters) if q.linear]
    if law.likelihood or not any(j in free for j in linear):
        return theta
    offset, basis = law.basis(theta, problem.x)
    keep = [i for i, j in enumerate(linear) if j in free]
    natural = law.to_natural(theta)
    for i, j in enumerate(linear):  # fixed ones belong to the offset
        if j not in free:
            offset = offset + natural[:, j, None] * basis[:, i]
    basis, free_linear = basis[:, keep], [linear[i] for i in keep]
    y = problem.y if problem.y.ndim == 1 else problem.y[0]
    weights = problem.weights if problem.weights.ndim == 1 else problem.weights[0]
    relative = weights / (y - law.shift) ** 2 if problem.link == "log" else weights
    positive = np.asarray([law.parameters[j].low >= 0 for j in free_linear])
    w = np.broadcast_to(relative, offset.shape)
    coefficients = _positive_least_squares(basis, y - offset, w, positive)
    for _ in range(2):
        r = (np.einsum("km,kmn->kn", coefficients, basis) + offset - y) * np.sqrt(
            relative / np.maximum(weights, 1e-300)
        )
        spread = np.median(np.abs(r), axis=1, keepdims=True) + 1e-300
        closer = relative / np.maximum(np.abs(r) / spread, 0.1)
        coefficients = _positive_least_squares(basis, y - offset, closer, positive)
    natural[:, free_linear] = coefficients
    return np.clip(law.to_fitted(natural), problem.low, problem.high)


def _positive_least_squares(basis: Array, y: Array, weights: Array, positive: Array) -> Array:
    """Coefficients (k, m) of weighted least squares, those marked ``positive`` >= 0: the best feasible subset."""
    with np.errstate(all="ignore"):
        weighted = basis * weights[:, None, :]
        gram = np.nan_to_num(weighted @ basis.swapaxes(1, 2), posinf=0.0, neginf=0.0)
        moment = np.nan_to_num((weighted @ y[:, :, None])[:, :, 0], posinf=0.0, neginf=0.0)
    size = np.sqrt(np.maximum(np.einsum("kii->ki", gram), 1e-300))
    gram, moment = gram / size[:, :, None] / size[:, None, :], moment / size
    m = basis.shape[1]
    best, best_gain = np.zeros_like(moment), np.full(len(moment), -1.0)
    # Every subset of up to 5 columns (31 of them); more columns are solved for together, and those below 0 are clipped.
    subsets = [s for r in range(m, 0, -1) for s in itertools.combinations(range(m), r)] if m <= 5 else [tuple(range(m))]
    for subset in subsets:
        s = list(subset)
        sub = gram[:, s][:, :, s] + 1e-12 * np.eye(len(s))  # of a diagonal of 1: collinear columns share their weight
        solved = np.linalg.solve(sub, moment[:, s, None])[:, :, 0]
        gain = (solved * moment[:, s]).sum(-1)
        legal = (solved >= 0)[:, positive[s]].all(-1) & (gain > best_gain)
        best[legal] = 0.0
        best[np.ix_(legal, s)] = solved[legal]
        best_gain = np.where(legal, gain, best_gain)
        if len(s) == m and legal.all():
            break
    return np.asarray(best / size)


def _residual_scale(problem: FitProblem, theta: Array) -> float:
    """Standard deviation of the residuals, by their median: 1.4826 is that of a normal over its median |r|."""
    if problem.law.likelihood:
        return 0.0
    r = np.abs(problem.residuals(theta[None], np.zeros(1, dtype=int))[0])
    r = r[np.isfinite(r)]
    return float(1.4826 * np.median(r)) if len(r) else 0.0


def _hop(problem: FitProblem, theta: Array, value: float, loss: ResidualLoss, ends: Array) -> tuple[Array, float]:
    """Where starts ended near each other but not together (corners of |r|), look around the best along its ridges.

    Starts are drawn from the normal whose precision is the majorizer, of a size that raises the objective by about a
    tenth: far enough to leave a corner, near enough to stay in the valley. Eigenvalues of the scaled majorizer below
    1e-10 count as that, or a start would leave the law's domain.
    """
    rng = Rng(0)("hop").at()
    inside = np.flatnonzero(problem.inside(theta))
    together = np.mean(ends <= value + _TOGETHER * abs(value) + EXACT * len(problem.target.T))
    for _ in range(_HOPS):
        if not np.isfinite(value) or not len(inside) or together > _MET:
            break
        _, _, _, major = problem.expand(theta[None], loss, np.zeros(1, dtype=int))
        matrix = major[0][np.ix_(inside, inside)]
        size = 1.0 / np.sqrt(np.maximum(np.diag(matrix), 1e-300))
        eigenvalues, vectors = np.linalg.eigh(matrix * size[:, None] * size)
        spread = size[:, None] * vectors / np.sqrt(np.maximum(eigenvalues, 1e-10))
        starts = np.repeat(theta[None], _HOP_STARTS, axis=0)
        moves = rng.standard_normal((_HOP_STARTS, len(inside))) @ spread.T
        starts[:, problem.free[inside]] += moves * np.sqrt(0.2 * abs(value) / len(inside))
        found = minimise(problem, np.clip(starts, problem.low, problem.high), loss)
        best = int(np.argmin(found.value))
        together = np.mean(found.value <= min(value, found.value[best]) * (1 + _TOGETHER))
        if found.value[best] < value:
            theta, value = found.theta[best], float(found.value[best])
    return theta, value


def _polish(problem: FitProblem, theta: Array, value: float, loss: ResidualLoss) -> tuple[Array, float]:
    """A few steps with the full Hessian, which Gauss-Newton lacks; kept only if they go down.

    Eigenvalues below 1e-9 of the scaled Hessian, negative ones too, count as that: such a step is long and downhill,
    and refused if the objective rises. A gain below 1e-14 of the objective is rounding.
    """
    inside = np.flatnonzero(problem.inside(theta))
    if not np.isfinite(value) or not len(inside):
        return theta, value
    for _ in range(_POLISHES):
        _, gradient, _, _ = problem.expand(theta[None], loss, np.zeros(1, dtype=int))
        hessian = exact_hessian(problem, theta, loss)[np.ix_(inside, inside)]
        if not np.isfinite(hessian).all():
            break
        root = 1.0 / np.sqrt(np.maximum(np.abs(np.diag(hessian)), 1e-300))
        scaled = hessian * root[:, None] * root[None]
        eigenvalues, vectors = np.linalg.eigh(scaled)
        step = -root * (vectors @ ((vectors.T @ (gradient[0, inside] * root)) / np.maximum(eigenvalues, 1e-9)))
        ahead = theta.copy()
        ahead[problem.free[inside]] += step
        ahead = np.clip(ahead, problem.low, problem.high)
        new = float(problem.objective(ahead[None], loss, np.zeros(1, dtype=int))[0])
        if not new < value:
            break
        gained, theta, value = value - new, ahead, new
        if gained <= 1e-14 * abs(value):
            break
    return theta, value


def _stationarity(problem: FitProblem, theta: Array, loss: ResidualLoss, value: float) -> tuple[float, float]:
    """The certificate's gradient and condition, of the parameters off their bounds."""
    inside = np.flatnonzero(problem.inside(theta))
    if not len(inside) or not np.isfinite(value):
        return 0.0, 1.0
    _, gradient, _, major = problem.expand(theta[None], loss, np.zeros(1, dtype=int))
    size = np.sqrt(np.maximum(np.diag(major[0])[inside], 1e-300))
    scaled = major[0][np.ix_(inside, inside)] / size[:, None] / size[None]
    eigenvalues = np.linalg.eigvalsh(scaled)
    condition = float(eigenvalues[-1] / max(eigenvalues[0], 1e-300))
    size_of_value = max(abs(value), 1e-300)
    return float(np.max(np.abs(gradient[0, inside]) / size) / np.sqrt(size_of_value)), condition


def _at_bounds(law: Formula, problem: FitProblem, theta: Array) -> tuple[str, ...]:
    return tuple(law.names[j] for j in problem.free[~problem.inside(theta)])

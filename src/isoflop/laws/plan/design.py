"""What runs would teach: from a law's slopes at its runs and at its target, before they are made.

Let j be a run's slopes by the constants, M the information of the runs so far (the sum of j j' / v) and t the slopes at
a target. A further run of slopes j and variance v lowers the variance t' M^-1 t by (t' M^-1 j)^2 / (v + j' M^-1 j).
v is the noise, plus the law's own error: a law that is not exact errs the more, the further a run lies from the target
in compute, so that far runs teach less, however cheap they are, and count less when the law is fitted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from ...core.rng import Rng
from ..fit import Solved
from ..formula import Array, Columns, Formula

Criterion: TypeAlias = Literal["target", "information", "balanced", "drawn"]

DISCREPANCY = 1e-3
"""Standard deviation of the law's own error per e-fold of compute from the target, relative to the typical target."""
THRIFT = 0.6
"""Gains are divided by cost to this power: 1 buys the most a FLOP, 0 the most a run."""
_RIDGE = 1e-3  # of a mean run's information: constants that no run determines yet have a large, finite variance
_FEATURES = 1e-3  # the same for the pilot
# Enough to spread runs over the range of costs, few enough that every bin has candidates.
_BINS = 5


@dataclass
class Knowledge:
    """What is known and could be learnt.

    Attributes:
        slopes: (n, p) of the pool's runs, scaled to size 1 over the pool.
        aims: (m, p) of the target's rows, in the same scale.
        variance: (n,) of a run's result about the law, in link space.
        information: (p, p) of the runs that are made or chosen.

    Example:
        >>> known = Knowledge(np.eye(2), np.asarray([[1.0, 0.0]]), np.full(2, 0.01), np.eye(2))
        >>> known.gains().round(3).tolist()
        [0.99, 0.0]
    """

    slopes: Array
    aims: Array
    variance: Array
    information: Array

    def gains(self) -> Array:
        """(n,) by how much each run would lower the mean variance at the target."""
        known = np.linalg.inv(self.information)
        reach = self.aims @ known @ self.slopes.T
        own = np.einsum("ni,ij,nj->n", self.slopes, known, self.slopes)
        return np.asarray((reach**2).mean(0) / (self.variance + own))

    def determinants(self) -> Array:
        """(n,) by how much each run would raise the log determinant of the information."""
        known = np.linalg.inv(self.information)
        return np.asarray(np.log1p(np.einsum("ni,ij,nj->n", self.slopes, known, self.slopes) / self.variance))

    def learn(self, run: int) -> None:
        """Count a run as made."""
        self.information = self.information + np.outer(self.slopes[run], self.slopes[run]) / self.variance[run]

    def spread(self) -> float:
        """Root mean square, over the target's rows, of the standard deviation that the constants leave."""
        known = np.linalg.inv(self.information)
        return float(np.sqrt(np.einsum("mi,ij,mj->m", self.aims, known, self.aims).mean()))

    def constants(self) -> Array:
        """Variances (p,) of the constants, in the scale of the slopes."""
        return np.asarray(np.diag(np.linalg.inv(self.information)))


def knowledge(fit: Solved, pool: Columns, target: Columns, made: Array, gap: Array) -> Knowledge:
    """What a fit knows of a target, and its pool could teach.

    Args:
        fit: the law, fitted to the runs that are made.
        pool: the law's columns of the pool, (n,) each.
        target: those of the target, (m,) each.
        made: row numbers of the pool's runs that are made.
        gap: (n,) e-folds of compute from each run to the target.

    Example, with ``sweep`` a table of N, D and loss:
        >>> from isoflop.laws import Chinchilla
        >>> fit = Chinchilla().fit(sweep)
        >>> target = {"N": np.asarray([2e10]), "D": np.asarray([4e11])}
        >>> known = knowledge(fit, fit.problem.x, target, np.arange(64), np.zeros(64))
        >>> known.gains().shape
        (64,)
    """
    slopes, aims = (
        fit.law.jacobian(fit.theta[None], x, fit.problem.link, fit.problem.free)[1][0].T for x in (pool, target)
    )
    return known_of(slopes, aims, noise_variance(fit) + (DISCREPANCY * typical(fit) * gap) ** 2, made)


def known_of(slopes: Array, aims: Array, variance: Array, made: Array) -> Knowledge:
    """What is known, from slopes and variances in any scale of the constants.

    Args:
        slopes: (n, p) of the pool's runs.
        aims: (m, p) of the target's rows.
        variance: (n,) of a run's result about the law.
        made: row numbers of the runs that are made.
    """
    size = np.sqrt((slopes**2).mean(0)) + 1e-300
    slopes, aims = slopes / size, aims / size
    # In the scale of noise 1, an average run's information is the identity's size: a thousandth of it is hardly any.
    information = _RIDGE * np.eye(slopes.shape[1]) + (slopes[made] / variance[made, None]).T @ slopes[made]
    return Knowledge(slopes, aims, variance, information)


def noise_variance(fit: Solved) -> float:
    """Variance of the residuals, at least (1e-4)^2: an exact law has still some noise."""
    degrees = max(1, fit.rows - len(fit.problem.free))
    return max(float((fit.residuals**2).sum() / degrees), 1e-8)


def typical(fit: Solved) -> float:
    """What a relative error of 1 is in link space: 1 for logarithms, else the spread of the target."""
    return 1.0 if fit.problem.link == "log" else float(np.std(fit.problem.y))


def gaps(law: Formula, pool: Columns, target: Columns) -> Array:
    """(n,) e-folds of compute by which each run lies below the middle of the target; 0 above."""
    here, there = (np.log(law.compute(dict(x))) for x in (pool, target))
    return np.asarray(np.maximum(np.median(there) - here, 0.0))


def trust(fit: Solved | None, gap: Array, rows: int) -> Array:
    """Weights (rows,) of runs in the next fit, by the noise and the law's own error at their gaps (rows,)."""
    if fit is None:
        return np.ones(rows)
    noise = float(np.median(fit.residuals**2)) / 0.455 + 1e-12  # the median of a squared standard normal
    return np.asarray(noise / (noise + (DISCREPANCY * typical(fit) * gap) ** 2))


def pick(known: Knowledge, cost: Array, allowed: Array, criterion: Criterion, counts: Array) -> int | None:
    """The allowed run of most gain for its cost to the power ``THRIFT``; None if none is left.

    Args:
        known: what is known.
        cost: (n,) of the runs.
        allowed: (n,) booleans.
        criterion: target: the variance at the target; information: the determinant; balanced: that, plus a reward
            for a bin of compute of which few runs are made. (``drawn`` picks none: see ``drawing_order``.)
        counts: (n,) runs already made in each run's bin.
    """
    if not allowed.any():
        return None
    gain = known.gains() if criterion == "target" else known.determinants()
    if criterion == "balanced":
        gain = gain + np.log((counts + 2.0) / (counts + 1.0))
    score = np.where(allowed, gain / cost**THRIFT, -np.inf)
    return int(np.argmax(score))


def drawing_order(runs: int, seed: int = 0) -> Array:
    """Row numbers (n,) in the order in which runs are drawn by chance, each as likely as any other.

    For laws that describe a population, as a quantile over models does: cheap runs are no fair sample of it. The order
    is the same for ever, so that a larger budget draws all that a smaller one drew.

    Args:
        runs: n.
        seed: of the draw.

    Example:
        >>> sorted(drawing_order(4).tolist())
        [0, 1, 2, 3]
    """
    return np.argsort(Rng(seed)("drawn").at().random(runs))


def bins(cost: Array) -> Array:
    """(n,) number of each run's bin of cost, of equal counts."""
    edges = np.quantile(cost, np.linspace(0, 1, _BINS + 1)[1:-1])
    return np.searchsorted(edges, cost)


def pilot(x: Columns, cost: Array, made: Array, limit: float, count: int) -> list[int]:
    """First runs, before there is a fit: spread over the columns' logarithms and squares, cheap ones first.

    Args:
        x: the law's columns of the pool, (n,) each.
        cost: (n,) of the runs.
        made: row numbers of runs that are made.
        limit: what they may cost.
        count: how many at most.

    Example:
        >>> x = {"N": np.asarray([1e7, 1e8, 1e9, 1e7]), "D": np.asarray([1e9, 1e9, 1e9, 1e10])}
        >>> sorted(int(row) for row in pilot(x, np.asarray([0.1, 0.2, 0.6, 0.1]), np.empty(0, int), 0.5, 3))
        [0, 1, 3]
    """
    logs = np.log(np.column_stack([x[name] for name in x]))
    z = (logs - logs.mean(0)) / np.maximum(logs.std(0), 1e-12)
    features = np.column_stack([np.ones(len(z)), z, z**2])
    information = _FEATURES * np.eye(features.shape[1]) + features[made].T @ features[made]
    chosen: list[int] = []
    free = np.ones(len(cost), dtype=bool)
    free[made] = False
    while len(chosen) < count:
        allowed = free & (cost <= limit)
        if not allowed.any():
            break
        known = np.linalg.inv(information)
        gain = np.log1p(np.einsum("ni,ij,nj->n", features, known, features))
        run = int(np.argmax(np.where(allowed, gain / np.sqrt(cost), -np.inf)))
        chosen.append(run)
        free[run], limit = False, limit - float(cost[run])
        information = information + np.outer(features[run], features[run])
    return chosen

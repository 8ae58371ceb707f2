"""Refits to resampled data, all in one batch: rows and clusters by integer weights, residuals by new targets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ..core.errors import UsageError
from ..core.rng import Rng
from .law import Array
from .solve import minimise

if TYPE_CHECKING:
    from .fit import Fit

KINDS = ("rows", "residuals", "clusters")


@dataclass(frozen=True)
class Samples:
    """Bootstrap refits: ``theta`` (k, p) in fitted space; refits that did not converge are left out and counted."""

    fit: Fit
    theta: Array
    kind: str
    failed: int

    @property
    def params(self) -> Array:
        """(k, p) in natural units, in the order of ``fit.law.names``."""
        return self.fit.law.to_natural(self.theta)

    @property
    def errors(self) -> dict[str, float]:
        """Bootstrap standard errors in natural units."""
        return dict(zip(self.fit.law.names, self.params.std(0, ddof=1).tolist(), strict=True))

    def intervals(self, level: float = 0.95) -> dict[str, tuple[float, float]]:
        """Percentile intervals in natural units."""
        tail = (1.0 - level) / 2.0
        low, high = np.quantile(self.params, [tail, 1.0 - tail], axis=0)
        return {name: (float(low[j]), float(high[j])) for j, name in enumerate(self.fit.law.names)}


def bootstrap(fit: Fit, samples: int, *, kind: str | None = None, seed: int = 0, rows: Array | None = None) -> Samples:
    """Refit to ``samples`` resamplings, each started at the optimum.

    ``rows`` (k, n) gives the indices of the drawn rows instead of drawing them. ``residuals`` keeps the columns and
    draws residuals, inflated by sqrt(n / (n - p)) for what the fit absorbed.

    Raises:
        UsageError: an unknown kind, or clusters without a column that names them.
    """
    kind = kind or ("clusters" if fit.settings.clusters else "rows")
    if kind not in KINDS:
        raise UsageError(f"no bootstrap is named {kind!r}", fix=f"legal: {', '.join(KINDS)}")
    problem, n = fit.problem, fit.rows
    rng = Rng(seed)("bootstrap")(kind).at()
    if rows is not None:
        drawn = np.asarray(rows)
        weights = _counts(drawn, n) * problem.weights
        problem = replace(problem, weights=weights)
    elif kind == "rows":
        problem = replace(problem, weights=_counts(rng.integers(0, n, (samples, n)), n) * problem.weights)
    elif kind == "clusters":
        if not fit.settings.clusters:
            raise UsageError("the fit names no clusters", where="bootstrap", fix='fit(table, clusters="run")')
        _, member = np.unique(fit.table[fit.settings.clusters].astype(str), return_inverse=True)
        groups = int(member.max()) + 1
        counts = _counts(rng.integers(0, groups, (samples, groups)), groups)
        problem = replace(problem, weights=counts[:, member] * problem.weights)
    else:
        f = problem.law.value(fit.theta[None], problem.x, problem.link)[0]
        r = problem.target - f
        r = (r - r.mean()) * np.sqrt(n / max(1, n - len(problem.free)))
        target = f + r[rng.integers(0, n, (samples, n))]
        problem = replace(problem, y=problem.law.unlinked(target, problem.link))
    count = len(problem.weights) if problem.weights.ndim == 2 else len(problem.y)
    found = minimise(problem, np.repeat(fit.theta[None], count, axis=0), fit.loss, tolerance=1e-8)
    good = found.converged & np.isfinite(found.value)
    return Samples(fit, found.theta[good], kind, int((~good).sum()))


def _counts(drawn: Array, n: int) -> Array:
    """How often each of n things was drawn: (k, m) indices -> (k, n) float."""
    k = len(drawn)
    flat = (drawn + n * np.arange(k)[:, None]).ravel()
    return np.bincount(flat, minlength=k * n).reshape(k, n).astype(float)

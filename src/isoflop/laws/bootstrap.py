"""Refits to resampled data, all in one batch: rows and clusters by integer weights, residuals by new targets."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..core.errors import DataError, NumericsError, UsageError
from ..core.rng import Rng
from .arguments import check_level
from .fit import Solved
from .formula import Array
from .solve import FitProblem, minimise

KINDS = ("rows", "residuals", "clusters")


@dataclass(frozen=True)
class Samples:
    """Bootstrap refits.

    Attributes:
        fit: the fit whose rows were resampled.
        theta: parameters (k, p) in fitted space of the refits that converged.
        kind: rows, residuals or clusters.
        failed: refits that did not converge, or whose rows do not determine the constants.

    Example:
        >>> from isoflop.laws import Power
        >>> fit = Power().fit({"C": [1.0, 2.0, 4.0, 8.0], "y": [1.0, 2.1, 3.9, 8.2]})
        >>> samples = fit.bootstrap(200, seed=1)
        >>> samples.params.shape[1], {name: round(error, 3) for name, error in samples.errors.items()}
        (2, {'A': 0.036, 'a': 0.033})
    """

    fit: Solved
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
        check_level(level)
        tail = (1.0 - level) / 2.0
        low, high = np.quantile(self.params, [tail, 1.0 - tail], axis=0)
        return {name: (float(low[j]), float(high[j])) for j, name in enumerate(self.fit.law.names)}


def bootstrap(
    fit: Solved, samples: int, *, kind: str | None = None, seed: int = 0, rows: Array | None = None
) -> Samples:
    """Refit to resampled data, each refit started at the optimum.

    ``residuals`` keeps the columns and draws residuals, each divided by the noise that its row's weight implies and
    multiplied by that of its new row; they are inflated by sqrt(n / (n - p)) for what the fit absorbed. A resampling
    of fewer rows (or clusters) than constants does not determine them, and counts as failed.

    Profile intervals need no draws and are the default; resample to see the constants' joint distribution, or where
    rows come in clusters that share an error.

    Args:
        fit: the fit.
        samples: how many resamplings.
        kind: rows, residuals or clusters; None: clusters if the fit names any, else rows.
        seed: of the draws.
        rows: indices (k, m) of the drawn rows, instead of drawing them; ``samples`` then means nothing.

    Raises:
        UsageError: an unknown kind, no samples, rows that are not there, or clusters without a column that names them.
        DataError: no more rows (or clusters) than constants, which then always pass through them.
        NumericsError: fewer than two refits converged.

    Example:
        >>> from isoflop.laws import Power
        >>> fit = Power().fit({"C": [1.0, 2.0, 4.0, 8.0], "y": [1.0, 2.1, 3.9, 8.2]})
        >>> low, high = bootstrap(fit, 200, kind="residuals").intervals(0.9)["a"]
        >>> low < fit.params["a"] < high
        True
    """
    kind = kind or ("clusters" if fit.settings.clusters else "rows")
    if kind not in KINDS:
        raise UsageError(f"no bootstrap is named {kind!r}", fix=f"legal: {', '.join(KINDS)}")
    if kind == "clusters" and not fit.settings.clusters:
        raise UsageError("the fit names no clusters", where="bootstrap", fix='fit(table, clusters="run")')
    if rows is None and samples < 2:
        raise UsageError(f"{samples} samples", where="bootstrap", fix="ask for two at least, better for hundreds")
    if fit.degrees_of_freedom < 1:
        what, constants = "clusters" if fit.settings.clusters else "rows", len(fit.problem.free)
        raise DataError(
            f"{fit.degrees_of_freedom + constants} {what} for {constants} constants: refits pass through what was "
            "drawn, and say nothing of the noise",
            where="bootstrap",
            fix="add runs, or hold constants (fixed=...)",
        )
    problem, drawn = _resampled(fit, samples, kind, seed, rows)
    count = len(problem.weights) if problem.weights.ndim == 2 else len(problem.y)
    found = minimise(problem, np.repeat(fit.theta[None], count, axis=0), fit.loss, tolerance=1e-8)
    good = found.converged & np.isfinite(found.value) & (drawn >= len(problem.free))
    if good.sum() < 2:
        raise NumericsError(f"{good.sum()} of {count} refits converged", where="bootstrap", fix="add runs")
    return Samples(fit, found.theta[good], kind, int((~good).sum()))


def _resampled(fit: Solved, samples: int, kind: str, seed: int, rows: Array | None) -> tuple[FitProblem, Array]:
    """The problem with resampled weights or targets (k, n), and how many rows or clusters each holds, (k,)."""
    problem, n = fit.problem, fit.rows
    rng = Rng(seed)("bootstrap")(kind).at()
    if kind == "residuals" and rows is None:
        f = problem.law.value(fit.theta[None], problem.x, problem.link)[0]
        root = np.sqrt(problem.weights)
        r = (problem.target - f) * root
        r = (r - r.mean()) * np.sqrt(n / max(1, n - len(problem.free)))
        target = f + r[rng.integers(0, n, (samples, n))] / root
        return replace(problem, y=problem.law.unlinked(target, problem.link)), np.full(samples, n)
    if rows is not None:
        counts = _counts(_indices(rows, n), n)
    elif kind == "rows":
        counts = _counts(rng.integers(0, n, (samples, n)), n)
    else:
        member = fit.clusters
        assert member is not None, kind
        groups = int(member.max()) + 1
        counts = _counts(rng.integers(0, groups, (samples, groups)), groups)
        return replace(problem, weights=counts[:, member] * problem.weights), (counts > 0).sum(1)
    return replace(problem, weights=counts * problem.weights), (counts > 0).sum(1)


def _indices(rows: Array, n: int) -> Array:
    drawn = np.asarray(rows)
    if drawn.ndim != 2 or drawn.dtype.kind not in "iu" or not ((drawn >= 0) & (drawn < n)).all():
        raise UsageError("rows must be row numbers (samples, drawn)", where="bootstrap", fix=f"from 0 to {n - 1}")
    return drawn


def _counts(drawn: Array, n: int) -> Array:
    """How often each of n things was drawn: (k, m) indices -> (k, n) float."""
    k = len(drawn)
    flat = (drawn + n * np.arange(k)[:, None]).ravel()
    return np.bincount(flat, minlength=k * n).reshape(k, n).astype(float)

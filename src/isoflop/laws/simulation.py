"""Planted tables: data made by a law with known constants, and how often intervals contain them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ..core.errors import UsageError
from ..core.rng import Rng
from ..core.table import Table
from .arguments import check_level, check_named
from .fit import Solved
from .formula import Array, Columns, Formula, law_name
from .noise import dispersions, robustness
from .profile import threshold
from .solve import minimise
from .tables import as_table, columns_of, read_columns


def simulate(
    law: Formula, params: Mapping[str, float], table: Mapping[str, Any], noise: float, *, seed: int = 0
) -> Table:
    """The table with a target column made by the law.

    Use it to ask whether a design can find its answer at all: plant constants, fit, and see whether they come back.

    Args:
        law: the law.
        params: its constants by name, all of them, in natural units.
        table: the law's columns.
        noise: standard deviation of the normal noise, in link space: relative where the link is log.
        seed: of the noise.

    Raises:
        UsageError: parameters that are not the law's, or a noise that is negative or not finite.
        DataError: columns that the law cannot read.

    Example:
        >>> from isoflop.laws import Power
        >>> table = simulate(Power(), {"A": 2.0, "a": 0.5}, {"C": [1.0, 4.0, 16.0]}, noise=0.0)
        >>> table["y"].tolist()
        [2.0, 4.0, 7.999999999999998]
    """
    known = as_table(table)
    x = columns_of(law, read_columns(law, known, with_target=False))
    return known.with_columns(**{law.target: planted(law, params, x, noise, 1, seed)[0]})


def planted(law: Formula, params: Mapping[str, float], x: Columns, noise: float, tables: int, seed: int = 0) -> Array:
    """Targets (tables, n) made by the law with normal noise in link space.

    Args:
        law: the law.
        params: its constants by name, all of them, in natural units.
        x: the law's columns, each (n,).
        noise: standard deviation of the noise, in link space.
        tables: how many.
        seed: of the noise.
    """
    if not 0 <= noise < np.inf:
        raise UsageError(f"noise {noise:g}", where="simulate", fix="give a standard deviation in link space")
    theta = law.to_fitted(_values(law, params)[None])
    columns = {name: np.asarray(x[name], dtype=float) for name in x}
    f = law.value(theta, columns, law.link)
    f = f + noise * Rng(seed)("simulate").at().standard_normal((tables, f.shape[-1]))
    return law.unlinked(f, law.link)


def coverage(fit: Solved, params: Mapping[str, float], targets: Array, level: float = 0.95) -> dict[str, float]:
    """By parameter, the share of planted tables whose profile interval contains the true value.

    A value lies in its profile interval exactly if the deviance of holding it there is below the threshold, so each
    table needs two refits a parameter.

    Args:
        fit: of any one of the tables; it lends its columns and settings.
        params: the true constants, in natural units.
        targets: the tables' targets (k, n).
        level: level of the intervals, a share.

    Example:
        >>> from isoflop.laws import Power
        >>> truth, x = {"A": 2.0, "a": 0.5}, {"C": np.geomspace(1, 100, 8)}
        >>> fit = Power().fit(simulate(Power(), truth, x, noise=0.1))
        >>> shares = coverage(fit, truth, planted(Power(), truth, x, 0.1, tables=200))
        >>> {name: round(share, 2) for name, share in shares.items()}
        {'A': 0.94, 'a': 0.96}
    """
    law = fit.law
    problem = replace(fit.problem, y=np.asarray(targets, dtype=float))
    check_level(level)
    truth = law.to_fitted(_values(law, params))
    starts = np.repeat(truth[None], len(targets), axis=0)
    free = minimise(problem, starts, fit.loss, tolerance=1e-10)
    items = np.arange(len(targets))
    if law.likelihood:
        factor = np.ones(len(targets))
    else:
        r = problem.residuals(free.theta, items)
        factor = dispersions(r, np.broadcast_to(problem.weights, r.shape), fit.loss, len(problem.free))
    widen = robustness(problem, free.theta, fit.loss, fit.clusters)
    limit = threshold(fit, level)
    out = {}
    for j in problem.free:
        low, high = problem.low.copy(), problem.high.copy()
        low[j] = high[j] = truth[j]
        begin = free.theta.copy()
        begin[:, j] = truth[j]
        held = minimise(replace(problem, low=low, high=high), begin, fit.loss, tolerance=1e-9)
        other = minimise(replace(problem, low=low, high=high), starts, fit.loss, tolerance=1e-9)
        value = np.minimum(held.value, other.value)
        out[law.names[j]] = float(np.mean(2 * (value - free.value) / (factor * widen[:, j]) <= limit))
    return out


def _values(law: Formula, params: Mapping[str, float]) -> Array:
    """Parameters (p,) in the law's order; UsageError if they are not exactly the law's."""
    check_named(law, params, "params")
    missing = [name for name in law.names if name not in params]
    if missing:
        raise UsageError(f"{law_name(law)} needs {', '.join(missing)}", where="params", fix="give every parameter")
    return np.asarray([params[name] for name in law.names], dtype=float)

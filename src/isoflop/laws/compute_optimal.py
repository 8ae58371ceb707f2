"""Compute-optimal sizes from isoFLOP sweeps (Hoffmann et al. 2022; Porian et al. 2024, arXiv 2406.19146)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from scipy.interpolate import Akima1DInterpolator

from ..core.errors import DataError, UsageError, nearest
from ..core.table import Table
from ..ledger.conventions import six_nd
from .formula import Array
from .grouping import ALIKE, alike
from .tables import as_table, read_positive

_POINTS = 25  # of the interpolation, for each measured one


def optima(
    table: Mapping[str, Any],
    *,
    budget: str = "C",
    method: Literal["akima", "parabola"] = "akima",
    edges: Literal["drop", "keep"] = "drop",
    within: float = ALIKE,
) -> Table:
    """The best size of each budget: a table of C, N, D = C / 6N and loss.

    ``akima`` interpolates ln loss over ln N, ``parabola`` fits one through it (which is biased where sampling is off
    centre). A budget whose best size is its smallest or largest has no interior minimum: it is dropped, or kept as the
    best measured point. Feed the result to the ``power`` law for the exponents.

    Args:
        table: columns N, loss and the budget's; a dict, a frame or a Table.
        budget: column of the budgets, FLOPs.
        method: how the minimum is placed.
        edges: what becomes of budgets without an interior minimum.
        within: budgets up to this relative distance above a smallest one are one, at their median.

    Raises:
        DataError: no budget has an interior minimum, or a column holds what is no positive number.
        UsageError: an unknown method or treatment of edges.

    Example:
        >>> n, compute = np.meshgrid(np.geomspace(1e7, 1e10, 7), [1e19, 1e20])
        >>> loss = 1.8 + 480 / n**0.35 + 2100 / (compute / 6 / n) ** 0.37
        >>> found = optima({"N": n.ravel(), "C": compute.ravel(), "loss": loss.ravel()})
        >>> [f"{size:.2e}" for size in found["N"]]
        ['2.81e+08', '8.88e+08']
    """
    for name, given, legal in (("method", method, ("akima", "parabola")), ("edges", edges, ("drop", "keep"))):
        if given not in legal:
            raise UsageError(f"{given!r} is no {name}", where="optima", fix=nearest(given, legal))
    known = as_table(table)
    columns = {name: read_positive(known, name) for name in (budget, "N", "loss")}
    rows = []
    labels = alike(columns[budget], within)
    for label in range(int(labels.max(initial=-1)) + 1):
        chosen = labels == label
        compute, n, loss = (float(np.median(columns[budget][chosen])), columns["N"][chosen], columns["loss"][chosen])
        sizes = np.unique(n)
        best = np.asarray([loss[n == size].min() for size in sizes])
        minimum = _minimum(np.log(sizes), np.log(best), method)
        if minimum is None:
            if edges == "drop" or not len(sizes):
                continue
            minimum = float(np.log(sizes[np.argmin(best)])), float(np.log(best.min()))
        size = float(np.exp(minimum[0]))
        rows.append({"C": compute, "N": size, "D": compute / six_nd(size, 1), "loss": float(np.exp(minimum[1]))})
    if not rows:
        raise DataError(
            "no budget has a minimum inside its sizes", where="isoflop", fix="add smaller and larger models"
        )
    return Table.from_records(rows).sort("C")


def _minimum(x: Array, y: Array, method: str) -> tuple[float, float] | None:
    """(place, value) of the minimum of the curve through y(x), x ascending; None where it lies at an edge."""
    if len(x) < 3:
        return None
    grid = np.linspace(x[0], x[-1], _POINTS * len(x))
    if method == "parabola" or len(x) < 5:
        values = np.polyval(np.polyfit(x - x.mean(), y, 2), grid - x.mean())
    else:
        values = Akima1DInterpolator(x, y)(grid)
    i = int(np.argmin(values))
    return None if i in (0, len(grid) - 1) else (float(grid[i]), float(values[i]))

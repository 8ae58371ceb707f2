"""Tables that are sweeps: several rows of one cell, of which a law describes the best alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from scipy import stats

from ..core.errors import UsageError, nearest
from ..core.table import Table
from .fit import Solved
from .formula import Array
from .grouping import cells

_APART = 0.03
"""How far rows of a cell differ, relatively, before nobody takes them for repetitions, whatever other columns say."""
_CHANCE = 1e-4
"""How rarely a column that tells nothing may be taken for one that was swept."""
_HIGHER = ("score", "returns")
"""Targets of which more is better."""


def best_of(table: Table, swept: Sequence[str], columns: Iterable[str], target: str) -> tuple[Array, str]:
    """The numbers of the best row of each cell (cells,), and a sentence about what was kept.

    Args:
        table: the rows, under the law's names.
        swept: columns whose best value is wanted, e.g. lr and batch. It is said where that is the edge of what was
            tried.
        columns: those of the law; rows that agree in them (to 2 %), those swept left out, are a cell.
        target: the column that says which row is best; rows in which it is no finite number are never.

    Raises:
        UsageError: no such column.
    """
    for name in (*swept, target):
        if name not in table:
            raise UsageError(f"no column {name!r}", where="--best-of", fix=nearest(name, table))
    keys = [name for name in columns if name in table and name not in swept]
    if not keys:
        raise UsageError("leaves no column by which cells differ", where="--best-of", fix="name the swept columns only")
    sign = -1.0 if target in _HIGHER else 1.0
    y = np.nan_to_num(sign * table.numbers(target), nan=np.inf)
    found = list(cells(*(table.numbers(name) for name in keys)))
    best = np.sort([rows[np.argmin(y[rows])] for rows in found])
    edges = {
        name: sum(_at_edge(table.numbers(name), rows, y) for rows in found) for name in swept if _numeric(table, name)
    }
    said = "".join(
        f"; in {count} of them the best {name} is the lowest or highest tried" for name, count in edges.items() if count
    )
    text = (
        f"best of {', '.join(swept)}: {len(best)} of {table.rows} rows are kept, one for each {', '.join(keys)}{said}"
    )
    return best, text


def _numeric(table: Table, name: str) -> bool:
    return table[name].dtype.kind in "iuf"


def _at_edge(values: Array, rows: Array, y: Array) -> bool:
    own, best = values[rows], values[rows[np.argmin(y[rows])]]
    return bool(len(np.unique(own)) > 1 and best in (own.min(), own.max()))


def sweep_warning(fit: Solved, raw: Table) -> str:
    """Why the rows of a fit look like a sweep, of which only the best row of a cell belongs in it; "" if they do not.

    Args:
        fit: the fit of all rows.
        raw: the table that it was made from, with what else its rows differ in.
    """
    columns = [fit.table.numbers(name) for name in fit.law.columns]
    if fit.law.likelihood or fit.settings.loss not in ("huber", "l2", "l1") or any((c <= 0).any() for c in columns):
        return ""
    groups = list(cells(*columns))
    several = [rows for rows in groups if len(rows) > 1]
    y = np.log(fit.problem.y) if fit.problem.link == "log" else fit.problem.y
    spare = sum(len(rows) - 1 for rows in several)
    if not spare:
        return ""
    apart = float(np.sqrt(sum(np.sum((y[rows] - y[rows].mean()) ** 2) for rows in several) / spare))
    swept = _swept(fit, raw, y, several) if raw.rows == fit.rows else []
    if not swept and apart <= _APART:
        return ""
    by = f" with {', '.join(swept)}" if swept else ""
    return (
        f"{len(several)} of {len(groups)} cells of equal {', '.join(fit.law.columns)} hold several rows, which differ"
        f"{by} (by {apart:.2g}): a sweep, while a law describes the best run of a cell; "
        f"--best-of {','.join(swept or ['lr'])} keeps that one" + ("" if swept else " (name what was swept)")
    )


def _swept(fit: Solved, raw: Table, y: Array, several: Sequence[Array]) -> list[str]:
    """Columns beside the law's whose values recur from cell to cell and tell, beyond chance, how good a row is.

    The number of a repetition recurs, too, but tells nothing. Of columns that say the same the first one is named.
    """
    known = {*fit.law.columns, fit.law.target, "C", fit.settings.weights, fit.settings.clusters}
    rows = np.concatenate(several)
    centred = np.concatenate([y[own] - y[own].mean() for own in several])
    found: dict[str, Array] = {}
    for name in raw:
        if name in known or not _numeric(raw, name):
            continue
        values, level, count = np.unique(raw[name][rows], return_inverse=True, return_counts=True)
        spare = len(rows) - len(several) - len(values) + 1
        if (
            len(values) < 2
            or (count < 2).any()
            or spare < 1
            or any(_same_split(level, other) for other in found.values())
        ):
            continue
        means = np.bincount(level, centred) / count
        between = float(np.sum(count * means**2))
        within = float(np.sum(centred**2)) - between
        if stats.f.sf(between / (len(values) - 1) / max(within / spare, 1e-300), len(values) - 1, spare) < _CHANCE:
            found[name] = level
    return list(found)


def _same_split(a: Array, b: Array) -> bool:
    """Whether two numberings (rows,) put the same rows together."""
    pairs = len(np.unique(np.column_stack([a, b]), axis=0))
    return bool(pairs == a.max() + 1 == b.max() + 1)

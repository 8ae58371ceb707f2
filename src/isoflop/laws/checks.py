"""What may be wrong with a table to be fitted: errors where a fit would be meaningless, else warnings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..core.cells import as_column
from ..core.errors import DataError, UsageError, nearest
from ..core.table import Table
from .law import Array, Columns, Law

_PLAUSIBLE = {"N": (1e4, 1e14), "D": (1e4, 1e17), "C": (1e9, 1e30), "N_avg": (1e4, 1e14), "U": (1e4, 1e17)}
_ANALYTIC = "write predict with numpy's analytic functions (exp, log, *, where on np.real), or override gradient"


def as_table(data: Any) -> Table:
    """A Table of any mapping of column name to array, pandas or polars frame, or pyarrow table; scalars are one row.

    Raises:
        DataError: something else, or columns of different lengths.
    """
    if isinstance(data, Table):
        return data
    if isinstance(data, Mapping):
        names = list(data)
    elif hasattr(data, "column_names"):  # pyarrow
        names = list(data.column_names)
    elif hasattr(data, "columns"):  # pandas, polars
        names = list(data.columns)
    else:
        raise DataError(
            f"{type(data).__name__} is not a table", where="table", fix="give a mapping of column name to array"
        )
    return Table({str(name): _one_row(data[name], str(name)) for name in names})


def _one_row(values: Any, name: str) -> Array:
    return as_column([values] if np.ndim(values) == 0 else values, name)


def rename(table: Mapping[str, Any], columns: Mapping[str, str]) -> Table:
    """``columns`` maps the law's name to the table's: ``{"N": "params"}``. A column in the way is set aside."""
    known = as_table(table)
    for old in columns.values():
        if old not in known:
            raise DataError(f"no column {old!r}", where="--columns", fix=nearest(old, known))
    sources = set(columns.values())
    kept = {name: name for name in known if name not in columns or name in sources}
    return known.select({**kept, **columns})


def attach(table: Mapping[str, Any], given: Mapping[str, Any]) -> tuple[Table, dict[str, Any]]:
    """A table and settings whose ``weights`` and ``clusters`` are columns, where they were given as arrays (rows,)."""
    known, settings = as_table(table), dict(given)
    for name in ("weights", "clusters"):
        if settings.get(name) is not None and not isinstance(settings[name], str):
            known = known.with_columns(**{name: settings[name]})
            settings[name] = name
    return known, settings


def read_columns(law: Law, table: Table, *, with_target: bool) -> Table:
    """The table with all that the law reads as numbers: its columns, the target, and C, the axis of extrapolation.

    Raises:
        DataError: a column that is missing, or holds what is no number, not finite, or not positive where it must be.
    """
    wanted = [*law.columns, *([law.target] if with_target else [])]
    missing = [name for name in wanted if name not in table]
    if missing:
        example = f"{missing[0]}=<column>"
        raise DataError(
            f"law {law_name(law)} needs column{'s' if len(missing) > 1 else ''} {', '.join(missing)}",
            where="table",
            fix=f"rename with columns ({example}); the table has {', '.join(table)}",
        )
    extra = ["C"] if "C" in table and "C" not in wanted else []
    read = {name: table.numbers(name) for name in (*wanted, *extra)}
    for name, values in read.items():
        fix = "drop those rows; a run that failed is not a point of a law"
        if name in extra:
            fix = "extrapolation is measured along C: repair it, or leave the column out"
        check_finite(name, values, fix=fix)
        if name in (*law.positive(), *extra) and (values <= 0).any():
            row = int(np.argmax(values <= 0)) + 1
            raise DataError(f"column {name} is not positive in row {row}", where="table", fix=fix)
    exact = {name: values for name, values in read.items() if table[name].dtype.kind not in "iuf"}
    return table.with_columns(**exact)


def check_finite(name: str, values: Array, *, fix: str) -> None:
    """DataError that counts the entries (rows,) that are not finite, and names the first."""
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise DataError(
            f"column {name} is not finite in {len(bad)} of {len(values)} rows (first: row {bad[0] + 1})",
            where="table",
            fix=fix,
        )


def read_positive(table: Table, name: str) -> Array:
    """A column (rows,) as float64; DataError if an entry is no finite number above 0."""
    values = table.numbers(name)
    check_finite(name, values, fix="drop those rows; a run that failed has no place here")
    if (values <= 0).any():
        raise DataError(
            f"column {name} is not positive in row {int(np.argmax(values <= 0)) + 1}", where="table", fix="repair it"
        )
    return values


def check_weights(table: Table, name: str) -> Array:
    """The column of weights, (rows,).

    Raises:
        DataError: no such column, or weights that are negative, not finite or all 0.
    """
    if name not in table:
        raise DataError(f"no column {name!r}", where="weights", fix=nearest(name, table))
    weights = table.numbers(name)
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.any()):
        raise DataError(f"weights in column {name} must be finite, >= 0 and not all 0", where="table")
    return weights


def check_clusters(table: Table, name: str) -> Array:
    """The names (rows,) of the clusters in a column.

    Raises:
        DataError: no such column, a row without a name, or one cluster alone.
    """
    if name not in table:
        raise DataError(f"no column {name!r}", where="clusters", fix=nearest(name, table))
    found = table.texts(name)
    if (found == "").any():
        row = int(np.argmax(found == "")) + 1
        raise DataError(
            f"column {name} names no cluster in row {row}", where="clusters", fix="name the run of each row"
        )
    if len(set(found.tolist())) < 2:
        raise DataError(
            f"column {name} names one cluster: how much runs differ cannot be told",
            where="clusters",
            fix="name the run of each row, or leave clusters out",
        )
    return found


def check_level(level: float) -> None:
    """UsageError for a level that is no share, such as 95."""
    if not 0 < level < 1:
        raise UsageError(f"an interval of level {level:g}", where="level", fix="give a share, e.g. 0.95")


def check_values(law: Law, table: Table, link: str) -> list[str]:
    """Warnings about the rows of a table that is about to be fitted, after ``read_columns``.

    Raises:
        DataError: too few rows, targets <= 0 under a logarithm, columns that do not vary.
    """
    y, rows = table.numbers(law.target), table.rows
    free = len(law.parameters)
    if rows < max(3, min(free, 4)):
        raise DataError(
            f"{rows} rows cannot fix the {free} parameters of {law_name(law)}", where="table", fix="add runs"
        )
    if link == "log" and (y <= 0).any():
        row = int(np.flatnonzero(y <= 0)[0])
        raise DataError(
            f"column {law.target} is {y[row]:g} in row {row + 1}; its logarithm is fitted",
            where="table",
            fix='give positive values, or fit with link="identity"',
        )
    constant = [name for name in law.varying() if np.ptp(table.numbers(name)) == 0]
    if constant:
        raise DataError(
            f"{', '.join(constant)} never varies: {law_name(law)} cannot be fitted",
            where="table",
            fix="add runs that vary it, or choose a law without that column",
        )
    if np.ptp(y) == 0:
        raise DataError(f"column {law.target} never varies", where="table", fix="check which column holds the result")
    warnings = []
    if rows <= free:
        warnings.append(f"{rows} rows for {free} parameters: no residual is left to judge the fit by")
    return warnings + _duplicates(law, table) + _units(law, table) + _conventions(table) + _correlated(table)


def law_name(law: Law) -> str:
    """Its registered name, or that of its class."""
    return type(law).name or type(law).__name__


def _duplicates(law: Law, table: Table) -> list[str]:
    rows = np.column_stack([table.numbers(name) for name in (*law.columns, law.target)])
    twice = len(rows) - len(np.unique(rows, axis=0))
    return (
        [f"{twice} duplicated rows: each counts as evidence of its own; drop them if they are copies"] if twice else []
    )


def _units(law: Law, table: Table) -> list[str]:
    found = []
    for name in law.columns:
        if name in _PLAUSIBLE:
            low, high = _PLAUSIBLE[name]
            middle = float(np.median(table.numbers(name)))
            if not low <= middle <= high:
                guess = "thousands, millions or billions" if middle < low else "a smaller unit than one"
                found.append(
                    f"column {name} has median {middle:.3g}: suspected to be counted in {guess}; wanted are units"
                )
    if "C" in table and "N" in table and "D" in table:
        ratio = _compute_ratio(table)
        middle = float(np.median(ratio)) if len(ratio) else 1.0
        if not 1e-2 < middle < 1e2:
            found.append(
                f"C is {middle:.3g} times 6 N D: the units of C, N and D do not agree (off by a power of ten?)"
            )
    if law.target == "loss":
        middle = float(np.median(table.numbers("loss")))
        if middle > 100:
            found.append(f"losses have median {middle:.3g}: suspected perplexities; laws are for nats or bits a token")
    return found


def _compute_ratio(table: Table) -> Array:
    c, n, d = (table.numbers(name) for name in "CND")
    with np.errstate(all="ignore"):
        ratio = c / (6.0 * n * d)
    return np.asarray(ratio[np.isfinite(ratio) & (ratio > 0)])


def _conventions(table: Table) -> list[str]:
    """Two clusters of C / 6ND with nothing between them: two ways of counting N (or C) in one table."""
    if not {"C", "N", "D"} <= set(table):
        return []
    ratio = np.sort(np.log(_compute_ratio(table)))
    if len(ratio) < 6:
        return []
    gaps = np.diff(ratio)
    cut = int(np.argmax(gaps)) + 1
    within = max(float(np.std(ratio[:cut])), float(np.std(ratio[cut:])))
    if gaps[cut - 1] > max(0.05, 4.0 * within) and 2 <= cut <= len(ratio) - 2:
        low, high = np.exp(np.median(ratio[:cut])), np.exp(np.median(ratio[cut:]))
        return [
            f"mixed conventions suspected: C / 6ND is {low:.3g} in {cut} rows and {high:.3g} in {len(ratio) - cut}; "
            "count N (with or without embeddings) and C alike in all rows"
        ]
    return []


def _correlated(table: Table) -> list[str]:
    if "N" not in table or "D" not in table or table.rows < 4:
        return []
    n, d = np.log(table.numbers("N")), np.log(table.numbers("D"))
    if np.ptp(n) == 0 or np.ptp(d) == 0 or not (np.isfinite(n).all() and np.isfinite(d).all()):
        return []
    r = float(np.corrcoef(n, d)[0, 1])
    return [f"ln N and ln D are correlated ({r:.4f}): their effects cannot be told apart"] if abs(r) > 0.995 else []


def check_named(law: Law, values: Mapping[str, Any], where: str) -> None:
    """UsageError for a parameter that the law does not have, or NaN in the place of a number."""
    for name, value in values.items():
        if name not in law.names:
            raise UsageError(f"{law_name(law)} has no parameter {name!r}", where=where, fix=nearest(name, law.names))
        if np.isnan(np.asarray(value, dtype=float)).any():
            raise UsageError(f"{name} is NaN", where=where, fix="give numbers")


def check_gradient(law: Law, x: Columns, link: str, starts: Array) -> None:
    """UsageError where a law's gradient is not the slope of its prediction: a law of one's own that is not analytic."""
    theta = law.to_fitted(starts)[[len(starts) // 3, 2 * len(starts) // 3]]
    try:
        _, exact = law.jacobian(theta, x, link)
    except TypeError as error:
        raise UsageError(
            f"{law_name(law)} cannot take complex parameters ({error})", where="predict", fix=_ANALYTIC
        ) from error
    for j, name in enumerate(law.names):
        step = np.zeros_like(theta)
        step[:, j] = 1e-5 * np.maximum(1.0, np.abs(theta[:, j]))
        slope = (law.value(theta + step, x, link) - law.value(theta - step, x, link)) / (2 * step[:, [j]])
        used = np.isfinite(slope) & np.isfinite(exact[:, j])
        size = np.linalg.norm(slope[used])
        if size > 1e-6 and np.linalg.norm((exact[:, j] - slope)[used]) > 0.05 * size:
            raise UsageError(
                f"the gradient of {law_name(law)} by {name} is not its slope", where="predict", fix=_ANALYTIC
            )

"""From what a caller gives to the columns that a law reads: any table, renamed, as numbers, looked at before use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..core.cells import as_column
from ..core.errors import DataError, nearest
from ..core.table import Table
from .formula import Array, Formula, law_name


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


def columns_of(law: Formula, table: Table) -> dict[str, Array]:
    """What the law reads, plus C where the table has it (for extrapolation), as float64 (rows,)."""
    wanted = [*law.columns, *(["C"] if "C" in table and "C" not in law.columns else [])]
    return {name: table.numbers(name) for name in wanted}


def read_columns(law: Formula, table: Table, *, with_target: bool) -> Table:
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


def cluster_numbers(table: Table, name: str | None) -> Array | None:
    """Number of the cluster of each row, (rows,); None without a column that names them."""
    if not name:
        return None
    return np.asarray(np.unique(table.texts(name).astype(str), return_inverse=True)[1])


def cuts(axis: Array, shares: Sequence[float]) -> Array:
    """Ascending values of ``axis`` (rows,) up to each of which at least the given share of the rows lies."""
    order = np.sort(axis)
    return np.unique([order[max(0, int(np.ceil(share * len(order))) - 1)] for share in shares])

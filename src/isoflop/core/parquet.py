"""Tables as Parquet files, by pyarrow (the extra ``data``)."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from .errors import DataError, UsageError
from .files import publish_file
from .reading import read_bytes, user_path
from .table import Table


def read_parquet(path: str | Path) -> Table:
    """Read a Parquet file of plain columns: numbers, truth values, texts; a missing number is NaN.

    Raises:
        UsageError: pyarrow is not installed.
        DataError: no Parquet file, or a column that holds lists or tables.
    """
    path = user_path(path)
    parquet = _library(path)
    data = read_bytes(path)
    try:
        found = parquet.read_table(io.BytesIO(data))
    except Exception as error:  # the library has a family of its own, and system errors without a number
        raise DataError(f"cannot be read as a Parquet table ({_line(error)})", where=str(path)) from None
    if not found.num_rows:
        raise DataError("holds no rows", where=str(path), fix="at least one row is needed")
    if len(set(found.column_names)) < found.num_columns:
        raise DataError(f"repeats a column name ({', '.join(found.column_names)})", where=str(path))
    nested = [field.name for field in found.schema if field.type.num_fields]
    if nested:
        raise DataError(f"column {nested[0]} holds lists or tables", where=str(path), fix="leave it out, or unfold it")
    rows = {name: column.to_pylist() for name, column in zip(found.column_names, found.columns, strict=True)}
    return Table.from_records([dict(zip(rows, row, strict=True)) for row in zip(*rows.values(), strict=True)])


def write_parquet(table: Table, path: str | Path) -> None:
    """Write a table atomically; numbers keep all their digits, a missing one is null, other values become texts.

    Raises:
        UsageError: pyarrow is not installed.
        StorageError: the disk refused.
    """
    path = user_path(path)
    parquet = _library(path)
    import pyarrow

    columns = {name: _alike([_plain(value) for value in table[name].tolist()]) for name in table}
    with publish_file(path) as partial:
        parquet.write_table(pyarrow.table(columns), partial)


def _plain(value: Any) -> Any:
    """A value as Parquet can hold it."""
    if value is None or value != value:
        return None
    return value if isinstance(value, bool | int | float | str) else str(value)


def _alike(values: list[Any]) -> list[Any]:
    """Values of one kind, which Parquet's columns are of: texts, where they are of several or too long for 64 bits."""
    kinds = {type(value) for value in values if value is not None}
    long = any(isinstance(value, int) and not -(2**63) <= value < 2**63 for value in values)
    if not long and (len(kinds) < 2 or kinds == {int, float}):
        return [float(value) if kinds == {int, float} and value is not None else value for value in values]
    return [None if value is None else str(value) for value in values]


def _library(path: Path) -> Any:
    try:
        from pyarrow import parquet
    except ModuleNotFoundError:
        what = "Parquet files need the package pyarrow"
        raise UsageError(what, where=str(path), fix="pip install 'isoflop[data]', or use CSV") from None
    return parquet


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]

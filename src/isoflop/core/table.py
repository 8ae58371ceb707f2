"""A table: named columns of equal length, no more than laws, studies and reports need."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import DataError, nearest
from .files import write_atomic
from .reading import read_text, user_path

Column = npt.NDArray[Any]


class Table(Mapping[str, Column]):
    """An immutable mapping of column name to 1-D numpy array; all columns have one length.

    Any mapping of name to array is accepted.

    Raises:
        DataError: columns of different lengths, or a column that is not 1-D.
    """

    def __init__(self, columns: Mapping[str, Any]) -> None:
        self._columns: dict[str, Column] = {}
        for name in columns:
            array = np.asarray(columns[name])
            if array.ndim != 1:
                raise DataError(f"column {name} has shape {array.shape}, wanted one dimension", where="table")
            array = array.view()
            array.flags.writeable = False
            self._columns[str(name)] = array
        lengths = {len(array) for array in self._columns.values()}
        if len(lengths) > 1:
            sizes = ", ".join(f"{name} {len(array)}" for name, array in self._columns.items())
            raise DataError(f"columns differ in length ({sizes})", where="table")

    @classmethod
    def from_records(cls, records: Iterable[Mapping[str, Any]]) -> Table:
        """Rows to columns; a key that a row lacks becomes NaN (numbers) or None."""
        rows = list(records)
        names = list(dict.fromkeys(name for row in rows for name in row))
        columns: dict[str, Any] = {}
        for name in names:
            values = [row.get(name) for row in rows]
            numeric = all(
                isinstance(value, int | float) and not isinstance(value, bool) for value in values if value is not None
            )
            if numeric and None in values:
                values = [np.nan if value is None else value for value in values]
            columns[name] = np.asarray(values) if numeric else np.asarray(values, dtype=object)
        return cls(columns)

    @classmethod
    def read_csv(cls, path: str | Path) -> Table:
        """Read a CSV file with a header line; columns in which every entry is a number become float64."""
        path = user_path(path)
        try:
            rows = list(csv.reader(io.StringIO(read_text(path, pipe=True))))
        except csv.Error as error:
            raise DataError(f"cannot be read as a CSV table ({error})", where=str(path)) from error
        if len(rows) < 2:
            raise DataError("holds no rows", where=str(path), fix="a header line and at least one row are needed")
        header, body = rows[0], [row for row in rows[1:] if row]
        if len(set(header)) < len(header):
            raise DataError(f"repeats a column name ({', '.join(header)})", where=str(path))
        for number, row in enumerate(rows, 1):
            if row and len(row) != len(header):
                raise DataError(f"line {number} has {len(row)} fields, the header {len(header)}", where=str(path))
        return cls({name: _parse([row[i] for row in body]) for i, name in enumerate(header)})

    def to_csv(self, path: str | Path) -> None:
        """Write a CSV file atomically; floats keep all their digits."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self)
        writer.writerows(zip(*(column.tolist() for column in self._columns.values()), strict=True))
        write_atomic(user_path(path), text.getvalue())

    def __getitem__(self, name: str) -> Column:
        try:
            return self._columns[name]
        except KeyError:
            raise DataError(f"no column {name!r}", where="table", fix=nearest(name, self._columns)) from None

    def __contains__(self, name: object) -> bool:
        return name in self._columns

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        """The number of columns, as of any mapping; rows are counted by ``rows``."""
        return len(self._columns)

    @property
    def rows(self) -> int:
        return len(next(iter(self._columns.values()))) if self._columns else 0

    def where(self, mask: npt.ArrayLike) -> Table:
        """The rows at which the boolean ``mask`` (rows,) is true, or the rows of an index array, in order."""
        chosen = np.asarray(mask)
        return Table({name: column[chosen] for name, column in self._columns.items()})

    def rename(self, names: Mapping[str, str]) -> Table:
        """Columns renamed old -> new; an old name that is missing is a DataError."""
        for old in names:
            self[old]
        return Table({names.get(name, name): column for name, column in self._columns.items()})

    def with_columns(self, **columns: Any) -> Table:
        """Columns added or replaced."""
        return Table({**self._columns, **columns})

    def sort(self, *names: str) -> Table:
        """Rows in ascending order of the named columns, the first the most significant; stable."""
        return self.where(np.lexsort([self[name] for name in reversed(names)]))

    def groups(self, *names: str) -> Iterator[tuple[tuple[Any, ...], Table]]:
        """The tables of equal values in the named columns, in order of first appearance."""
        keys = list(zip(*(self[name].tolist() for name in names), strict=True))
        for key in dict.fromkeys(keys):
            yield key, self.where(np.asarray([k == key for k in keys], dtype=bool))

    def records(self) -> list[dict[str, Any]]:
        """Columns to rows of plain Python values."""
        lists = {name: column.tolist() for name, column in self._columns.items()}
        return [{name: lists[name][i] for name in lists} for i in range(self.rows)]

    def __repr__(self) -> str:
        return f"Table({self.rows} rows: {', '.join(self)})"


def _parse(entries: Sequence[str]) -> Column:
    try:
        return np.asarray([float(entry) if entry.strip() else np.nan for entry in entries])
    except ValueError:
        return np.asarray(entries, dtype=object)

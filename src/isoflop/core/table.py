"""A table: named columns of equal length, no more than laws, studies and reports need."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .cells import Column, as_column, as_float, as_text, number, parse, texts
from .errors import DataError, nearest
from .files import write_atomic
from .reading import read_text, user_path

_SHOWN = 40  # characters of a cell that an error quotes
_ONE_FIELD = "the first line must name the columns, separated by commas"
_MORE_FIELDS = "commas separate fields: write decimals with a point, and quote texts with commas"
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}


class Table(Mapping[str, Column]):
    """An immutable mapping of column name to 1-D numpy array; all columns have one length.

    Any mapping of name to array is accepted. A column is read in two ways: ``numbers`` for what is calculated,
    ``texts`` for what is only compared, as names of runs are.

    Args:
        columns: name -> values (rows,).
        written: name -> the texts (rows,) that columns had in a file, where there was one.

    Raises:
        DataError: columns of different lengths, or a column that is not 1-D.

    Example:
        >>> table = Table({"N": [1e6, 4e6, 4e6], "loss": [4.1, 3.2, 3.4]})
        >>> table.where(table["loss"] < 4).sort("loss").records()
        [{'N': 4000000.0, 'loss': 3.2}, {'N': 4000000.0, 'loss': 3.4}]
    """

    def __init__(self, columns: Mapping[str, Any], written: Mapping[str, Column] | None = None) -> None:
        self._columns: dict[str, Column] = {}
        if written is None:
            written = columns._written if isinstance(columns, Table) else {}
        self._written: dict[str, Column] = dict(written)
        for name in columns:
            array = as_column(columns[name], str(name)).view()
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
            columns[name] = values if numeric else np.asarray(values, dtype=object)
        return cls(columns)

    @classmethod
    def read_csv(cls, path: str | Path) -> Table:
        """Read a CSV file with a header line; blanks around names and cells are no part of them.

        A column becomes float64 if every entry is a number, an empty one NaN. A number is what prints back as itself:
        ``007``, ``1_1`` and ``4000e901`` are names, which stay text, and integers too long for a float64 stay exact.

        Raises:
            DataError: no CSV table; another delimiter than the comma is recognised and named.
        """
        path = user_path(path)
        try:
            rows = list(csv.reader(io.StringIO(read_text(path, pipe=True))))
        except csv.Error as error:
            raise DataError(f"cannot be read as a CSV table ({error})", where=str(path)) from error
        if rows and rows[0][:1] == ["sep="]:  # the line by which Excel is told that commas separate
            rows = rows[1:]
        if len(rows) < 2:
            raise DataError("holds no rows", where=str(path), fix="a header line and at least one row are needed")
        header, body = [name.strip() for name in rows[0]], [row for row in rows[1:] if row]
        _check_delimiter(header, path)
        if len(set(header)) < len(header):
            raise DataError(f"repeats a column name ({', '.join(header)})", where=str(path))
        for line, row in enumerate(rows, 1):
            if row and len(row) != len(header):
                raise DataError(
                    f"line {line} has {len(row)} fields, the header {len(header)}",
                    where=str(path),
                    fix=_ONE_FIELD if len(header) == 1 else _MORE_FIELDS,
                )
        told = {name: texts(row[i] for row in body) for i, name in enumerate(header)}
        written = {name: texts(entry.strip() for entry in entries) for name, entries in told.items()}
        return cls({name: parse(entries) for name, entries in told.items()}, written)

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
        return self._mapped(lambda column: column[chosen])

    def rename(self, names: Mapping[str, str]) -> Table:
        """Columns renamed old -> new; an old name that is missing is a DataError."""
        for old in names:
            self[old]
        written = {names.get(name, name): texts for name, texts in self._written.items()}
        return Table({names.get(name, name): column for name, column in self._columns.items()}, written)

    def select(self, names: Mapping[str, str] | Iterable[str]) -> Table:
        """Only the named columns; a mapping new -> old also renames, and may take a column twice."""
        chosen = names if isinstance(names, Mapping) else {name: name for name in names}
        written = {new: self._written[old] for new, old in chosen.items() if old in self._written}
        return Table({new: self[old] for new, old in chosen.items()}, written)

    def with_columns(self, **columns: Any) -> Table:
        """Columns added or replaced."""
        written = {name: texts for name, texts in self._written.items() if name not in columns}
        return Table({**self._columns, **columns}, written)

    def numbers(self, name: str) -> Column:
        """A column (rows,) to calculate with, as float64.

        Integers of any size are rounded, numbers that are still text are read, None is NaN.

        Raises:
            DataError: an entry that is no number; its row is named.
        """
        column = self[name]
        if column.dtype.kind in "iuf":
            return np.asarray(column, dtype=float)
        values = [as_float(entry) for entry in column.tolist()]
        if None in values:
            row = values.index(None)
            comma = re.fullmatch(r"[+-]?[0-9.]+,[0-9,.]+", str(column[row]).strip())
            raise DataError(
                f"column {name} is not numeric: row {row + 1} holds {repr(column[row])[:_SHOWN]}",
                where="table",
                fix="write decimals with a point, thousands without a sign" if comma else "repair it, or drop the row",
            )
        return np.asarray(values, dtype=float)

    def texts(self, name: str) -> Column:
        """A column (rows,) to compare: what stood in its file, else what Python prints; "" where missing."""
        column = self[name]
        return self._written[name] if name in self._written else texts(map(as_text, column.tolist()))

    def equal(self, name: str, text: str) -> Column:
        """Mask (rows,) of the rows whose entry is written ``text``.

        If there are none, of those that are the same number, where these are all written alike.
        """
        told, wanted, column = self.texts(name), number(text), self[name]
        same = np.asarray(told == text, dtype=bool)
        if same.any() or wanted is None or column.dtype.kind not in "iufO":
            return same
        equal = [isinstance(entry, int | float) and entry == wanted for entry in column.tolist()]
        return np.asarray(equal, dtype=bool) if len(set(told[equal])) == 1 else same

    def _mapped(self, function: Callable[[Column], Column]) -> Table:
        both = ({name: function(column) for name, column in part.items()} for part in (self._columns, self._written))
        return Table(*both)

    def sort(self, *names: str) -> Table:
        """Rows in ascending order of the named columns, the first the most significant; stable."""
        return self.where(np.lexsort([self[name] for name in reversed(names)]))

    def groups(self, *names: str) -> Iterator[tuple[tuple[Any, ...], Table]]:
        """The tables of equal values in the named columns, in order of first appearance."""
        rows: dict[tuple[Any, ...], list[int]] = {}
        for row, key in enumerate(zip(*(self[name].tolist() for name in names), strict=True)):
            rows.setdefault(key, []).append(row)
        for key, chosen in rows.items():
            yield key, self.where(np.asarray(chosen))

    def records(self) -> list[dict[str, Any]]:
        """Columns to rows of plain Python values."""
        lists = {name: column.tolist() for name, column in self._columns.items()}
        return [{name: lists[name][i] for name in lists} for i in range(self.rows)]

    def __repr__(self) -> str:
        return f"Table({self.rows} rows: {', '.join(self)})"


def _check_delimiter(header: Sequence[str], path: Path) -> None:
    for sign, name in _SEPARATORS.items():
        if len(header) == 1 and sign in header[0]:
            raise DataError(
                f"its header is one field: fields seem to be separated by {name}",
                where=str(path),
                fix="separate them by commas, and write decimals with a point",
            )

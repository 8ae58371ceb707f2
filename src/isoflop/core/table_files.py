"""Tables in files: ours, and those that other trackers export, in one form: a row a run, or a point of its curve."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .cells import parse, texts
from .errors import DataError, UsageError
from .parquet import read_parquet, write_parquet
from .reading import user_path
from .table import Table

_TENSORBOARD = {"Wall time", "Step", "Value"}
_DOWNLOAD = re.compile(r"run-(?P<run>.+?)-tag-(?P<tag>.+)")
_STEPS = ("Step", "_step", "Relative Time (Process)", "Relative Time (Wall)")
_BESIDE = ("__MIN", "__MAX")


def read_table(path: str | Path) -> Table:
    """Read a CSV or Parquet (``.parquet``) file; charts of Weights & Biases and TensorBoard become one row a point.

    A chart that W&B exports has a column ``RUN - METRIC`` for each run: it becomes the columns ``run``, ``Step`` and
    ``METRIC``. What TensorBoard downloads is one run's curve (``Wall time,Step,Value``): it gets a column ``run``, and
    the value's column the tag as its name, where the file's name tells them. Any other table stays as it is.

    Raises:
        DataError: the file cannot be read as a table of two columns at least.
        UsageError: a Parquet file, and pyarrow is not installed.

    Example:
        >>> _ = Path("chart.csv").write_text("Step,a - loss,a - loss__MIN,b - loss\\n1,4.0,4.0,5.0\\n2,3.0,3.0,\\n")
        >>> read_table("chart.csv").records()[-1]
        {'run': 'b', 'Step': 1.0, 'loss': 5.0}
    """
    path = user_path(path)
    table = read_parquet(path) if path.suffix == ".parquet" else Table.read_csv(path)
    if len(table) == 1:  # its name is not quoted: of a file that is no table it is the first line, whatever that says
        raise DataError("has a single column", where=str(path), fix="name a table: nothing follows from one column")
    if set(table) == _TENSORBOARD:
        return _of_tensorboard(table, path)
    return _of_chart(table) or table


def write_table(table: Table, path: str | Path) -> None:
    """Write a CSV or Parquet (``.parquet``) file atomically.

    Raises:
        UsageError: it is to be neither, or Parquet, and pyarrow is not installed.
        StorageError: the disk refused.

    Example:
        >>> write_table(Table({"step": [10, 20], "loss": [3.0, 2.5]}), "curve.csv")
        >>> read_table("curve.csv")["loss"].tolist()
        [3.0, 2.5]
    """
    path = user_path(path)
    if path.suffix == ".parquet":
        write_parquet(table, path)
    elif path.suffix == ".csv":
        table.to_csv(path)
    else:
        raise UsageError(f"tables end in .csv or .parquet, not in {path.suffix!r}", where=str(path))


def _of_tensorboard(table: Table, path: Path) -> Table:
    found = _DOWNLOAD.fullmatch(path.stem)
    run, tag = (found["run"], found["tag"]) if found else (path.stem, "Value")
    named = table.rename({"Value": tag}) if tag not in table else table
    return named.with_columns(run=np.asarray([run] * table.rows, dtype=object))


def _of_chart(table: Table) -> Table | None:
    """The points of a chart of W&B, one row each; None if the table is none."""
    names = [name for name in table if not name.endswith(_BESIDE)]
    axis = next((name for name in _STEPS if name in names), None)
    curves = [name for name in names if name != axis]
    if axis is None or not curves or not all(" - " in name for name in curves):
        return None
    rows: list[dict[str, Any]] = []
    for name in curves:
        run, _, metric = name.rpartition(" - ")
        places, values = table.numbers(axis).tolist(), table.numbers(name).tolist()
        points = zip(places, values, strict=True)
        rows += [{"run": run, axis: at, metric: value} for at, value in points if value == value]
    if not rows:
        raise DataError("its curves hold no point", where="table", fix="export the chart again with its runs shown")
    return Table.from_records(rows)


def joined(tables: Sequence[Table]) -> Table:
    """The rows of several tables, one after another; a column that a table lacks is missing there.

    Example:
        >>> joined([Table({"run": ["a"], "loss": [2.0]}), Table({"run": ["b"], "loss": [3.0]})])["run"].tolist()
        ['a', 'b']
    """
    if len(tables) == 1:
        return tables[0]
    return Table.from_records(row for table in tables for row in table.records())


def named_by(table: Table, pattern: str, column: str = "run") -> Table:
    """The table with columns that the names of runs tell.

    Args:
        table: with a column of names.
        pattern: how they are made up, e.g. ``{arm}-{rung}-s{seed}``.
        column: that of the names.

    Raises:
        UsageError: the pattern is none, or a name is not of its form.

    Example:
        >>> named = named_by(Table({"run": ["adamw-2-s1", "muon-0-s3"]}), "{arm}-{rung}-s{seed}")
        >>> named["arm"].tolist(), named["seed"].tolist()
        (['adamw', 'muon'], [1.0, 3.0])
    """
    pieces = re.split(r"\{(\w+)\}", pattern)
    keys = pieces[1::2]
    if not keys or len(set(keys)) < len(keys) or column not in table:
        what = f"no column {column!r} holds names" if keys and column not in table else f"{pattern!r} is no pattern"
        raise UsageError(what, where="--names", fix="write each part of a name once, e.g. '{arm}-s{seed}'")
    form = re.compile("".join(f"(?P<{piece}>.+)" if i % 2 else re.escape(piece) for i, piece in enumerate(pieces)))
    found: dict[str, list[str]] = {key: [] for key in keys}
    for name in table.texts(column).tolist():
        told = form.fullmatch(name)
        if told is None:
            raise UsageError(
                f"the name {name!r} is not of the form {pattern!r}", where="--names", fix="leave it out: --where"
            )
        for key in keys:
            found[key].append(told[key])
    return table.with_columns(**{key: parse(texts(values)) for key, values in found.items()})

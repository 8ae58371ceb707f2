"""The curves of all stored runs as one table, for whatever program."""

from __future__ import annotations

from pathlib import Path

from ..core.errors import DataError
from ..core.reading import user_path
from ..core.table import Table
from .names import printable
from .records import numbers
from .run import Run, run_directories


def curves_table(root: str | Path, *, kind: str | None = None) -> Table:
    """A row for each recorded step and evaluation of each run below a root, in order.

    Columns are ``run`` (its directory), ``kind`` ("step" or "evaluation"), ``step``, and every number that a run
    recorded by its place: ``loss``, ``flops``, ``value``, ``metrics/bits_per_byte/stderr`` ... Those that a record does
    not have are NaN. Directories that cannot be read are left out.

    Args:
        root: directory of runs.
        kind: only records of this kind.

    Raises:
        DataError: no run has recorded anything.

    Example, with ``recipe`` a recipe of nine steps:
        >>> run = Run.open("runs", recipe)
        >>> run.record("step", step=1, loss=5.5)
        >>> curves_table("runs")["loss"].tolist()
        [5.5]
    """
    root = user_path(root)
    rows = []
    for directory in run_directories(root):
        try:
            records = Run.read(directory).metrics(kind)
        except DataError:
            continue
        name = printable(directory.name)
        rows += [{"run": name, "kind": record.get("kind"), **dict(numbers(record))} for record in records]
    if not rows:
        raise DataError("no run has recorded anything", where=str(root), fix="choose another --root, or train one")
    return Table.from_records(rows)

"""Stored runs as the table that a scaling law is fitted to."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import DataError, IsoflopError, UsageError
from ..core.reading import user_path
from ..core.roles import numel
from ..core.scale import Scale
from ..core.table import Table
from .index import runs
from .records import scale_of
from .results import STUDY, StudyResult
from .run import Run

_ALIKE = ("source", "tokenizer")  # what must not differ between losses of one law


def runs_table(directory: str | Path) -> Table:
    """One row a finished run: C (training FLOPs), D (tokens), loss (the run's value, in its metric's unit), and names.

    A value of which more is better is no loss: its column is named ``value``.

    A study's directory gives the ends of its evaluation runs, with ``arm``, ``rung`` and ``seed``; a root of runs its
    finished ones, with ``name``, ``optimizer`` and, where every stored recipe still tells it, N (parameters).

    ``isoflop fit runs`` fits laws to this table.

    Raises:
        DataError: no finished run.
        UsageError: runs on different data, or of different metrics.

    Example, with ``recipe`` a recipe of nine steps:
        >>> from isoflop.store.run import Run
        >>> run = Run.open("runs", recipe)
        >>> run.write_result({"status": "done", "value": 2.1, "flops": 10**12, "tokens": 10**6})
        >>> run.set_status("done")
        >>> runs_table("runs").rows
        1
    """
    directory = user_path(directory)
    return _of_study(directory) if os.path.lexists(directory / STUDY) else _of_root(directory)


def _of_study(directory: Path) -> Table:
    result = StudyResult.read(directory / STUDY)
    points, names = result.table(), _names(result.scale)
    ends = {row["run"]: row for row in points.records() if row["role"] == "evaluation"}  # the last point of each
    if not ends:
        raise DataError("holds no finished evaluation run", where=str(directory))
    kept = ("arm", "rung", "seed", "run", *names)
    return Table.from_records({names.get(key, key): row[key] for key in kept} for row in ends.values())


def _of_root(root: Path) -> Table:
    found = runs(root, status="done").records()
    if not found:
        raise DataError("holds no finished run and no study", where=str(root), fix="name a root, or a CSV file")
    stored = [Run.read(root / row["path"]) for row in found]
    _same_measure(stored, root)
    names = _names(scale_of(stored[0].result))
    table = Table.from_records(
        {"name": row["name"], "optimizer": row["optimizer"]} | {new: row[old] for old, new in names.items()}
        for row in found
    )
    sizes = [_parameters(run) for run in stored]
    return table if None in sizes else table.with_columns(N=np.asarray(sizes, dtype=float))


def _names(scale: Scale) -> dict[str, str]:
    """What a run's figures are called where laws are fitted to them."""
    return {"flops": "C", "tokens": "D", "value": "value" if scale.higher_is_better else "loss"}


def _same_measure(stored: list[Run], root: Path) -> None:
    for key in (*_ALIKE, "metrics"):
        told: dict[str, str] = {}
        for run in stored:
            value: Any = run.resolved.get(key)
            first = value[0] if key == "metrics" and value else value  # the first metric is the run's value
            told.setdefault(json.dumps(first, sort_keys=True), run.path.name)
        if len(told) > 1:
            raise UsageError(
                f"the losses of {' and '.join(list(told.values())[:2])} differ in {key}: one law cannot hold for both",
                where=str(root),
                fix="keep one sweep a root",
            )


def _parameters(run: Run) -> int | None:
    """Parameters of the model of a stored recipe; None where this version cannot read it."""
    try:
        return numel(run.recipe.model.shapes(run.recipe.vocab_size))
    except IsoflopError:
        return None

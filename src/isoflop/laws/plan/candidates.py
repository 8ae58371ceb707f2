"""From files to a design: a pool and a target as tables, a law by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast, get_args

from ...core.errors import UsageError, nearest
from ...core.table import Table
from ...core.table_files import read_table
from ..tables import as_table, rename
from ..verb import law_named
from .design import Criterion
from .next_runs import Choice, Pool, next_runs, pool_of
from .rehearsal import Rehearsal, rehearse

Source = str | Path | Mapping[str, Any]


def next_from(
    pool: Source,
    target: Source,
    law: str,
    cost: str | None = None,
    columns: Mapping[str, str] | None = None,
    budget: float = 0.1,
    step: float = 0.05,
    criterion: str = "target",
) -> Choice:
    """The next runs of a pool.

    Args:
        pool: path of a CSV file, or a table: the law's columns, costs, and results where runs are made (else empty).
        target: the law's columns of what is to be predicted.
        law: its name.
        cost: column of costs.
        columns: the law's column name -> the tables'.
        budget: share of the pool's cost, spent runs counted.
        step: share of the budget to be spent before asking again.
        criterion: target, information, balanced or drawn.

    Raises:
        DataError, UsageError: see ``pool_of`` and ``next_runs``.

    Example, with ``sweep`` a table of N, D and loss:
        >>> unmade = sweep.with_columns(loss=[float("nan")] * 64)
        >>> next_from(unmade, {"N": [2e10], "D": [4e11]}, "chinchilla").budget
        0.1
    """
    asked = _criterion(criterion)
    return next_runs(_pool(pool, target, law, cost, columns, measured=False)[0], budget, step=step, criterion=asked)


def rehearse_from(
    pool: Source,
    target: Source,
    law: str,
    cost: str | None = None,
    columns: Mapping[str, str] | None = None,
    budget: float = 0.1,
    step: float = 0.05,
    criterion: str = "target",
) -> Rehearsal:
    """The design played on a pool and a target whose results are all known (arguments as of ``next_from``).

    Raises:
        DataError, UsageError: see ``pool_of`` and ``rehearse``.

    Example, with ``sweep`` a table of N, D and loss:
        >>> played = rehearse_from(sweep, sweep.where(sweep["N"] > 4e9), "chinchilla", budget=0.2, step=0.5)
        >>> played.spent <= 0.2, played.error < 0.05
        (True, True)
    """
    asked = _criterion(criterion)
    made, aims = _pool(pool, target, law, cost, columns, measured=True)
    return rehearse(made, aims.numbers(made.law.target), budget, step=step, criterion=asked)


def _criterion(name: str) -> Criterion:
    if name not in get_args(Criterion):
        raise UsageError(f"no criterion is named {name!r}", where="--criterion", fix=nearest(name, get_args(Criterion)))
    return cast(Criterion, name)


def _pool(
    pool: Source, target: Source, law: str, cost: str | None, columns: Mapping[str, str] | None, *, measured: bool
) -> tuple[Pool, Table]:
    candidates, aims = (_table(source, columns or {}) for source in (pool, target))
    return pool_of(law_named(law), candidates, aims, cost, measured=measured), aims


def _table(source: Source, columns: Mapping[str, str]) -> Table:
    """A table with the law's names; results may be missing in it, and a renamed column too."""
    table = read_table(source) if isinstance(source, str | Path) else as_table(source)
    return rename(table, {new: old for new, old in columns.items() if old in table})

"""What a fit is asked for: its prediction at sizes that were not run, with an interval, and how far beyond that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..core.errors import NumericsError, UsageError, nearest
from ..core.files import jsonable
from ..store.fits import Row
from .extrapolate import predict_interval
from .fit import Solved
from .formula import law_name


def predictions(fit: Solved, asked: Sequence[Mapping[str, float]], level: float = 0.9) -> list[Row]:
    """A row for each question: the law's columns, ``predicted`` with ``low`` and ``high``, and ``times``.

    Args:
        fit: the fit.
        asked: each the value of every column of the law, under its name or the table's, in units of one.
        level: of the intervals, a share.

    Returns:
        Rows in the order of the questions; ``times`` is their compute in that of the dearest row.

    Raises:
        UsageError: a column is missing, or is none of the law's.
        NumericsError: the fit did not converge.
        DataError: a value that is not positive where the law wants it.

    Example, with ``sweep`` a table of N, D and loss:
        >>> from isoflop.laws import Chinchilla
        >>> (row,) = predictions(Chinchilla().fit(sweep), [{"N": 7e10, "D": 1.4e12}])
        >>> round(row["low"], 3), round(row["predicted"], 3), round(row["high"], 3)
        (1.828, 1.974, 2.132)
    """
    if not fit.converged:
        raise NumericsError(f"{law_name(fit.law)} did not converge, so that it predicts nothing", where="--predict")
    if not asked:
        return []
    points = [_named(fit, question) for question in asked]
    columns = {name: np.array([point[name] for point in points]) for name in fit.law.columns}
    found = predict_interval(fit, columns, level)
    times = fit.law.compute(columns) / fit.law.compute(fit.problem.x).max()
    rows = {**columns, "predicted": found.value, "low": found.low, "high": found.high, "times": times}
    return [{name: jsonable(float(values[i])) for name, values in rows.items()} for i in range(len(points))]


def told(fit: Solved, rows: Sequence[Row], level: float) -> str:
    """Predictions as text, a line each."""
    lines = []
    for row in rows:
        place = ", ".join(f"{name}={row[name]:g}" for name in fit.law.columns)
        low, high = (_number(row[end]) for end in ("low", "high"))
        times = row["times"] or 0.0
        far = f"; {times:.3g} times the compute of the dearest row" if times > 1 else ""
        lines.append(
            f"{fit.law.target} at {place}: {_number(row['predicted'])} [{low}, {high}] at {100 * level:g} %{far}"
        )
    return "\n".join(lines)


def _named(fit: Solved, question: Mapping[str, float]) -> dict[str, float]:
    """A question under the law's names for columns."""
    theirs = {old: new for new, old in fit.settings.columns.items() if new in fit.law.columns}
    point = {name if name in fit.law.columns else theirs.get(name, name): value for name, value in question.items()}
    example = ",".join(f"{name}=..." for name in fit.law.columns)
    for name in point:
        if name not in fit.law.columns:
            fix = f"{nearest(name, fit.law.columns)}; give {example}"
            raise UsageError(f"{law_name(fit.law)} has no column {name!r}", where="--predict", fix=fix)
    if missing := [name for name in fit.law.columns if name not in point]:
        what = f"{law_name(fit.law)} predicts from {', '.join(fit.law.columns)}; {', '.join(missing)} is missing"
        raise UsageError(what, where="--predict", fix=f"give {example}")
    return point


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"

"""The score that a compute attains: a high quantile over models, which models lie above it, and whether it lasts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.stats import binomtest

from ...core.errors import DataError, UsageError
from ..formula import Array, law_name
from ..tables import as_table
from .answer import Answer, Figure, digits, figure
from .batch import inside
from .draws import Basis
from .limits import check_positive
from .verb import fit_from

# As many as one reads.
_NAMED = 5

# Stretches of time with equally many rows: the frontier of all earlier ones is held against each but the first.
_STRETCHES = 5


def score(basis: Basis, compute: float, names: Sequence[str] = ()) -> Answer:
    """The attainable score at C.

    Args:
        basis: a fit of ``frontier``, with its draws.
        compute: pre-training FLOPs.
        names: of the fitted rows, (n,): those furthest above the frontier are named.

    Raises:
        UsageError: another law; a compute that is not positive, or too far outside the rows.

    Example, with ``basis(law)`` the draws of a fit:
        >>> made = score(basis("frontier"), 1e24)["score"]
        >>> round(made.value, 2), made.low < made.value < made.high
        (0.67, True)
    """
    fit = basis.fit
    if law_name(fit.law) != "frontier":
        raise UsageError(f"{law_name(fit.law)} is no frontier of scores", where="plan", fix="fit frontier")
    check_positive(compute=compute)
    warnings, end = inside(fit, {"C": compute})
    values = fit.law.value(basis.theta, {"C": np.asarray([compute])}, fit.problem.link)[:, 0]
    quantile = fit.settings.tau
    excess = fit.problem.y - fit.predict(fit.table)
    above = excess > 0
    reached = f"{100 * float(np.mean(~above)):.3g} % of the rows lie below, {100 * quantile:.3g} % were asked for"
    order = np.argsort(-excess)[: min(_NAMED, int(above.sum()))]
    at = fit.problem.x["C"]
    best = [f"above it: {names[i]} (+{excess[i]:.3g} at C {digits(at[i])})" for i in order if len(names)]
    found = figure("score", values, basis.level, note=reached, log=False)
    said = (
        "models of later dates are drawn like those of the table; the date drift is not in the interval (see --dates)"
    )
    question = f"score that {100 * quantile:g} % of models of C = {digits(compute)} FLOPs stay below"
    return Answer(question, (found,), said, end, basis.level, None, (*warnings, *basis.vague, *best))


def later(rows: Mapping[str, Any], dates: str, columns: Mapping[str, str] | None = None, level: float = 0.9) -> Answer:
    """How many of later models stay below the frontier of earlier ones: whether a score attained today is tomorrow's.

    The rows are cut by date into five stretches of about as many rows. The frontier of all rows before a stretch is
    fitted, and the share of the stretch's rows that lie on or below it is to be the fit's quantile.

    Args:
        rows: C, score, and the column of dates.
        dates: that column: ISO 8601, e.g. 2025-03-31, with or without a time.
        columns: the law's column name -> the table's.
        level: level of the intervals (Wilson's, of a share), a share.

    Raises:
        DataError: a date that cannot be read, dates with fewer than five stretches, or rows that no law is fitted to.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> c = 10 ** rng.uniform(21, 25, 200)
        >>> day = [f"2025-{1 + i // 20:02}-{1 + i % 20:02}" for i in range(200)]
        >>> made = later({"C": c, "score": 0.1 * rng.random(200), "day": day}, "day")
        >>> made.figures[0].name, made.warnings  # it stands still
        ('after 2025-02-20', ())
    """
    table = as_table(rows)
    when = _days(table.texts(dates).tolist(), dates)
    ends = np.sort(when)[[len(when) * (i + 1) // _STRETCHES - 1 for i in range(_STRETCHES)]]
    if len(np.unique(ends)) < _STRETCHES:
        raise DataError(f"has too few dates for {_STRETCHES} stretches", where=dates, fix="give days, not years")
    figures, quantile = [], 0.0
    for last, end in pairwise(ends):
        fit = fit_from(table.where(when <= last), "frontier", None, columns)
        now, quantile = table.where((when > last) & (when <= end)), fit.settings.tau
        given = {name: (columns or {}).get(name, name) for name in ("C", "score")}
        below = now[given["score"]] <= fit.predict({"C": now[given["C"]]})
        count, there = int(below.sum()), len(below)
        low, high = binomtest(count, there).proportion_ci(level, method="wilson")
        seen = f"{there - count} of {there} rows above; {quantile:g} was asked for"
        figures.append(Figure(f"after {last}", count / there, float(low), float(high), note=seen))
    off = [figure for figure in figures if not figure.low <= quantile <= figure.high]
    worst = [f"the frontier moved: it held {100 * f.value:.3g} % {f.name}, not {100 * quantile:g} %" for f in off]
    question = "share of later models below the frontier of all earlier ones"
    said = "rows of one stretch are independent; many models of one family are not"
    return Answer(question, tuple(figures), said, f"the last date, {ends[-1]}", level, None, tuple(worst))


def _days(texts: Sequence[str], column: str) -> Array:
    """Dates as days."""
    found = []
    for row, text in enumerate(texts, 1):
        try:
            found.append(datetime.fromisoformat(text.strip()).date())
        except ValueError:
            fix = "write days as 2025-03-31"
            raise DataError(f"row {row}: {text!r} is no date", where=column, fix=fix) from None
    return np.asarray(found, "datetime64[D]")

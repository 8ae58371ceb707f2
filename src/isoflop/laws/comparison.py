"""Laws ranked by what they are for: fitted below a cut in compute, asked for what lies above it, cut after cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import stats

from ..core.errors import DataError, IsoflopError, UsageError, nearest
from ..core.significance import holm
from ..core.table import Table
from .arguments import check_level
from .extrapolate import predict_interval
from .fit import Solved, fit_law
from .formula import Array, Formula, law_name
from .tables import attach, check_finite, cuts, rename

SHARES = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Default cuts: the compute below which these shares of the rows lie."""


@dataclass(frozen=True)
class Forecast:
    """One law fitted to the rows up to a cut, and its predictions of those above.

    Attributes:
        cut: the value of the cuts' column up to which rows were fitted.
        rows: indices (m,) of the rows above.
        observed: their targets (m,).
        predicted: predictions (m,).
        low: lower ends (m,) of the prediction intervals.
        high: upper ends (m,).
        compute: the rows' values (m,) of the cuts' column.

    Example:
        >>> one = Forecast(1e20, *map(np.asarray, ([7], [2.0], [2.1], [1.9], [2.3], [1e21])))
        >>> one.error.round(3).tolist(), one.inside.tolist(), one.miss.tolist()
        ([0.05], [True], [0.0])
    """

    cut: float
    rows: Array
    observed: Array
    predicted: Array
    low: Array
    high: Array
    compute: Array

    @property
    def error(self) -> Array:
        """Relative errors (m,), signed."""
        return np.asarray(self.predicted / self.observed - 1.0)

    @property
    def inside(self) -> Array:
        """Whether the observations lie in their intervals, (m,) booleans."""
        return np.asarray((self.low <= self.observed) & (self.observed <= self.high))

    @property
    def width(self) -> Array:
        """Widths (m,) of the intervals, relative to the observation."""
        return np.asarray((self.high - self.low) / np.abs(self.observed))

    @property
    def miss(self) -> Array:
        """How far (m,) the observations lie outside their intervals, relative to the observation."""
        outside = np.maximum(self.low - self.observed, 0) + np.maximum(self.observed - self.high, 0)
        return np.asarray(outside / np.abs(self.observed))


@dataclass(frozen=True)
class Score:
    """What a law's forecasts are worth, each cut weighing the same.

    Attributes:
        error: mean |predicted / observed - 1|.
        bias: mean signed relative error.
        coverage: share of observations inside their interval.
        width: mean interval width, relative to the observation.
        interval_score: width plus (2 / (1 - level)) times the miss (Gneiting & Raftery 2007), relative.
        fit_error: mean relative error inside the last fit: for the record, never for ranking.
        p: Holm-adjusted p-value of the paired test against the best law; None for the best, or where not testable.
        failed: why the law has no forecasts.

    Example, with ``sweep`` a table of N, D and loss:
        >>> from isoflop.laws import Chinchilla
        >>> first = compare(sweep, [Chinchilla()], cutoffs=[1e20, 1e21]).scores[0]
        >>> first.law, first.cuts, first.error < 0.01, first.p is None
        ('chinchilla', 2, True, True)
    """

    law: str
    error: float
    bias: float
    coverage: float
    width: float
    interval_score: float
    fit_error: float
    cuts: int
    p: float | None = None
    failed: str = ""


@dataclass(frozen=True)
class Comparison:
    """Scores, best extrapolation first; laws that could not be fitted last. ``forecasts`` by law name.

    ``best`` predicts best; whether it is the only one left is said by the others' p-values.

    Example, with ``sweep`` a table of N, D and loss:
        >>> from isoflop.laws import Chinchilla, Overtraining
        >>> ranked = compare(sweep, [Overtraining(), Chinchilla()], cutoffs=[1e20, 1e21])
        >>> ranked.best, len(ranked.forecasts["overtraining"])
        ('chinchilla', 2)
    """

    scores: tuple[Score, ...]
    forecasts: Mapping[str, tuple[Forecast, ...]]
    level: float

    @property
    def best(self) -> str:
        return self.scores[0].law

    def __str__(self) -> str:
        head = (
            f"{'law':<20}{'error %':>9}{'bias %':>9}{'cover %':>9}{'width %':>9}{'score %':>9}{'in-fit %':>10}{'p':>8}"
        )
        lines = [f"extrapolation from {self.scores[0].cuts} cuts, {100 * self.level:g} % intervals", head]
        for s in self.scores:
            if s.failed:
                lines.append(f"{s.law:<20} {s.failed}")
                continue
            numbers = (s.error, s.bias, s.coverage, s.width, s.interval_score)
            p = "" if s.p is None else f"{s.p:.3f}"
            lines.append(
                f"{s.law:<20}" + "".join(f"{100 * v:9.3f}" for v in numbers) + f"{100 * s.fit_error:10.3f}{p:>8}"
            )
        return "\n".join(lines)


def forecasts(
    law: Formula,
    table: Mapping[str, Any],
    *,
    by: str | None = None,
    cutoffs: Sequence[float] | None = None,
    level: float = 0.9,
    interval: Mapping[str, float] | None = None,
    **settings: Any,
) -> tuple[tuple[Forecast, ...], Solved]:
    """Rolling forecasts of one law, and its last fit.

    Args:
        law: the law.
        table: any mapping of column name to array (rows,).
        by: column of the cuts; default the law's compute (C, else 6 N D).
        cutoffs: values of ``by``: rows up to one are fitted, those above forecast. Default: ``SHARES`` of the rows.
        level: level of the prediction intervals, a share.
        interval: keywords of ``extrapolate.predict_interval``.
        settings: fields of ``Settings``.

    Raises:
        DataError: no such column, one that is not finite, or no cut that leaves enough rows to fit and any to forecast.
        UsageError: cutoffs that are no numbers.
    """
    known, settings = attach(table, settings)
    columns = dict(settings.pop("columns", None) or {})
    known = law.prepare(rename(known, columns) if columns else known)
    axis = _axis(law, known, by)
    if cutoffs is None:
        cutoffs = cuts(axis, SHARES).tolist()
    y = known.numbers(law.target)
    if (y == 0).any():
        raise DataError(
            f"column {law.target} is 0 in row {int(np.argmax(y == 0)) + 1}: no relative error, by which laws rank",
            where="compare",
            fix="drop those rows, or compare by what is never 0",
        )
    out: list[Forecast] = []
    last: Solved | None = None
    problem = ""
    _check_cutoffs(cutoffs)
    for cut in cutoffs:
        edge = cut + 1e-9 * abs(cut)
        below, above = axis <= edge, axis > edge
        if not above.any():
            continue
        try:
            fit = fit_law(law, known.where(below), **settings)
        except IsoflopError as error:  # too few rows below this cut
            problem = str(error)
            continue
        if fit.degrees_of_freedom < 1 and not law.likelihood:
            problem = f"{fit.rows} rows below {cut:g} for {len(fit.problem.free)} constants"
            continue
        ahead = known.where(above)
        prediction = predict_interval(fit, ahead, level, **(interval or {}))
        rows = np.flatnonzero(above)
        out.append(Forecast(cut, rows, y[above], prediction.value, prediction.low, prediction.high, axis[above]))
        last = fit
    if last is None:
        raise DataError(
            f"{law_name(law)} can be fitted below no cut ({problem})",
            where="compare",
            fix="give lower cutoffs or more runs",
        )
    return tuple(out), last


def score(law: str, forecasts: Sequence[Forecast], fit: Solved, level: float) -> Score:
    """The means over cuts of a law's forecasts.

    Args:
        law: the law's name, as it is printed.
        forecasts: its forecasts, one a cut.
        fit: its last fit, whose error inside the fit is recorded.
        level: level of the forecasts' intervals, a share.
    """
    rows = [
        [
            np.mean(np.abs(forecast.error)),
            np.mean(forecast.error),
            np.mean(forecast.inside),
            np.mean(forecast.width),
            np.mean(forecast.width + 2 / (1 - level) * forecast.miss),
        ]
        for forecast in forecasts
    ]
    means = np.mean(rows, axis=0).tolist()
    observed = fit.table.numbers(fit.law.target)
    inner = float(np.mean(np.abs(fit.predict(fit.table) / observed - 1.0)))
    error, bias, coverage, width, interval_score = means
    return Score(law, error, bias, coverage, width, interval_score, fit_error=inner, cuts=len(forecasts))


def compare(
    table: Mapping[str, Any],
    laws: Sequence[Formula],
    *,
    by: str | None = None,
    cutoffs: Sequence[float] | None = None,
    level: float = 0.9,
    **settings: Any,
) -> Comparison:
    """Rank laws that predict one column of one table by the error of their rolling forecasts.

    A law that fits better is no better law: more constants fit anything. This ranks by what laws are for, runs dearer
    than those they were fitted to, and says where the difference is within the noise.

    Args:
        table: any mapping of column name to array (rows,).
        laws: the laws, all of one target.
        by: column of the cuts; default each law's compute (C, else 6 N D).
        cutoffs: values of ``by``: rows up to one are fitted, those above forecast. Default: ``SHARES`` of the rows.
        level: level of the prediction intervals, a share.
        settings: fields of ``Settings``, for all laws.

    Raises:
        UsageError: no laws, or laws of different targets.
        DataError: none of them could be fitted below any cut.

    Example, with ``sweep`` a table of N, D and loss:
        >>> from isoflop.laws import Chinchilla, Overtraining
        >>> scores = compare(sweep, [Overtraining(), Chinchilla()], cutoffs=[1e20, 1e21]).scores
        >>> [score.law for score in scores], scores[0].error < scores[1].error
        (['chinchilla', 'overtraining'], True)
    """
    check_level(level)
    _check_cutoffs(cutoffs or ())
    if not laws or len({law.target for law in laws}) > 1:
        raise UsageError(
            "laws of one target are compared", where="compare", fix="give at least one, all of the same column"
        )
    names = _distinct([law_name(law) for law in laws])
    by_law: dict[str, tuple[Forecast, ...]] = {}
    fits: dict[str, Solved] = {}
    failed = []
    for name, law in zip(names, laws, strict=True):
        try:
            by_law[name], fits[name] = forecasts(law, table, by=by, cutoffs=cutoffs, level=level, **settings)
        except IsoflopError as error:
            none = float("nan")
            failed.append(Score(name, none, none, none, none, none, none, cuts=0, failed=str(error)))
    if not by_law:
        raise DataError(f"no law could be compared ({failed[0].failed})", where="compare")
    common = set.intersection(*({f.cut for f in made} for made in by_law.values()))
    if not common:
        raise DataError("no cut is common to all laws", where="compare", fix="give cutoffs, or compare fewer laws")
    scores = [score(name, [f for f in by_law[name] if f.cut in common], fits[name], level) for name in by_law]
    scores.sort(key=lambda s: np.inf if np.isnan(s.error) else s.error)
    return Comparison(tuple(_tested(scores, by_law, common)) + tuple(failed), by_law, level)


def _tested(scores: Sequence[Score], by_law: Mapping[str, Sequence[Forecast]], cuts: set[float]) -> list[Score]:
    """Paired t-tests of |relative error| against the best law; rows of equal compute are one block, not many."""
    best = _by_row(by_law[scores[0].law], cuts)
    p_values: list[float | None] = []
    for s in scores[1:]:
        mine = _by_row(by_law[s.law], cuts)
        blocks: dict[float, list[float]] = {}
        for row in mine.keys() & best.keys():
            blocks.setdefault(round(float(np.log(mine[row][1])), 6), []).append(mine[row][0] - best[row][0])
        means = [float(np.mean(v)) for v in blocks.values()]
        testable = len(means) >= 3 and bool(np.isfinite(means).all()) and np.ptp(means) > 0
        p_values.append(float(stats.ttest_1samp(means, 0.0).pvalue) if testable else None)
    adjusted = holm(p_values)
    return [scores[0], *(replace(s, p=p) for s, p in zip(scores[1:], adjusted, strict=True))]


def _by_row(forecasts: Sequence[Forecast], cuts: set[float]) -> dict[int, tuple[float, float]]:
    """Row -> (mean |relative error| over the cuts, compute)."""
    errors: dict[int, list[float]] = {}
    compute: dict[int, float] = {}
    for f in forecasts:
        if f.cut in cuts:
            for row, error, axis in zip(f.rows.tolist(), np.abs(f.error).tolist(), f.compute.tolist(), strict=True):
                errors.setdefault(row, []).append(error)
                compute[row] = axis
    return {row: (float(np.mean(v)), compute[row]) for row, v in errors.items()}


def _axis(law: Formula, table: Table, by: str | None) -> Array:
    """What cuts are made along, (rows,): the column ``by``, else the law's compute."""
    if by is None:
        known = [name for name in (*law.columns, "C") if name in table]
        axis = law.compute({name: table.numbers(name) for name in known})
    elif by in table:
        axis = table.numbers(by)
    else:
        raise DataError(f"no column {by!r}", where="by", fix=nearest(by, table))
    check_finite(by or "of compute", axis, fix="drop those rows, or cut along another column")
    return axis


def _check_cutoffs(cutoffs: Sequence[float]) -> None:
    if not np.isfinite(np.asarray(cutoffs, dtype=float)).all():
        raise UsageError("cutoffs must be finite numbers", where="compare", fix="give values of the column of the cuts")


def _distinct(names: Sequence[str]) -> list[str]:
    seen: dict[str, int] = {}
    out = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        out.append(name if seen[name] == 1 else f"{name} {seen[name]}")
    return out

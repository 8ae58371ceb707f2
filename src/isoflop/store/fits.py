"""The stored fit of a scaling law: written by ``laws``, read by ``report`` and by anybody's notebook.

JSON has no infinity: a number without bound, like an interval's open end, is null.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, PositiveFloat

from ..core.documents import Frozen

FIT = "fit.json"
FORMAT: Literal["isoflop.fit/1"] = "isoflop.fit/1"
Row = dict[str, float | None]


class StoredInterval(Frozen):
    """A constant's interval; an end that is None is open.

    Example:
        >>> StoredInterval(low=0.3, high=None, level=0.95, verdict="unidentified", reason="flat upward").high is None
        True
    """

    low: float | None
    high: float | None
    level: float
    verdict: Literal["identified", "unidentified"]
    reason: str
    """Why the rows do not determine the constant."""


class StoredCertificate(Frozen):
    """How far the optimum can be trusted (``isoflop.laws.search.Certificate``).

    Example:
        >>> values = dict(grid=61, starts=8, share=1.0, gradient=1e-9, condition=3.0, converged=True, at_bounds=[])
        >>> StoredCertificate(**values).converged
        True
    """

    grid: int
    starts: int
    share: float
    gradient: float | None
    condition: float | None
    converged: bool
    at_bounds: list[str]


class StoredFit(Frozen):
    """A fit that can be made again from its own rows (``isoflop.laws.refit``).

    Example:
        >>> from isoflop.laws import Power
        >>> stored = StoredFit(**Power().fit({"C": [1.0, 2.0, 4.0], "y": [1.0, 2.1, 3.9]}).to_json())
        >>> stored.law["name"], stored.certificate.converged, sorted(stored.intervals)
        ('power', True, ['A', 'a'])
    """

    format: Literal["isoflop.fit/1"] = FORMAT
    law: dict[str, Any]
    """Its fields and its name."""
    settings: dict[str, Any]
    columns: dict[str, list[Any]]
    """The rows, under the law's names for columns."""
    digest: str
    """Of ``columns``."""
    params: dict[str, float]
    intervals: dict[str, StoredInterval]
    """By constant; held ones have none, nor has a fit that did not converge."""
    objective: float
    certificate: StoredCertificate
    warnings: list[str]


class StoredVariant(Frozen):
    """The fit under another choice: its constants, or why there are none.

    Example:
        >>> StoredVariant(choice="loss l2", rows=12, params={"a": 0.5}).failed
        ''
    """

    choice: str
    rows: int
    params: dict[str, float | None]
    failed: str = ""


class StoredCurve(Frozen):
    """Loss against parameters ``N`` at one budget, and the optimum if it lies within the curve.

    Example:
        >>> StoredCurve(compute=6e18, N=[1e7, 1e8, 1e9], loss=[3.5, 3.0, 3.2], best_N=1.4e8).best_N
        140000000.0
    """

    compute: PositiveFloat
    N: list[PositiveFloat]
    loss: list[float | None]
    best_N: PositiveFloat | None


class StoredForecast(Frozen):
    """Rows above ``cut`` as forecast from those below; each list (m,).

    Example:
        >>> one = StoredForecast(cut=1e20, compute=[1e21], observed=[2.0], predicted=[2.1], low=[1.9], high=[2.3])
        >>> one.predicted
        [2.1]
    """

    cut: float
    compute: list[float]
    observed: list[float]
    predicted: list[float]
    low: list[float | None]
    high: list[float | None]


class StoredScore(Frozen):
    """What a law's forecasts are worth (``isoflop.laws.comparison.Score``); without numbers where it has none.

    Example:
        >>> StoredScore(law="kaplan", failed="4 rows cannot fix the 5 parameters").error is None
        True
    """

    law: str
    error: float | None = None
    bias: float | None = None
    coverage: float | None = None
    width: float | None = None
    interval_score: float | None = None
    fit_error: float | None = None
    cuts: int = 0
    p: float | None = None
    failed: str = ""


class StoredComparison(Frozen):
    """The compared laws, best extrapolation first, and the best one's forecasts.

    Example:
        >>> StoredComparison(level=0.9, scores=[StoredScore(law="chinchilla", error=0.004)], forecasts=[]).scores[0].law
        'chinchilla'
    """

    level: float
    scores: list[StoredScore]
    forecasts: list[StoredForecast]


class FitDocument(Frozen):
    """``fit.json``: a fit, what it predicts, and what was compared to choose it.

    Example:
        >>> from isoflop.laws import fit_table
        >>> made = fit_table({"C": [1.0, 2.0, 4.0, 8.0], "y": [1.0, 2.1, 3.9, 8.2]}, "power")
        >>> document = made.document(source="mine.csv")
        >>> document.target, len(document.points)
        ('y', 4)
    """

    source: str = ""
    """The name of what was fitted."""
    equation: str
    target: str
    axis: str
    """What ``compute`` is in the table: a column, "6 N D", or "" for the law's own measure."""
    relative: bool
    """Residuals are relative errors."""
    text: str
    """The report as text."""
    fit: StoredFit
    level: float = Field(gt=0, lt=1)
    """Of the intervals of predictions."""
    points: list[Row]
    """Per row: the law's columns, compute, observation, prediction with interval, residual in link space."""
    isoflops: list[StoredCurve]
    """Of laws of N and D: per budget of the table the curve and its optimum."""
    ahead: list[Row]
    """Predictions at the dearest row's sizes scaled to multiples (``times``) of its compute, with intervals."""
    sensitivity: list[StoredVariant] = []
    """The fit under other choices, itself first; empty of a fit that did not converge, and in documents of old."""
    predictions: list[Row] = []
    """What was asked for: the law's columns, ``predicted``, ``low``, ``high``, ``times`` the dearest row's compute."""
    comparison: StoredComparison | None

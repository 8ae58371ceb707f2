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
    """A constant's interval; an end that is None is open."""

    low: float | None
    high: float | None
    level: float
    verdict: Literal["identified", "unidentified"]
    reason: str
    """Why the rows do not determine the constant."""


class StoredCertificate(Frozen):
    """How far the optimum can be trusted (``isoflop.laws.search.Certificate``)."""

    grid: int
    starts: int
    share: float
    gradient: float | None
    condition: float | None
    converged: bool
    at_bounds: list[str]


class StoredFit(Frozen):
    """A fit that can be made again from its own rows (``isoflop.laws.refit``)."""

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
    """The fit under another choice: its constants, or why there are none."""

    choice: str
    rows: int
    params: dict[str, float | None]
    failed: str = ""


class StoredCurve(Frozen):
    """Loss against parameters ``N`` at one budget, and the optimum if it lies within the curve."""

    compute: PositiveFloat
    N: list[PositiveFloat]
    loss: list[float | None]
    best_N: PositiveFloat | None


class StoredForecast(Frozen):
    """Rows above ``cut`` as forecast from those below; each list (m,)."""

    cut: float
    compute: list[float]
    observed: list[float]
    predicted: list[float]
    low: list[float | None]
    high: list[float | None]


class StoredScore(Frozen):
    """What a law's forecasts are worth (``isoflop.laws.comparison.Score``); without numbers where it has none."""

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
    """The compared laws, best extrapolation first, and the best one's forecasts."""

    level: float
    scores: list[StoredScore]
    forecasts: list[StoredForecast]


class FitDocument(Frozen):
    """``fit.json``: a fit, what it predicts, and what was compared to choose it."""

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

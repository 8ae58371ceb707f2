"""What every question returns: figures with intervals, the assumption that carries them, and where they end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.stats import chi2

from ...core.files import jsonable
from ...core.rng import Rng
from ..formula import Array

_FLAT = 1e-9  # a spread of logarithms below this is rounding: the region has no width along that direction


@dataclass(frozen=True)
class Figure:
    """A number with its interval; an end that is infinite is open.

    Attributes:
        name: what it is.
        value: under the fitted constants.
        low: lower end.
        high: upper end.
        unit: FLOPs, tokens ...; "" for a plain number.
        note: what a reader must know of this number alone.

    Example:
        >>> figure_of_size = Figure("N", 1.2e9, 0.9e9, 1.6e9, "parameters")
        >>> print(figure_of_size)
        N                                      1.20e9   [9.00e8, 1.60e9] parameters
    """

    name: str
    value: float
    low: float
    high: float
    unit: str = ""
    note: str = ""

    def __str__(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        note = f"  ({self.note})" if self.note else ""
        interval = f"   [{ends[0]}, {ends[1]}]" if (ends := self.ends) else ""
        return f"{self.name:<34}{digits(self.value):>11}{interval}{unit}{note}"

    @property
    def ends(self) -> tuple[str, str] | None:
        """The interval's two ends with as many digits as tell them apart; None where it has no width: it is given."""
        if np.isfinite(self.high) and self.high - self.low <= _FLAT * abs(self.value):
            return None
        pairs = [(digits(self.low, count), digits(self.high, count)) for count in range(3, 11)]
        return next((pair for pair in pairs if pair[0] != pair[1]), pairs[0])


@dataclass(frozen=True)
class Region:
    """A joint region of several positive figures: an ellipse of their logarithms that holds ``level`` of the draws.

    Two figures of one fit err together: of N and D at a budget, an end of one interval goes with an end of the other.

    Attributes:
        names: the figures (f,).
        centre: their logarithms under the fitted constants, (f,).
        axes: principal directions (f, f), one a row, longest first.
        reach: half the length of each axis, (f,); 0 where the figures are tied to each other, as by C = 6 N D.
        level: level of the region, a share.

    Example:
        >>> axes, reach = np.asarray([[1, -1], [1, 1]]) / 2**0.5, np.asarray([0.3, 0.0])
        >>> tied = Region(("N", "D"), np.log([1e9, 2e10]), axes, reach, level=0.9)
        >>> tied.contains({"N": 1.1e9, "D": 2e10 / 1.1}), tied.contains({"N": 1.1e9, "D": 2e10 * 1.1})
        (True, False)
    """

    names: tuple[str, ...]
    centre: Array
    axes: Array
    reach: Array
    level: float

    def contains(self, point: Mapping[str, float]) -> bool:
        """Whether a point, by name, lies inside; a tied direction allows for 1 %."""
        away = self.axes @ (np.log([point[name] for name in self.names]) - self.centre)
        return bool(np.sum((away / np.maximum(self.reach, 0.01)) ** 2) <= 1.0)

    def draws(self, count: int) -> Array:
        """Logarithms (1 + count, f) of a normal distribution with this region, the centre first."""
        radius = np.sqrt(chi2.ppf(self.level, max(1, np.count_nonzero(self.reach))))
        away = Rng(0)("region").at().standard_normal((count, len(self.names))) * self.reach / radius
        return np.concatenate([self.centre[None], self.centre + away @ self.axes])

    @property
    def ends(self) -> tuple[dict[str, float], dict[str, float]]:
        """The two ends of the longest axis: what goes with what."""
        step = self.axes[0] * self.reach[0]
        both = (np.exp(self.centre - step), np.exp(self.centre + step))
        first, second = (dict(zip(self.names, end.tolist(), strict=True)) for end in both)
        return first, second

    def __str__(self) -> str:
        return " to ".join(
            "(" + ", ".join(f"{name} {digits(value)}" for name, value in end.items()) + ")" for end in self.ends
        )


@dataclass(frozen=True)
class Answer:
    """One question's answer.

    Attributes:
        question: in words.
        figures: the numbers.
        assumption: what must be true for the intervals to hold.
        beyond: where not to use it.
        level: level of the intervals, a share.
        region: joint region of the figures that belong together.
        warnings: what a reader must know first.

    Example:
        >>> answer = Answer("loss of a run", (Figure("loss", 2.0, 1.9, 2.1),), "the law holds", "C 1e+22", 0.9)
        >>> answer["loss"].value, answer.to_json()["figures"][0]["high"]
        (2.0, 2.1)
    """

    question: str
    figures: tuple[Figure, ...]
    assumption: str
    beyond: str
    level: float
    region: Region | None = None
    warnings: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> Figure:
        found = {figure.name: figure for figure in self.figures}
        return found[name]

    def __str__(self) -> str:
        lines = [self.question, *(f"! {warning}" for warning in self.warnings)]
        lines += [f"  {figure}" for figure in self.figures]
        if self.region is not None:
            lines.append(f"  jointly: {self.region}")
        lines += [f"  assumes: {self.assumption}", f"  do not use beyond: {self.beyond}"]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """JSON values; open ends are null."""
        region = None
        if self.region is not None:
            region = {"names": list(self.region.names), "level": self.region.level, "ends": list(self.region.ends)}
        figures = [vars(figure) for figure in self.figures]
        return dict(
            jsonable(
                {
                    "question": self.question,
                    "level": self.level,
                    "figures": figures,
                    "region": region,
                    "assumption": self.assumption,
                    "beyond": self.beyond,
                    "warnings": list(self.warnings),
                }
            )
        )


@dataclass(frozen=True)
class Plan:
    """The answers to one call, in the order in which they are read.

    Attributes:
        answers: by question.
        source: the law that answers, as it is printed.

    Example:
        >>> answer = Answer("loss of a run", (Figure("loss", 2.0, 1.9, 2.1),), "the law holds", "C 1e+22", 0.9)
        >>> print(str(Plan((answer,), "chinchilla")).splitlines()[0])
        chinchilla; 90 % intervals
    """

    answers: tuple[Answer, ...]
    source: str = ""
    notes: tuple[str, ...] = field(default=())

    def __getitem__(self, name: str) -> Figure:
        """The first figure of that name in any answer."""
        return next(figure for answer in self.answers for figure in answer.figures if figure.name == name)

    def __str__(self) -> str:
        level = 100 * self.answers[0].level
        head = f"{self.source}; {level:g} % intervals" if self.source else f"{level:g} % intervals"
        return "\n\n".join(["\n".join([head, *self.notes]), *map(str, self.answers)])

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "law": self.source,
            "notes": list(self.notes),
            "answers": [answer.to_json() for answer in self.answers],
        }


def digits(value: float, count: int = 3) -> str:
    """Large and small numbers with ``count`` digits and an exponent, others with one digit more."""
    if not np.isfinite(value):
        return "open"
    if value != 0 and not 1e-3 <= abs(value) < 1e5:
        mantissa, _, power = f"{value:.{count - 1}e}".partition("e")
        return f"{mantissa}e{int(power)}"
    return f"{value:.{count + 1}g}"


def figure(name: str, values: Array, level: float, unit: str = "", note: str = "", *, log: bool = True) -> Figure:
    """A figure from draws: the first is the value, the quantiles of the others its interval.

    Args:
        name: what it is.
        values: draws (k,), or their logarithms; infinite ones make an end open.
        level: level of the interval, a share.
        unit: of the figure.
        note: see ``Figure``.
        log: ``values`` are logarithms.
    """
    tail = (1.0 - level) / 2.0
    kept = np.sort(np.nan_to_num(values[1:], nan=np.inf))
    low, high = (_ranked(kept, share) for share in (tail, 1.0 - tail))
    low, high = min(low, values[0]), max(high, values[0])  # of what cannot be negative, 0 may lie outside
    value, low, high = (float(np.exp(v)) if log and v < 700 else float(v) for v in (values[0], low, high))
    return Figure(name, value, low, high, unit, note)


def _ranked(ordered: Array, share: float) -> float:
    """A quantile that infinite entries do not turn into NaN."""
    place = share * (len(ordered) - 1)
    below, above = ordered[int(np.floor(place))], ordered[int(np.ceil(place))]
    return float(above if above == below or not np.isfinite(above) else below + (place % 1.0) * (above - below))


def region(names: Sequence[str], draws: Sequence[Array], level: float) -> Region | None:
    """The joint region of figures from draws of their logarithms, each (k,) with the fitted one first.

    None where too many draws are infinite for a region to hold ``level`` of them.
    """
    points = np.column_stack(draws)
    finite = points[1:][np.isfinite(points[1:]).all(1)]
    if len(finite) < level * (len(points) - 1) or not np.isfinite(points[0]).all():
        return None
    away = finite - points[0]
    variances, vectors = np.linalg.eigh(np.cov(away.T) if away.shape[1] > 1 else np.atleast_2d(np.var(away)))
    order = np.argsort(variances)[::-1]
    size, axes = np.sqrt(np.maximum(variances[order], 0.0)), vectors.T[order]
    tied = size < _FLAT + 1e-6 * size[0]
    scaled = np.where(tied, 0.0, away @ axes.T / np.where(tied, 1.0, size))
    radius = np.quantile(np.sqrt((scaled**2).sum(1)), level * (len(points) - 1) / len(finite))
    return Region(tuple(names), points[0], axes, np.where(tied, 0.0, radius * size), level)

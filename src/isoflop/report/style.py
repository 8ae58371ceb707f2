"""One quiet style for every chart: ink is the page's own colour, arms are colour-blind safe and differ in shape too."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import altair as alt

from ..core.scale import Scale
from .text import clean, known

Chart = alt.Chart | alt.LayerChart | alt.FacetChart
INK = "currentColor"
"""Takes the page's text colour (light, dark, print); black in a stand-alone SVG or PNG."""
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999")
"""Okabe and Ito's palette without black (the baseline is ink) and yellow (too pale on white)."""
SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-right")
FONT = "system-ui, 'Helvetica Neue', Arial, 'Liberation Sans', sans-serif"
_FAR = 690.0
"""Logarithm of the largest number that is drawn, and less that of the smallest: beyond, floats end."""
WIDTH = 720
"""Width in pixels of a chart as a file; on the page it follows its container."""


def configured(chart: Chart) -> Chart:
    """The chart in this style, ``WIDTH`` pixels wide, on white."""
    faint = {"gridColor": INK, "gridOpacity": 0.09, "domainColor": INK, "domainOpacity": 0.35, "tickOpacity": 0.35}
    words = {"labelColor": INK, "labelOpacity": 0.75, "labelFontSize": 12, "titleColor": INK, "titleFontSize": 12}
    axis = {**faint, **words, "tickColor": INK, "tickSize": 4, "titleFontWeight": "normal", "titlePadding": 10}
    # A y title lies flat above its axis, where it can be read without turning the head.
    flat = {
        "titleAngle": 0,
        "titleAlign": "left",
        "titleAnchor": "end",
        "titleBaseline": "bottom",
        "titleX": 0,
        "titleY": -10,
    }
    styled: Chart = (
        chart.properties(width=WIDTH, background="white")
        .configure(font=FONT)
        .configure_view(stroke=None)
        .configure_mark(aria=False)  # a chart is heard as its description and its axes; its data stand in tables
        .configure_axis(**axis)
        .configure_axisX(titleAnchor="end")
        .configure_axisY(**flat)
        .configure_legend(
            orient="top",
            direction="horizontal",
            title=None,
            labelColor=INK,
            labelFontSize=12,
            labelLimit=150,
            symbolSize=70,
            symbolOpacity=1,
            symbolStrokeWidth=2,
            offset=26,
            padding=0,
        )
    )
    return styled


def colour_scale(names: Sequence[str], first: str = INK) -> alt.Scale:
    """Ordinal colours: ``first`` for the first name, the palette in order for the others."""
    colours = [first, *(OKABE_ITO[i % len(OKABE_ITO)] for i in range(len(names) - 1))]
    return alt.Scale(domain=list(names), range=colours[: len(names)])


def shape_scale(names: Sequence[str]) -> alt.Scale:
    """Ordinal shapes in the same order as ``colour_scale``."""
    return alt.Scale(domain=list(names), range=[SHAPES[i % len(SHAPES)] for i in range(len(names))])


def legend(names: Sequence[str], **options: Any) -> alt.Legend:
    """A legend above the chart in as many columns as a phone has room for."""
    longest = min(max((len(name) for name in names), default=1), 22)  # what labelLimit leaves
    return alt.Legend(columns=max(1, min(len(names), 56 // (longest + 4))), **options)


def log_scale(low: float, high: float) -> alt.Scale:
    """A logarithmic scale over exactly [low, high]."""
    return alt.Scale(type="log", domain=[low, high], nice=False)


def widened(values: Iterable[float], share: float = 0.08) -> tuple[float, float]:
    """The range of positive values, wider by ``share`` of its logarithmic extent (at least 2 %) on both sides."""
    logs = [min(max(math.log(value), -_FAR), _FAR) for value in values if value > 0] or [0.0]
    margin = max(share * (max(logs) - min(logs)), 0.02)
    return math.exp(max(min(logs) - margin, -_FAR - 9)), math.exp(min(max(logs) + margin, _FAR + 9))


@dataclass(frozen=True)
class Extent:
    """The range that an axis of measured values shows: logarithmic, where all of them are positive, or linear.

    Example:
        >>> extent = Extent.of([1.0, 10.0])
        >>> extent.log, extent.low < 1 < 10 < extent.high
        (True, True)
    """

    low: float
    high: float
    log: bool

    @classmethod
    def of(cls, values: Iterable[Any], share: float = 0.08) -> Extent:
        """The range of all values that are known, wider by ``share`` on both sides."""
        found = [number for value in values if (number := known(value)) is not None]
        if not found or min(found) > 0:
            return cls(*widened(found, share), True)
        margin = share * (max(found) - min(found)) or 0.02 * (abs(max(found)) or 1.0)
        return cls(min(found) - margin, max(found) + margin, False)

    def raised(self, share: float) -> Extent:
        """With room above: ``share`` of the range."""
        high = self.high * (self.high / self.low) ** share if self.log else self.high + share * (self.high - self.low)
        return replace(self, high=high)

    def lowered(self, share: float) -> Extent:
        """With room below: ``share`` of the range."""
        low = self.low * (self.low / self.high) ** share if self.log else self.low - share * (self.high - self.low)
        return replace(self, low=low)

    def with_worse(self, share: float, scale: Scale) -> Extent:
        """With room on the side of worse values."""
        return self.lowered(share) if scale.higher_is_better else self.raised(share)

    def worst(self, scale: Scale) -> float:
        """The end on that side."""
        return self.low if scale.higher_is_better else self.high

    def shows(self, value: Any) -> bool:
        """Whether a value has a place on the axis."""
        number = known(value)
        return number is not None and (number > 0 or not self.log)

    def within(self, low: Any, high: Any) -> dict[str, float]:
        """The part of an interval that lies on the axis: an end that is open, or beyond, is the axis's own."""
        bottom, top = known(low), known(high)
        return {
            "low": self.low if bottom is None else min(max(bottom, self.low), self.high),
            "high": self.high if top is None else max(min(top, self.high), self.low),
        }

    def scale(self) -> alt.Scale:
        if self.log:
            return log_scale(self.low, self.high)
        return alt.Scale(domain=[self.low, self.high], nice=False, zero=False)

    def axis(self, title: Any, form: str = "~g", **options: Any) -> alt.Axis:
        """An axis with round ticks. ``form`` is d3's format, ``options`` altair's."""
        if self.log:
            return alt.Axis(title=title, values=log_ticks(self.low, self.high), format=form, **options)
        return alt.Axis(title=title, format=".3~g", tickCount=6)


def log_ticks(low: float, high: float, most: int = 8) -> list[float]:
    """Round numbers within [low, high] for a logarithmic axis: 1-2-5 or decades; evenly spaced on a short range."""
    for mantissas, stride in (((1, 2, 5), 1), ((1, 3), 1), ((1,), 1), ((1,), 2), ((1,), 3), ((1,), 6)):
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ticks = [m * 10.0**p for p in powers if p % stride == 0 for m in mantissas]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= most:
            break
    if len(ticks) >= 4:
        return ticks
    step = _round_step((high - low) / 5)
    return [round(i * step, 12) for i in range(math.ceil(low / step), math.floor(high / step) + 1)] or ticks


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return power * min((1, 2, 2.5, 5, 10), key=lambda m: abs(math.log(m * power / rough)))


def rows(records: Iterable[dict[str, Any]]) -> Any:
    """Records as inline data: strings cleaned of control characters, numbers as Vega can read them."""
    return alt.InlineData(values=[{key: _datum(value) for key, value in record.items()} for record in records])


def _datum(value: Any) -> Any:
    """Text cleaned; a number as the float that it becomes anyway (integers have no end in Python), null if missing."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return known(value)
    return value

"""One quiet style for every chart: ink is the page's own colour, arms are colour-blind safe and differ in shape too."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import altair as alt

from .text import clean

Chart = alt.Chart | alt.LayerChart | alt.FacetChart
INK = "currentColor"
"""Takes the page's text colour (light, dark, print); black in a stand-alone SVG or PNG."""
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999")
"""Okabe and Ito's palette without black (the baseline is ink) and yellow (too pale on white)."""
SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-right")
FONT = "system-ui, 'Helvetica Neue', Arial, 'Liberation Sans', sans-serif"
WIDTH = 720
"""Width in pixels of a chart as a file; on the page it follows its container."""


def configured(chart: Chart) -> Chart:
    """The chart in this style, ``WIDTH`` pixels wide, on white."""
    faint = {"gridColor": INK, "gridOpacity": 0.09, "domainColor": INK, "domainOpacity": 0.35, "tickOpacity": 0.35}
    words = {"labelColor": INK, "labelOpacity": 0.75, "labelFontSize": 12, "titleColor": INK, "titleFontSize": 12}
    axis = {**faint, **words, "tickColor": INK, "tickSize": 4, "titleFontWeight": "normal", "titlePadding": 10}
    # An y title lies flat above its axis, where it can be read without turning the head.
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
    logs = [math.log(value) for value in values if value > 0] or [0.0]
    margin = max(share * (max(logs) - min(logs)), 0.02)
    return math.exp(min(logs) - margin), math.exp(max(logs) + margin)


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
    """Records as inline data; every string in them cleaned of control characters."""
    cleaned = [{key: clean(v) if isinstance(v, str) else v for key, v in record.items()} for record in records]
    return alt.InlineData(values=cleaned)

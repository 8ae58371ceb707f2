"""The charts of a law's fit: rows and predictions, residuals, what lies ahead, isoFLOP curves, forecasts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import altair as alt

from ..store.fits import Row
from .charts import Figures
from .fits import PREDICTED, FitRecord, power
from .style import INK, OKABE_ITO, Chart, Extent, colour_scale, legend, rows
from .text import clean

_BUDGETS = ("#56B4E9", "#0072B2", "#CC79A7", "#D55E00")  # the cheapest to the dearest; all show on white and on black
_NEAR = 1.06  # rows within this factor of a budget are drawn with its curve
_SHARE = 0.04  # of the range that an axis goes beyond it
_MOST_RULES = 60  # rows whose intervals can still be told apart


def figures(fit: FitRecord) -> Figures:
    """Every chart that the fit has data for, by file name."""
    found: Figures = {"fit": _observed(fit)}
    if any(row["residual"] for row in fit.points):
        found["residuals"] = _residuals(fit)
    if fit.ahead and fit.largest():
        found["ahead"] = _ahead(fit)
    if fit.isoflops:
        found["isoflops"] = _isoflops(fit)
    if fit.comparison is not None and fit.comparison.forecasts:
        found["forecasts"] = _forecasts(fit)
    return found


def _observed(fit: FitRecord) -> Chart:
    """Observed and predicted over compute: a line in its band where compute alone decides, else row by row."""
    x = _compute(fit, [row["compute"] for row in fit.points])
    y_values = [row[name] for row in fit.points for name in ("observed", "predicted")]
    extent = Extent.of(y_values, _SHARE)
    y = _axis(alt.Y, extent, clean(fit.target))
    tooltip = [alt.Tooltip(f"{name}:Q", format=".4~g") for name in fit.points[0]] if fit.points else []
    seen, made = _pair(fit, x, fit.points, _drawn(fit.points, extent))
    dots = seen.mark_point(filled=True, size=34, opacity=0.6, clip=True).encode(y=y("observed"), tooltip=tooltip)
    one = not {"C", fit.axis}.isdisjoint(fit.columns) and len(fit.columns) == 1
    if one:
        band = made.mark_area(opacity=0.18, clip=True).encode(y=y("low"), y2="high:Q")
        layers = [band, made.mark_line(strokeWidth=2, clip=True).encode(y=y("predicted")), dots]
    else:
        opacity = 0.3 if len(fit.points) <= _MOST_RULES else 0.14
        rule = made.mark_rule(strokeWidth=4, opacity=opacity, clip=True).encode(y=y("low"), y2="high:Q")
        tick = made.mark_tick(orient="horizontal", size=9, thickness=1.5, opacity=1, clip=True)
        layers = [rule, dots, tick.encode(y=y("predicted"))]
    return alt.layer(*layers).properties(height=380, description=f"{clean(fit.target)} observed and predicted")


def _pair(fit: FitRecord, x: alt.X, seen: list[Row], made: list[Row]) -> tuple[alt.Chart, alt.Chart]:
    """Observed rows in ink and predicted ones in colour, over ``x``, with one legend."""
    names = ["observed", f"predicted, {100 * fit.level:g} % interval"]
    colour = alt.Color("what:N", scale=colour_scale(names), legend=legend(names, labelLimit=260))
    both = zip(names, (seen, made), strict=True)
    first, second = (alt.Chart(rows({**row, "what": name} for row in of)) for name, of in both)
    return first.encode(x=x, color=colour), second.encode(x=x, color=colour)


def _drawn(predicted: Iterable[Row], extent: Extent) -> list[Row]:
    """Predicted rows with intervals as far as the axis goes: an open one would be drawn as none."""
    return [{**row, **extent.within(row["low"], row["high"])} for row in predicted if row["predicted"] is not None]


def _residuals(fit: FitRecord) -> Chart:
    scale = 100.0 if fit.relative else 1.0
    records = [{**row, "off": scale * off} for row in fit.points if (off := row["residual"]) is not None]
    title = "predicted less observed" + (", % of the observed" if fit.relative else "")
    far = 1.08 * scale * max(abs(row["residual"] or 0.0) for row in fit.points)
    y = alt.Y("off:Q", scale=alt.Scale(domain=[-far, far], nice=False), axis=alt.Axis(title=title, tickCount=6))
    tooltip = [alt.Tooltip(f"{name}:Q", format=".4~g") for name in records[0]]
    dots = alt.Chart(rows(records)).mark_point(filled=True, size=34, opacity=0.6, color=OKABE_ITO[0])
    zero = alt.Chart(rows([{"off": 0.0}])).mark_rule(color=INK, strokeWidth=1.5, opacity=0.45).encode(y=y)
    x = _compute(fit, [row["compute"] for row in fit.points])
    return alt.layer(zero, dots.encode(x=x, y=y, tooltip=tooltip)).properties(height=240, description="Residuals")


def _ahead(fit: FitRecord) -> Chart:
    """The dearest row's own prediction, then those at multiples of its compute, with the band of their intervals."""
    top = fit.largest()
    assert top is not None
    most = top["compute"] or 0.0
    start = {name: top[name] for name in ("predicted", "low", "high")} | {"times": 1.0}
    records = [{**row, "compute": most * (row["times"] or 1.0)} for row in (start, *fit.ahead)]
    values = [row[name] for row in records for name in ("predicted", "low", "high")]
    values += [row["observed"] for row in fit.points]
    extent = Extent.of(values, _SHARE)
    y = _axis(alt.Y, extent, clean(fit.target))
    x = _compute(fit, [row["compute"] for row in (*fit.points, *records)])
    seen, made = _pair(fit, x, fit.points, _drawn(records, extent))
    tooltip = [alt.Tooltip(f"{name}:Q", format=".4~g") for name in ("times", "compute", *PREDICTED[1:])]
    layers = [
        made.mark_area(opacity=0.18).encode(y=y("low"), y2="high:Q"),
        seen.mark_point(filled=True, size=22, opacity=0.35).encode(y=y("observed")),
        made.mark_line(strokeWidth=2).encode(y=y("predicted")),
        made.mark_point(filled=True, size=60, opacity=1).encode(y=y("predicted"), tooltip=tooltip),
    ]
    return alt.layer(*layers).properties(height=340, description="Predictions beyond the table")


def _isoflops(fit: FitRecord) -> Chart:
    """Loss against size at each budget, the optimum marked, the rows of that budget as points."""
    curves = [
        {"N": n, "loss": loss, "compute": curve.compute}
        for curve in fit.isoflops
        for n, loss in zip(curve.N, curve.loss, strict=True)
        if loss is not None and loss > 0
    ]
    best = [
        {"N": c.best_N, "loss": min(v for v in c.loss if v is not None), "compute": c.compute}
        | {"label": power(c.compute)}
        for c in fit.isoflops
        if c.best_N is not None
    ]
    near = [
        {"N": row["N"], "loss": row["observed"], "compute": curve.compute}
        for row in fit.points
        for curve in fit.isoflops
        if row["compute"] and 1 / _NEAR < row["compute"] / curve.compute < _NEAR
    ]
    lowest = min((curve["loss"] for curve in curves), default=1.0)
    shown = [row["observed"] for row in fit.points] + [lowest * 0.97]
    x = _axis(alt.X, Extent.of((n for curve in fit.isoflops for n in curve.N), _SHARE), "parameters N")("N")
    y = _axis(alt.Y, Extent.of(shown, _SHARE), clean(fit.target))("loss")
    budgets = [curve.compute for curve in fit.isoflops]
    scale = alt.Scale(type="log", domain=[min(budgets), max(budgets)], range=list(_BUDGETS), interpolate="rgb")
    colour = alt.Color("compute:Q", scale=scale, legend=None)

    def drawn(records: list[dict[str, Any]]) -> alt.Chart:
        return alt.Chart(rows(records)).encode(x=x, y=y, color=colour)

    tooltip = [alt.Tooltip(f"{name}:Q", format=".4~g") for name in ("compute", "N", "loss")]
    line = drawn(curves).mark_line(strokeWidth=2, clip=True).encode(detail="compute:Q")
    layers = [line, drawn(near).mark_point(filled=True, size=30, opacity=0.65, clip=True).encode(tooltip=tooltip)]
    path = alt.Chart(rows(best)).mark_line(color=INK, strokeDash=[5, 3], strokeWidth=1.5, opacity=0.6)
    rings = drawn(best).mark_point(shape="diamond", filled=True, size=90, opacity=1).encode(tooltip=tooltip)
    label = drawn(_apart(best, shown)).mark_text(dy=15, fontSize=11).encode(text="label:N", color=alt.value(INK))
    layers += [path.encode(x=x, y=y, order="compute:Q"), rings, label]
    return alt.layer(*layers).properties(height=420, description="IsoFLOP curves and their optima")


def _apart(best: list[dict[str, Any]], losses: Iterable[float | None]) -> list[dict[str, Any]]:
    """Those optima that leave room for a label beneath each, the dearest always among them."""
    logs = [math.log(value) for value in losses if value]
    gap = 0.08 * (max(logs) - min(logs))
    kept: list[dict[str, Any]] = []
    for record in sorted(best, key=lambda record: -record["compute"]):
        if not kept or math.log(record["loss"] / kept[-1]["loss"]) > gap:
            kept.append(record)
    return kept


def _forecasts(fit: FitRecord) -> Chart:
    """Errors of the best law's forecasts, cut by cut, each with its interval."""
    assert fit.comparison is not None
    records = []
    cuts = [power(cut.cut) for cut in fit.comparison.forecasts]
    for cut, name in zip(fit.comparison.forecasts, cuts, strict=True):
        columns = (cut.compute, cut.observed, cut.predicted, cut.low, cut.high)
        for compute, observed, predicted, low, high in zip(*columns, strict=True):
            ends = {"low": _off(low, observed), "high": _off(high, observed)}
            inside = (low is None or low <= observed) and (high is None or observed <= high)
            measured = {"compute": compute, "observed": observed, "error": _off(predicted, observed)}
            records.append({"cut": name, **measured, **ends, "inside": int(inside)})
    errors = [abs(record["error"] or 0.0) for record in records] + [1e-9]
    far = 1.1 * max(errors)
    records = [{**record, **Extent(-far, far, False).within(record["low"], record["high"])} for record in records]
    axis = alt.Axis(title="forecast less observed, % of the observed", tickCount=6)
    scale = alt.Scale(domain=[-far, far], nice=False)
    y = alt.Y("error:Q", scale=scale, axis=axis)
    x = _compute(fit, [record["compute"] for record in records])
    colours = alt.Scale(domain=cuts, range=[OKABE_ITO[i % len(OKABE_ITO)] for i in range(len(cuts))])
    shown = legend(cuts, title="fitted up to", titleColor=INK, titleFontWeight="normal", titleFontSize=12)
    base = alt.Chart(rows(records)).encode(x=x, color=alt.Color("cut:N", scale=colours, sort=cuts, legend=shown))
    tooltip = ["cut:N", *(alt.Tooltip(f"{name}:Q", format=".4~g") for name in ("compute", "observed", "error"))]
    zero = alt.Chart(rows([{"error": 0.0}])).mark_rule(color=INK, strokeWidth=1.5, opacity=0.45).encode(y=y)
    inside = alt.datum.inside == 1
    dots = base.mark_point(size=34, strokeWidth=1.5, opacity=0.8, filled=False).encode(y=y, tooltip=tooltip)
    layers = [zero, dots.encode(fill=alt.condition(inside, base.encoding.color, alt.value("transparent")))]
    if len(records) <= _MOST_RULES:
        rule = base.mark_rule(strokeWidth=4, opacity=0.3, clip=True)
        layers.insert(1, rule.encode(y=alt.Y("low:Q", scale=scale, axis=axis), y2="high:Q"))
    return alt.layer(*layers).properties(height=320, description="Errors of the forecasts")


def _compute(fit: FitRecord, values: Iterable[float | None]) -> Any:
    return _axis(alt.X, Extent.of(values, _SHARE), clean(fit.axis_title()))("compute")


def _axis(channel: Any, extent: Extent, title: str) -> Callable[[str], Any]:
    """Channels of fields on one axis."""
    form = ".2~e" if extent.high >= 1e6 else ".3~g"
    scale, axis = extent.scale(), extent.axis(title, form, labelExpr="replace(datum.label, '+', '')")  # 1e18
    return lambda field: channel(f"{field}:Q", scale=scale, axis=axis)


def _off(value: float | None, observed: float) -> Any:
    return None if value is None or not observed else 100 * (value / observed - 1)

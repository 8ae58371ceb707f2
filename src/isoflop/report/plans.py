"""A plan as tables and charts."""

from __future__ import annotations

from typing import Any

import altair as alt

from ..store.plans import StoredPlan
from .charts import Figures
from .fits import power
from .sheets import Sheet
from .style import INK, OKABE_ITO, Chart, Extent, colour_scale, legend, rows
from .text import clean, digits

_NEAR = 1.06  # rows within this factor of a slice's budget are drawn with it


def headline(found: StoredPlan) -> str:
    """The chosen run in one sentence."""
    run = found.runs[0]
    ends = f"[{_cell(run['low'])}, {_cell(run['high'])}]"
    return (
        f"{_cell(run['N'])} parameters on {_cell(run['D'])} tokens: loss {_cell(run['loss'])} "
        f"{ends} for {_cell(run['compute'])} FLOPs."
    )


def run_sheet(found: StoredPlan) -> Sheet:
    """The chosen run and its neighbours."""
    keys = ("compute", "N", "D", "loss", "low", "high")
    lines = [(clean(str(run["name"])), *(_cell(run[key]) for key in keys)) for run in found.runs]
    columns = ("run", "C", "N", "D", "loss", "low", "high")
    note = f"{100 * found.level:g} % prediction intervals of the loss, the law's own error beyond its rows included."
    return Sheet("The plan and its neighbours", columns, lines, frozenset(range(1, 7)), note)


def answer_sheets(found: StoredPlan) -> list[tuple[str, Sheet, list[str]]]:
    """Per answer: its question, its figures, and what must be known of it."""
    sheets = []
    for answer in found.answers:
        lines = [
            (clean(f["name"]), *(_cell(f[key]) for key in ("value", "low", "high")), clean(f"{f['unit']} {f['note']}"))
            for f in answer["figures"]
        ]
        sheet = Sheet(clean(answer["question"]), ("", "value", "low", "high", ""), lines, frozenset({1, 2, 3}))
        said = [*answer["warnings"], f"Assumes: {answer['assumption']}", f"Do not use beyond: {answer['beyond']}"]
        sheets.append((sheet.title, sheet, [clean(line) for line in said]))
    return sheets


def figures(found: StoredPlan) -> Figures:
    """The frontier and the slices, where the law has them."""
    drawn: Figures = {}
    if found.frontier:
        drawn["frontier"] = _frontier(found)
    if found.slices:
        drawn["slices"] = _slices(found)
    return drawn


def _frontier(found: StoredPlan) -> Chart:
    """Loss of the best run over compute with its band, the rows, the plan."""
    plan = found.runs[:1]
    every: list[dict[str, Any]] = [*found.points, *found.frontier, *plan]
    losses = Extent.of([row.get(key) for row in every for key in ("loss", "low", "high")], 0.04)
    y = alt.Y("loss:Q", scale=losses.scale(), axis=losses.axis("loss", ".3~g"))
    x = _axis("compute", [row["compute"] for row in every], "training compute, FLOPs")
    names = ["runs", "best at each compute", "plan"]
    colour = alt.Color("what:N", scale=colour_scale(names), legend=legend(names))
    frontier = [{**row, **losses.within(row["low"], row["high"]), "what": names[1]} for row in found.frontier]
    made = alt.Chart(rows(frontier)).encode(x=x, color=colour)
    low = alt.Y("low:Q", scale=losses.scale(), axis=losses.axis("loss", ".3~g"))
    layers = [
        made.mark_area(opacity=0.18).encode(y=low, y2="high:Q"),
        alt.Chart(rows({**row, "what": names[0]} for row in found.points))
        .mark_point(filled=True, size=24, opacity=0.45)
        .encode(x=x, y=y, color=colour),
        made.mark_line(strokeWidth=2).encode(y=y),
        alt.Chart(rows({**row, "what": names[2]} for row in plan))
        .mark_point(shape="diamond", filled=True, size=160, opacity=1)
        .encode(x=x, y=y, color=colour, tooltip=["compute:Q", "N:Q", "D:Q", "loss:Q"]),
    ]
    return alt.layer(*layers).properties(height=340, description="The frontier of best runs with the plan")


def _slices(found: StoredPlan) -> Chart:
    """Loss against size at the plan's compute and below, with the rows of those budgets and the plan's neighbours."""
    curves = [
        {"N": n, "loss": loss, "C": power(curve.compute)}
        for curve in found.slices
        for n, loss in zip(curve.N, curve.loss, strict=True)
        if loss is not None
    ]
    near = [
        {"N": row["N"], "loss": row["loss"], "C": power(curve.compute)}
        for curve in found.slices
        for row in found.points
        if row["compute"] and 1 / _NEAR < row["compute"] / curve.compute < _NEAR
    ]
    runs = [run for run in found.runs if "equal N" not in str(run["name"])]
    every: list[dict[str, Any]] = [*curves, *near, *runs]
    losses = Extent.of([row["loss"] for row in every], 0.04)
    y = alt.Y("loss:Q", scale=losses.scale(), axis=losses.axis("loss", ".3~g"))
    x = _axis("N", [row["N"] for row in every], "parameters N")
    names = [power(curve.compute) for curve in found.slices]
    shown = legend(names, title="FLOPs", titleColor=INK, titleFontWeight="normal", titleFontSize=12)
    colour = alt.Color("C:N", scale=colour_scale(names, OKABE_ITO[2]), sort=names, legend=shown)
    layers = [
        alt.Chart(rows(curves)).mark_line(strokeWidth=2).encode(x=x, y=y, color=colour),
        alt.Chart(rows(near)).mark_point(filled=True, size=28, opacity=0.6).encode(x=x, y=y, color=colour),
        alt.Chart(rows(runs))
        .mark_point(shape="diamond", size=110, strokeWidth=2, color=INK)
        .encode(x=x, y=y, tooltip=["name:N", "N:Q", "D:Q", "loss:Q"]),
    ]
    return alt.layer(*layers).properties(height=340, description="Loss against size at equal compute")


def _axis(name: str, values: list[Any], title: str) -> alt.X:
    extent = Extent.of(values, 0.04)
    axis = extent.axis(title, ".2~e", labelExpr="replace(datum.label, '+', '')")
    return alt.X(f"{name}:Q", scale=extent.scale(), axis=axis)


def _cell(value: Any) -> str:
    return "open" if value is None else power(value) if abs(value) >= 1e6 else digits(value, 4)

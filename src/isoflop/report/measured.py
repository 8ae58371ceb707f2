"""What a script measured as a page: values that belong together as curves with every seed, all of them as a table."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

import altair as alt

from ..store.measured import Axes, Family, MeasuredResult
from .charts import Figures
from .html import Specs, bullets, download, figure, folded_table, frame, pairs_of, section, table_of
from .neighbours import Families
from .sheets import Sheet
from .style import Chart, Extent, colour_scale, legend, log_scale, log_ticks, rows, shape_scale, widened
from .text import NOTHING, clean, flatten, moment

WIDE = 8.0
"""How many times the smallest number the largest one must be for a logarithmic axis."""


def families(result: MeasuredResult) -> Families:
    """Values that belong together, with their axes."""
    return {what: (_axes(result, what), family) for what, family in result.families().items()}


def figures(found: Families) -> Figures:
    """A chart for each family of values, by file name."""
    return {_name(what): curves(family, axes) for what, (axes, family) in found.items()}


def curves(family: Family, axes: Axes) -> Chart:
    """Every seed as a point, the medians joined: one line a way."""
    names = [clean(way) for way in family]
    points = [
        {"way": way, "at": at, "value": value, "seed": seed}
        for way, own in family.items()
        for at, values in own.items()
        for seed, value in enumerate(values, 1)
    ]
    middles = [{"way": way, "at": at, "value": middle} for way, own in _medians(family).items() for at, middle in own]
    places = sorted({at for own in family.values() for at in own})
    far = places[0] > 0 and places[-1] >= WIDE * places[0]
    reach = widened(places, 0.04)
    ticks = {"values": log_ticks(*reach)} if far else {"tickCount": 6}
    x_axis = alt.Axis(title=clean(axes.across), format=".3~s", **ticks)
    x = alt.X("at:Q", scale=log_scale(*reach) if far else alt.Scale(zero=False, nice=False, padding=12), axis=x_axis)
    extent = Extent.of((point["value"] for point in points), 0.05)
    y = alt.Y("value:Q", scale=extent.scale(), axis=extent.axis(clean(axes.up)))
    shown = legend(names)
    colour = alt.Color("way:N", scale=colour_scale(names), legend=shown)
    shape = alt.Shape("way:N", scale=shape_scale(names), legend=shown)
    tooltip = ["way:N", "at:Q", "seed:O", alt.Tooltip("value:Q", format=".4~g")]
    drawn = [point for point in points if extent.shows(point["value"])]
    line = alt.Chart(rows(middles)).mark_line(strokeWidth=2).encode(x=x, y=y, color=colour)
    dots = alt.Chart(rows(drawn)).mark_point(filled=True, size=40, opacity=0.7)
    said = f"{clean(axes.up)} against {clean(axes.across)}, medians. {_in_words(family)}."
    return alt.layer(line, dots.encode(x=x, y=y, color=colour, shape=shape, tooltip=tooltip)).properties(
        height=340, description=said
    )


def family_sheet(family: Family, axes: Axes) -> Sheet:
    """The medians of a family, a column a way."""
    medians = {way: dict(own) for way, own in _medians(family).items()}
    places = sorted({at for own in medians.values() for at in own})
    lines = [(f"{at:,g}", *(_cell(own.get(at)) for own in medians.values())) for at in places]
    names = tuple(clean(way) for way in medians)
    seeds = max(len(values) for own in family.values() for values in own.values())
    note = f"Medians of up to {seeds}." if seeds > 1 else ""
    return Sheet(clean(axes.up), (clean(axes.across), *names), lines, frozenset(range(len(names) + 1)), note)


def value_sheet(result: MeasuredResult) -> Sheet:
    """Every value by name: mean, standard deviation, seeds."""
    lines = [
        (
            clean(name),
            f"{statistics.fmean(values):.4g}",
            f"{statistics.stdev(values):.2g}" if len(values) > 1 else NOTHING,
            str(len(values)),
        )
        for name, values in result.values.items()
        if values
    ]
    return Sheet("All values", ("what", "mean", "sd", "measured"), lines, frozenset({1, 2, 3}))


def sections(found: Families) -> list[str]:
    """A section for each family: chart and table."""
    return [
        section(_heading(axes), figure(_name(what)), table_of(family_sheet(family, axes)))
        for what, (axes, family) in found.items()
    ]


def page(result: MeasuredResult, specs: Specs) -> str:
    """The page of what was measured, with its charts' specifications by name."""
    values = value_sheet(result)
    return frame(
        kind="isoflop measurement",
        title=result.name,
        headline=f"{len(result.values):,} measured values",
        facts={"Made": moment(result.created), "Processor": f"{result.cpu_seconds:,.0f} s"},
        sections=[
            *sections(families(result)),
            section("Notes", bullets(clean(note) for note in result.notes)),
            section(values.title, folded_table(values, f"{len(values.rows)} values")),
            section("Environment", pairs_of(flatten(result.environment))),
            section("Data", download("measured.json", "Download the whole result")),
        ],
        specs=specs,
        data=result.model_dump(mode="json"),
        footer="A point is one measurement: of one seed, or one turn.",
    )


def _axes(result: MeasuredResult, what: str) -> Axes:
    return result.axes.get(what) or Axes(across="the number in the name", up=what.replace("_", " ") or "value")


def _name(what: str) -> str:
    return "measured_" + "".join(c if c.isalnum() else "_" for c in what)


def _heading(axes: Axes) -> str:
    said = f"{clean(axes.up).partition(',')[0]} by {clean(axes.across)}"
    return said[:1].upper() + said[1:]


def _medians(family: Family) -> Mapping[str, list[tuple[float, float]]]:
    return {way: [(at, statistics.median(own[at])) for at in sorted(own)] for way, own in family.items()}


def _in_words(family: Family) -> str:
    said = []
    for way, own in _medians(family).items():
        (first, low), (last, high) = own[0], own[-1]
        said.append(f"{clean(way)}: {low:.4g} at {first:,g}, {high:.4g} at {last:,g}")
    return "; ".join(said)


def _cell(value: Any) -> str:
    return NOTHING if value is None else f"{value:,.4g}"

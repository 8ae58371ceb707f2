"""The charts of a study: quality against compute, multipliers, the bill, tuning. Altair with inline data."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import altair as alt

from ..core.scale import Scale
from ..ledger.ledger import PHASES
from ..store.results import MultiplierRow, StudyResult, Tuning, spent
from .ladders import by_rung, learning
from .sheets import arms_of, asked, evaluation_ends, mean, multiplier_text, quality_title, rung_budget, verdict
from .style import INK, OKABE_ITO, Chart, Extent, colour_scale, legend, log_scale, log_ticks, rows, shape_scale, widened
from .text import COMPUTE, CONVENTION, TIMES, amount, axis_label, clean

Figures = dict[str, Chart]
BEFORE = "spent before"
"""The bar of the bill that the ancestors have."""
BREAK = " : "
"""Where a label of the multipliers goes on in a second line."""


def figures(result: StudyResult) -> Figures:
    """Every chart that the result has data for, by file name, in the order of the page."""
    found: Figures = {}
    if evaluation_ends(result):
        found["quality"] = quality(result)
    if result.multipliers:
        found["multipliers"] = multipliers(result, asked(result))
    for name, draw in (("by_rung", by_rung), ("learning", learning)):
        if (chart := draw(result)) is not None:
            found[name] = chart
    if any(run.ledger for run in result.runs):
        found["bill"] = bill(result)
    for hyper in dict.fromkeys(tuning.hyper for tuning in result.tunings):
        curves = [tuning for tuning in result.tunings if tuning.hyper == hyper]
        name = "".join(c if c.isalnum() else "_" for c in hyper)
        found[f"tuning_{name}"] = tuning_curves(curves, arms_of(result), result.scale)
    if others := asked(result, others=True):
        found["others"] = multipliers(result, others)
    return found


# ---------------------------------------------------------------- quality against compute


def quality(result: StudyResult) -> Chart:
    """Held-out quality against training FLOPs, both logarithmic.

    Every seed's end as a small point, curves within runs faintly, the mean of every arm joined over its rungs (the
    baseline's ladder bold), and the multiplier on FLOPs as the dashed distance from an arm to the ladder; its number
    stands in the legend, where nothing lies beneath it.
    """
    arms = arms_of(result)
    ends, means, gaps = _ends(result), _means(result), _gaps(result)
    x_range = widened([point["flops"] for point in ends] + [gap["x2"] for gap in gaps], 0.07)
    extent = Extent.of(point["value"] for point in ends).with_worse(0.15, result.scale)  # room for the way there
    x_axis = alt.Axis(title=list(COMPUTE), values=log_ticks(*x_range), format="~s")
    x = alt.X("flops:Q", scale=log_scale(*x_range), axis=x_axis)
    y_axis = extent.axis(quality_title(result))
    y = alt.Y("value:Q", scale=extent.scale(), axis=y_axis)
    shown = _named(arms, gaps)
    colour = alt.Color("arm:N", scale=colour_scale(arms), legend=shown)
    shape = alt.Shape("arm:N", scale=shape_scale(arms), legend=shown)
    figures = [alt.Tooltip("flops:Q", format=".4s"), alt.Tooltip("value:Q", format=".4f")]
    within = alt.Chart(rows(point for point in _curves(result) if extent.shows(point["value"]))).encode(
        x=x, y=y, color=colour, detail="run:N"
    )
    mean_of = alt.Chart(rows(means)).encode(x=x, y=y, color=colour)
    seed_of = alt.Chart(rows(ends)).encode(x=x, y=y, color=colour, shape=shape)
    bold = alt.condition(alt.datum.arm == arms[0], alt.value(3), alt.value(2))
    bar = mean_of.mark_tick(orient="horizontal", size=24, thickness=3, opacity=1)
    layers = [
        within.mark_line(strokeWidth=1, opacity=0.22, clip=True),
        mean_of.mark_line().encode(strokeWidth=bold),
        bar.encode(tooltip=["arm:N", "rung:N", "seeds:Q", *figures]),
        seed_of.mark_point(size=42, opacity=0.75, filled=True).encode(tooltip=["arm:N", "rung:N", "seed:O", *figures]),
    ]
    if gaps:
        gap = alt.Chart(rows(gaps)).encode(y=y, color=colour)
        layers.append(gap.mark_rule(strokeDash=[5, 3], strokeWidth=1.5).encode(x=x, x2="x2:Q"))
        beyond = alt.Chart(rows(gap for gap in gaps if gap["side"] == "above")).encode(y=y, color=colour, x="x2:Q")
        layers.append(beyond.mark_point(shape="triangle-right", size=80, strokeWidth=2, opacity=1))
    reached = "; ".join(f"{clean(each['arm'])} {each['value']:.3f} at {each['rung']}" for each in means)
    description = f"Held-out {clean(result.unit)} against training compute, means over seeds: {reached}."
    return alt.layer(*layers).properties(height=400, description=description)


def _named(arms: list[str], gaps: list[dict[str, Any]]) -> alt.Legend:
    """The legend of the arms, each with its multipliers."""
    factors = {arm: ", ".join(gap["label"] for gap in gaps if clean(gap["arm"]) == arm) for arm in arms}
    names = {arm: f"{arm}  {factor}" if factor else arm for arm, factor in factors.items()}
    longest = max(map(len, names.values()))
    return legend(
        list(names.values()), labelExpr=f"({json.dumps(names)})[datum.label]", labelLimit=8 * max(longest, 19)
    )


def _ends(result: StudyResult) -> list[dict[str, Any]]:
    return [
        {"arm": arm, "rung": rung_budget(result, rung), "seed": seed, "flops": point.flops, "value": point.value}
        for (arm, rung), points in evaluation_ends(result).items()
        for seed, point in points.items()
        if point.flops > 0
    ]


def _means(result: StudyResult) -> list[dict[str, Any]]:
    return [
        {
            "arm": arm,
            "rung": rung_budget(result, rung),
            "flops": mean(point.flops for point in points.values()),
            "value": mean(point.value for point in points.values()),
            "seeds": len(points),
        }
        for (arm, rung), points in evaluation_ends(result).items()
        if any(point.flops > 0 for point in points.values())
    ]


def _curves(result: StudyResult) -> list[dict[str, Any]]:
    return [
        {"arm": run.arm, "run": f"{run.arm} {run.rung} {run.seed}", "flops": point.flops, "value": point.value}
        for run in result.runs
        if run.role == "evaluation" and run.status == "done"
        for point in run.curve
        if point.flops > 0
    ]


def _gaps(result: StudyResult) -> list[dict[str, Any]]:
    """From each arm's mean to the baseline's ladder: the multiplier on FLOPs as it is seen on the chart."""
    ends = evaluation_ends(result)
    found = []
    for row in result.multipliers:
        points = ends.get((row.arm, row.rung))
        factor = row.value if row.value is not None else row.bound
        if row.axis != "flops" or row.all_in or not points or factor is None:
            continue
        cost = mean(p.flops for p in points.values())
        if not cost > 0:
            continue
        gap = {"arm": row.arm, "flops": cost, "x2": cost * factor}
        label = {"label": multiplier_text(row, interval=False), "side": row.censored}
        found.append({**gap, **label, "value": mean(p.value for p in points.values())})
    return found


# ---------------------------------------------------------------- multipliers


def multipliers(result: StudyResult, listed: Sequence[MultiplierRow]) -> Chart:
    """One line a multiplier: point and interval on a logarithmic axis, each seed as a tick, bounds as open arrows.

    Its number stands beside the axis: within the chart a mark, or the line at 1, could lie beneath it.
    """
    arms = arms_of(result)
    several = len({(row.arm, row.rung) for row in result.multipliers}) > len({row.arm for row in result.multipliers})
    records = [_multiplier_record(row, several) for row in listed]
    exact = [record for record in records if record["kind"] == "exact"]
    seeds = [
        {"row": record["row"], "arm": record["arm"], "seed": value}
        for record, row in zip(records, listed, strict=True)
        for value in row.per_seed
        if value is not None
    ]
    marks = [record[key] for record in exact for key in ("low", "high")]
    low, high = widened([0.9, 1.1, *marks, *(r["value"] for r in records), *(s["seed"] for s in seeds)], 0.1)
    x_title = [
        f"how many times the arm's amount {clean(result.baseline)} needs",
        "(log scale, right of 1 the arm is better)",
    ]
    x_axis = alt.Axis(title=x_title, values=_factor_ticks(low, high), format="~g", labelExpr=f"datum.label + '{TIMES}'")
    x = alt.X("value:Q", scale=log_scale(low, high), axis=x_axis)
    lines = f"split(datum.label, '{BREAK}')"
    y_axis = alt.Axis(
        title=None, grid=False, ticks=False, domain=False, labelLimit=260, labelPadding=8, labelExpr=lines
    )
    y = alt.Y("row:N", sort=[record["row"] for record in records], axis=y_axis)
    others = arms[1:] or arms
    colour = alt.Color("arm:N", scale=alt.Scale(domain=others, range=list(OKABE_ITO[: len(others)])), legend=None)
    tooltip = ["row:N", "text:N", "verdict:N"]
    shapes = alt.Scale(domain=["above", "below", "none"], range=["triangle-right", "triangle-left", "cross"])

    def drawn(records: list[dict[str, Any]]) -> alt.Chart:
        return alt.Chart(rows(records)).encode(y=y, color=colour)

    one = alt.Chart(rows([{"value": 1.0}])).mark_rule(color=INK, strokeWidth=1.5, opacity=0.45).encode(x=x)
    interval = drawn(exact).mark_rule(strokeWidth=3).encode(x="low:Q", x2="high:Q")
    ticks = drawn(seeds).mark_tick(thickness=1, size=9, opacity=0.7).encode(x="seed:Q")
    points = drawn(exact).mark_point(size=80, filled=True, opacity=1).encode(x=x, tooltip=tooltip)
    bounds = drawn([record for record in records if record["kind"] != "exact"])
    arrows = bounds.mark_point(size=110, strokeWidth=2, opacity=1).encode(
        x=x, shape=alt.Shape("kind:N", scale=shapes, legend=None), tooltip=tooltip
    )
    height = 40 * len(records) + 10
    told = "; ".join(record["row"].replace(BREAK, " ") for record in records)
    description = f"Multipliers with their intervals: {told}."
    return alt.layer(one, interval, ticks, points, arrows).properties(height=height, description=description)


def _multiplier_record(row: MultiplierRow, several: bool) -> dict[str, Any]:
    name = f"{clean(row.arm)}, {axis_label(row.axis)}{', all-in' if row.all_in else ''}"
    name = f"{name}, rung {row.rung}" if several else name
    record: dict[str, Any] = {"row": f"{name}{BREAK}{multiplier_text(row)}", "arm": clean(row.arm)}
    record |= {"text": multiplier_text(row), "verdict": verdict(row)}
    if row.value is not None:
        low, high = row.low or row.value, row.high or row.value
        return record | {"kind": "exact", "value": row.value, "low": low, "high": high}
    if row.bound is not None and row.censored in ("above", "below"):
        return record | {"kind": row.censored, "value": row.bound}
    return record | {"kind": "none", "value": 1.0}


def _factor_ticks(low: float, high: float) -> list[float]:
    octaves = [2.0**k for k in range(math.ceil(math.log2(low)), math.floor(math.log2(high)) + 1)]
    if len(octaves) >= 4:
        stride = math.ceil(len(octaves) / 9)
        return [tick for tick in octaves if round(math.log2(tick)) % stride == 0]
    fine = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)
    return [tick for tick in fine if low <= tick <= high]


# ---------------------------------------------------------------- the bill


def bill(result: StudyResult) -> Chart:
    """Model FLOPs of every arm's runs, stacked by phase; the bars add up to the study's bill, and its ancestors'."""
    flops: dict[tuple[str, str], float] = defaultdict(float)
    for run, phase, amounts in spent(result.runs):
        flops[clean(run.arm), clean(phase)] += amounts.get("flops", 0.0)
    for ancestor in result.ancestors.values():
        flops[BEFORE, "ancestors"] += sum(amounts.get("flops", 0.0) for amounts in ancestor.ledger.values())
    flops = {key: value for key, value in flops.items() if value}
    arms = [*arms_of(result), BEFORE]
    phases = sorted({phase for _, phase in flops}, key=lambda p: (PHASES.index(p) if p in PHASES else len(PHASES), p))
    records = [
        {"arm": arm, "phase": phase, "order": phases.index(phase), "flops": value, "spent": amount("flops", value)}
        for (arm, phase), value in flops.items()
    ]
    title = ["model FLOPs of all runs, evaluation included", f"({CONVENTION})"]
    whole = "datum.value === 0 ? '0' : datum.label"  # not 0T
    bar = alt.Chart(rows(records)).mark_bar(size=26, stroke=None)
    chart: Chart = bar.encode(
        x=alt.X("flops:Q", stack="zero", axis=alt.Axis(title=title, format="~s", tickCount=6, labelExpr=whole)),
        y=alt.Y("arm:N", sort=arms, axis=alt.Axis(title=None, grid=False, ticks=False, domain=False, labelPadding=8)),
        color=alt.Color("phase:N", scale=_phase_scale(phases), sort=phases, legend=legend(phases, offset=8)),
        order=alt.Order("order:Q"),
        tooltip=["arm:N", "phase:N", "spent:N"],
    ).properties(height=44 * len({r["arm"] for r in records}) + 10, description=_billed(records))
    return chart


def _billed(records: list[dict[str, Any]]) -> str:
    """The bill in words."""
    totals: dict[str, float] = defaultdict(float)
    for record in records:
        totals[record["arm"]] += record["flops"]
    told = "; ".join(f"{arm} {amount('flops', flops)}" for arm, flops in totals.items())
    return f"FLOPs of all runs by arm: {told}."


def _phase_scale(phases: list[str]) -> alt.Scale:
    """The same phase has the same colour in every report."""
    known = ("train", "tuning", "optimizer", "evaluation", "recompute", "teacher", "scoring", "rollout", "search")
    colours = dict(zip(known, (*OKABE_ITO, "#F0E442", INK), strict=True))
    return alt.Scale(domain=phases, range=[colours.get(phase, "#999999") for phase in phases])


# ---------------------------------------------------------------- tuning


def tuning_curves(curves: list[Tuning], arms: list[str], scale: Scale) -> Chart:
    """Quality against a hyper-parameter, one line an arm and rung; the chosen value ringed, diverged trials crossed."""
    records, extent = _trials(curves, scale)
    rungs = list(dict.fromkeys(record["rung"] for record in records))
    tried = sorted({record["x"] for record in records})
    positive = tried[0] > 0  # zero has no place on a logarithmic axis
    x_scale = log_scale(*widened(tried)) if positive else alt.Scale(zero=False)
    hyper = clean(curves[0].hyper)
    x_axis = alt.Axis(title=f"{hyper} (log scale)" if positive else hyper, values=tried, format=".3~g")
    x = alt.X("x:Q", scale=x_scale, axis=x_axis)
    y = alt.Y("y:Q", scale=extent.scale(), axis=extent.axis(f"held-out {clean(scale.unit)}, {scale.direction}"))
    shown = legend(arms, symbolType="stroke", symbolSize=400)
    colour = alt.Color("arm:N", scale=colour_scale(arms), legend=shown)
    dashes = alt.Scale(domain=rungs, range=[[1, 0], [6, 3], [2, 2], [8, 2, 2, 2]][: len(rungs)])
    dash = alt.StrokeDash("rung:N", scale=dashes, legend=None)
    tooltip = ["arm:N", "rung:N", alt.Tooltip("x:Q", title=hyper), "state:N"]
    measured = [*tooltip, alt.Tooltip("y:Q", title=clean(scale.unit), format=".4f")]

    def drawn(*states: str) -> alt.Chart:
        return alt.Chart(rows(r for r in records if r["state"] in states)).encode(x=x, y=y, color=colour)

    lines = drawn("tried", "chosen").mark_line(strokeWidth=2).encode(strokeDash=dash)
    points = drawn("tried", "chosen").mark_point(filled=True, size=40, opacity=1).encode(tooltip=measured)
    rings = drawn("chosen").mark_point(size=220, strokeWidth=2, opacity=1).encode(tooltip=measured)
    crosses = drawn("diverged").mark_point(shape="cross", angle=45, size=110, opacity=1, filled=True)
    layers = alt.layer(lines, points, rings, crosses.encode(tooltip=tooltip))
    chosen = "; ".join(f"{clean(each.arm)} at rung {each.rung} chose {each.chosen:.3g}" for each in curves)
    return layers.properties(height=300, description=f"Tuning of {hyper}: {chosen}.")


def _trials(curves: list[Tuning], scale: Scale) -> tuple[list[dict[str, Any]], Extent]:
    """One record a trial and the range of the y axis; diverged trials lie beyond the worst that was measured."""
    measured = Extent.of((quality for tuning in curves for quality in tuning.quality), 0.1)
    most = max(sum(quality is None for quality in trials) for trials in _by_value(curves).values())
    step = min(0.06, 0.25 / most) if most else 0.0
    diverged: dict[float, int] = defaultdict(int)
    records: list[dict[str, Any]] = []
    for tuning in curves:
        for value, quality in zip(tuning.values, tuning.quality, strict=True):
            state = "diverged" if quality is None else "chosen" if value == tuning.chosen else "tried"
            diverged[value] += quality is None
            beyond = measured.with_worse(step * (most - diverged[value] + 0.5), scale).worst(scale)
            record = {"arm": tuning.arm, "rung": f"rung {tuning.rung}", "state": state}
            records.append({**record, "x": value, "y": beyond if quality is None else quality})
    return records, measured.with_worse(step * most, scale)


def _by_value(curves: list[Tuning]) -> dict[float, list[float | None]]:
    found: dict[float, list[float | None]] = defaultdict(list)
    for tuning in curves:
        for value, quality in zip(tuning.values, tuning.quality, strict=True):
            found[value].append(quality)
    return found

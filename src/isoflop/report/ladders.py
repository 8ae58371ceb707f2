"""What a study shows over its budgets: learning curves with their seeds, multipliers by rung, the noise of its runs."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import altair as alt

from ..store.results import MultiplierRow, Point, StudyResult
from .sheets import Sheet, arms_of, asked, evaluation_ends, mean, multiplier_text, quality_title, rung_budget, verdict
from .style import INK, Chart, Extent, colour_scale, legend, log_scale, log_ticks, rows, shape_scale, widened
from .text import COMPUTE, NOTHING, TIMES, clean, signed

LEAST = 2
"""Evaluations within a run from which on there is a curve to see, and rungs from which on there is a trend."""


# ---------------------------------------------------------------- learning curves


def learning(result: StudyResult) -> Chart | None:
    """Held-out quality within runs: the mean over seeds of every arm and rung, in a band from the worst to the best.

    None where no run was evaluated before its end.
    """
    records = list(_learned(result))
    if not records:
        return None
    arms = arms_of(result)
    x_range = widened([record["flops"] for record in records], 0.04)
    extent = Extent.of((record[key] for record in records for key in ("low", "high")), 0.05)
    x_axis = alt.Axis(title=list(COMPUTE), values=log_ticks(*x_range), format="~s")
    title = quality_title(result)
    key = legend(arms)
    base = alt.Chart(rows(records)).encode(
        x=alt.X("flops:Q", scale=log_scale(*x_range), axis=x_axis),
        color=alt.Color("arm:N", scale=colour_scale(arms), legend=key),
        detail="run:N",
    )
    value = alt.Y("value:Q", scale=extent.scale(), axis=extent.axis(title))
    low = alt.Y("low:Q", scale=extent.scale(), axis=extent.axis(title))
    figures = [alt.Tooltip("flops:Q", format=".4s"), alt.Tooltip("value:Q", format=".4f"), "seeds:Q"]
    points = base.mark_point(filled=True, size=30, opacity=1).encode(
        y=value, shape=alt.Shape("arm:N", scale=shape_scale(arms), legend=key), tooltip=["arm:N", "rung:N", *figures]
    )
    layers = (
        base.mark_area(opacity=0.18, strokeWidth=0).encode(y=low, y2="high:Q"),
        base.mark_line(strokeWidth=2).encode(y=value),
        points,
    )
    return alt.layer(*layers).properties(height=340, description=_learning_in_words(result, records))


def _learned(result: StudyResult) -> Iterator[dict[str, Any]]:
    """One record an evaluation of every arm and rung: mean, lowest and highest over the seeds that have it."""
    groups: dict[tuple[str, int], dict[int, list[Point]]] = defaultdict(lambda: defaultdict(list))
    for run in result.runs:
        if run.role == "evaluation" and run.status == "done":
            for point in run.curve:
                if point.flops > 0:
                    groups[run.arm, run.rung][point.step].append(point)
    if max((len(steps) for steps in groups.values()), default=0) < LEAST:
        return
    for (arm, rung), steps in groups.items():
        for step in sorted(steps):
            found = steps[step]
            values = [point.value for point in found]
            named = {"arm": arm, "rung": rung_budget(result, rung), "run": f"{arm} {rung}", "step": step}
            spread = {"value": mean(values), "low": min(values), "high": max(values), "seeds": len(values)}
            yield {**named, "flops": mean(point.flops for point in found), **spread}


def _learning_in_words(result: StudyResult, records: list[dict[str, Any]]) -> str:
    last = {record["run"]: record for record in records}
    ends = [f"{clean(each['arm'])} {each['value']:.3f} after {each['rung']}" for each in last.values()]
    return f"Learning curves of held-out {clean(result.unit)} against compute; they end at: {'; '.join(ends)}."


# ---------------------------------------------------------------- multipliers by rung


def by_rung(result: StudyResult) -> Chart | None:
    """The multiplier on FLOPs against the arm's budget, with intervals; bounds as open arrows.

    None where no arm has two rungs.
    """
    listed = [row for row in asked(result) if row.axis == "flops" and 0 <= row.rung < len(result.rungs)]
    counts: dict[str, set[int]] = defaultdict(set)
    for row in listed:
        counts[row.arm].add(row.rung)
    listed = [row for row in listed if row.value is not None or row.bound is not None]
    if max((len(rungs) for rungs in counts.values()), default=0) < LEAST or not listed:
        return None
    records = [_rung_record(result, row) for row in listed]
    exact = [record for record in records if record["kind"] == "exact"]
    arms = arms_of(result)
    budgets = [result.rungs[rung] for rung in sorted({row.rung for row in listed})]
    x_axis = alt.Axis(title=f"budget of the arm, {clean(result.rung_axis)}", values=budgets, format="~s")
    x = alt.X("budget:Q", scale=log_scale(*widened(budgets, 0.12)), axis=x_axis)
    marks = [record[key] for record in exact for key in ("low", "high")]
    low, high = widened([0.9, 1.1, *marks, *(record["value"] for record in records)], 0.08)
    y_axis = alt.Axis(
        title=f"how many times the arm's compute {clean(result.baseline)} needs, above 1 the arm is better",
        values=log_ticks(low, high),
        format="~g",
        labelExpr=f"datum.label + '{TIMES}'",
    )
    y = alt.Y("value:Q", scale=log_scale(low, high), axis=y_axis)
    others = [arm for arm in arms if arm in {record["arm"] for record in records}]
    scale = colour_scale(arms)
    colours = alt.Scale(domain=others, range=[scale.range[arms.index(arm)] for arm in others])
    colour = alt.Color("arm:N", scale=colours, legend=legend(others))
    kinds = alt.Scale(domain=["exact", "above", "below"], range=["circle", "triangle-up", "triangle-down"])
    shape = alt.Shape("kind:N", scale=kinds, legend=None)
    tooltip = ["arm:N", "rung:N", "text:N", "verdict:N"]
    line = alt.Chart(rows(records)).mark_line(strokeWidth=1.5, opacity=0.6).encode(x=x, y=y, color=colour)
    one = alt.Chart(rows([{"value": 1.0}])).mark_rule(color=INK, opacity=0.45, strokeWidth=1.5).encode(y=y)
    ends = (
        alt.Chart(rows(exact))
        .mark_rule(strokeWidth=3)
        .encode(x=x, y=alt.Y("low:Q", scale=log_scale(low, high)), y2="high:Q", color=colour)
    )
    points = (
        alt.Chart(rows(records))
        .mark_point(size=80, strokeWidth=2, opacity=1)
        .encode(x=x, y=y, color=colour, shape=shape, tooltip=tooltip)
    )
    told = "; ".join(f"{record['arm']} at {record['rung']} {record['text']}" for record in records)
    return alt.layer(one, line, ends, points).properties(height=280, description=f"Multiplier by budget: {told}.")


def _rung_record(result: StudyResult, row: MultiplierRow) -> dict[str, Any]:
    said = {"arm": clean(row.arm), "rung": rung_budget(result, row.rung), "budget": result.rungs[row.rung]}
    said |= {"text": multiplier_text(row), "verdict": verdict(row)}
    if row.value is not None:
        ends = {"low": row.low or row.value, "high": row.high or row.value}
        return {**said, "kind": "exact", "value": row.value, **ends}
    return {**said, "kind": row.censored, "value": row.bound}


# ---------------------------------------------------------------- noise


def noise_sheet(result: StudyResult) -> Sheet:
    """How much runs of one arm and rung differ over seeds, beside what a rung changes and the text's error."""
    ends, lines = evaluation_ends(result), []
    for arm in dict.fromkeys([result.baseline, *result.arms]):
        before: float | None = None
        for rung in range(len(result.rungs)):
            points = list(ends.get((arm, rung), {}).values())
            if not points:
                continue
            values = [point.value for point in points]
            errors = [point.stderr for point in points if point.stderr is not None]
            lines.append(
                (
                    clean(arm),
                    rung_budget(result, rung),
                    str(len(values)),
                    result.scale.text(mean(values)),
                    f"{statistics.stdev(values):.4f}" if len(values) > 1 else NOTHING,
                    NOTHING if before is None else signed(mean(values) - before),
                    f"{mean(errors):.4f}" if errors else NOTHING,
                )
            )
            before = mean(values)
    return Sheet(
        "Noise",
        ("arm", "budget", "seeds", "mean", "sd over seeds", "change from the rung before", "error of the text"),
        lines,
        frozenset({2, 3, 4, 5, 6}),
        "Seeds decide initialisation and data order; the intervals of the multipliers rest on how they differ. The "
        "error of the text is how far another held-out text of this size may lie away: all runs share it, so that "
        "differences between arms do not have it.",
    )

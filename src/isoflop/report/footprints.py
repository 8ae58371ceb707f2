"""What compressed models take and lose: quality by bits and FLOPs in use, zeros by layer, damaged blocks over steps."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import altair as alt

from ..store.records import Ancestors
from ..store.results import StudyResult
from .charts import Figures
from .sheets import Sheet, arms_of, mean, quality_title, rung_budget
from .style import Chart, Extent, colour_scale, legend, log_scale, log_ticks, rows, shape_scale, widened
from .text import AXES, amount, axis_label, clean

Told = list[tuple[int, Mapping[str, Mapping[str, float]]]]
"""Step of each evaluation, and what layers and parametrizations said, by module (``contracts.weights_told``)."""
AXES_IN_USE = {"bits_per_weight": "bits a weight in use", "inference_flops": "FLOPs of a token in use"}


def in_use(result: StudyResult) -> Figures:
    """Quality against what a model takes in use, on each axis on which the runs of a study differ."""
    points = _points(result)
    return {axis: _against(result, points, axis) for axis in _differing(points)}


def in_use_sheet(result: StudyResult) -> Sheet:
    """Arm x rung: what the model takes in use, and its quality, means over seeds; empty where no runs differ in it."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    every = _points(result)
    for point in every:
        groups[point["arm"], point["rung"]].append(point)
    lines = [
        (
            arm,
            rung,
            f"{mean(p['bits_per_weight'] for p in points):.3g}",
            amount("flops", mean(p["inference_flops"] for p in points)),
            result.scale.text(mean(p["value"] for p in points)),
        )
        for (arm, rung), points in groups.items()
    ]
    shown = lines if _differing(every) else []
    columns = ("arm", "rung", "bits a weight", "FLOPs of a token", clean(result.unit))
    note = (
        "Bits: the mean over all matrices, 16 where nothing is rounded. FLOPs: a forward pass, without what masks skip."
    )
    return Sheet("What the models take in use", columns, shown, frozenset({2, 3, 4}), note)


def _points(result: StudyResult) -> list[dict[str, Any]]:
    return [
        {
            "arm": clean(run.arm),
            "rung": rung_budget(result, run.rung),
            "seed": run.seed,
            "value": run.end.value,
            "bits_per_weight": run.bits_per_weight,
            "inference_flops": run.inference_flops,
        }
        for run in result.runs
        if run.role == "evaluation" and run.end is not None and run.bits_per_weight and run.inference_flops
    ]


def _differing(points: list[dict[str, Any]]) -> list[str]:
    """The axes on which runs differ."""
    return [axis for axis in AXES_IN_USE if len({point[axis] for point in points}) > 1]


def _against(result: StudyResult, points: list[dict[str, Any]], axis: str) -> Chart:
    """Every seed's end; log-log, so that halves of bits are as far apart as halves of FLOPs."""
    arms = arms_of(result)
    x_range = widened([point[axis] for point in points], 0.1)
    extent = Extent.of(point["value"] for point in points)
    named = legend(arms)
    x_axis = alt.Axis(title=AXES_IN_USE[axis], values=log_ticks(*x_range), format="~s")
    chart = (
        alt.Chart(rows(points))
        .mark_point(size=60, filled=True, opacity=0.75)
        .encode(
            x=alt.X(f"{axis}:Q", scale=log_scale(*x_range), axis=x_axis),
            y=alt.Y("value:Q", scale=extent.scale(), axis=extent.axis(quality_title(result))),
            color=alt.Color("arm:N", scale=colour_scale(arms), legend=named),
            shape=alt.Shape("arm:N", scale=shape_scale(arms), legend=named),
            tooltip=["arm:N", "rung:N", "seed:O", f"{axis}:Q", alt.Tooltip("value:Q", format=".4f")],
        )
    )
    told = f"Held-out {clean(result.unit)} against {AXES_IN_USE[axis]}, a point for each run."
    found: Chart = chart.properties(height=340, description=told)
    return found


# ---------------------------------------------------------------- a run's own weights


def weights_told(told: Told) -> Figures:
    """The charts of a run whose parametrizations said something of their weights."""
    found: Figures = {}
    if not told:
        return found
    if any("density" in facts for facts in told[-1][1].values()):
        found["density"] = densities(told[-1][1])
    if any("collapsed" in facts for facts in told[-1][1].values()):
        found["blocks"] = blocks(told)
    return found


def densities(told: Mapping[str, Mapping[str, float]]) -> Chart:
    """The share of weights that are not zero at the last evaluation, by layer: the mean over its matrices of a kind."""
    each: dict[tuple[str, str], list[float]] = defaultdict(list)
    for name, facts in told.items():
        if "density" in facts:
            each[_place(name)].append(facts["density"])
    shares = {place: mean(found) for place, found in each.items()}
    points = [{"layer": layer, "matrix": kind, "density": share} for (layer, kind), share in shares.items()]
    kinds = list(dict.fromkeys(kind for _, kind in shares))
    layers = sorted({layer for layer, _ in shares}, key=lambda layer: (not layer.isdigit(), layer.zfill(4)))
    named = legend(kinds)
    x = alt.X("layer:O", sort=layers, axis=alt.Axis(title="layer", labelAngle=0))
    y_axis = alt.Axis(title="share of weights that are not zero", format="%")
    colours, shapes = colour_scale(kinds), shape_scale(kinds)
    chart = (
        alt.Chart(rows(points))
        .mark_point(size=70, filled=True, opacity=0.9)
        .encode(
            x=x,
            y=alt.Y("density:Q", scale=alt.Scale(domain=[0, 1]), axis=y_axis),
            color=alt.Color("matrix:N", scale=colours, legend=named),
            shape=alt.Shape("matrix:N", scale=shapes, legend=named),
            tooltip=["layer:O", "matrix:N", alt.Tooltip("density:Q", format=".2%")],
        )
    )
    said = f"Share of weights that are not zero, by layer; {mean(shares.values()):.1%} on average."
    found: Chart = chart.properties(height=300, description=said)
    return found


def blocks(told: Told) -> Chart:
    """Shares of blocks that became all alike, and whose largest number was cut, over steps: gains apart."""
    points: list[dict[str, Any]] = []
    for step, facts in told:
        for fate in ("collapsed", "saturated"):
            for whose in ("matrices", "gains"):
                values = [f[fate] for name, f in facts.items() if fate in f and _whose(name) == whose]
                if values:
                    points.append({"step": step, "blocks": f"{whose}, {fate}", "share": mean(values)})
    kinds = list(dict.fromkeys(point["blocks"] for point in points))
    named = legend(kinds)
    base = alt.Chart(rows(points)).encode(
        x=alt.X("step:Q", axis=alt.Axis(title="step", format="~s", tickCount=6)),
        y=alt.Y("share:Q", scale=alt.Scale(zero=True), axis=alt.Axis(title="share of blocks", format=".2~%")),
        color=alt.Color("blocks:N", scale=colour_scale(kinds), legend=named),
    )
    shape = alt.Shape("blocks:N", scale=shape_scale(kinds), legend=named)
    tooltip = ["step:Q", "blocks:N", alt.Tooltip("share:Q", format=".2%")]
    mark = base.mark_point(size=50, filled=True, opacity=1).encode(shape=shape, tooltip=tooltip)
    ends = ", ".join(f"{p['blocks']} {p['share']:.1%}" for p in points if p["step"] == told[-1][0])
    said = f"Shares of blocks that their format damages; at the end {ends}."
    return alt.layer(base.mark_line(strokeWidth=2), mark).properties(height=300, description=said)


def _place(module: str) -> tuple[str, str]:
    """Layer and kind of a matrix, e.g. "3" and "mixer"; what lies outside the blocks is a layer of its own name."""
    first, _, rest = module.partition(".")
    number, _, inner = rest.partition(".")
    kind = "gains" if _whose(module) == "gains" else clean(inner.partition(".")[0])
    return (number, kind) if first == "blocks" and number.isdigit() else (clean(module), kind or "others")


def _whose(module: str) -> str:
    return "gains" if "norm" in module.rpartition(".")[2] else "matrices"


# ---------------------------------------------------------------- the bill


def whole_bill_sheet(
    ledger: Mapping[str, Mapping[str, float]],
    ancestors: Ancestors,
    axes: Iterable[str] = ("flops", "tokens", "seconds"),
) -> Sheet:
    """What was spent here alone, on ancestors, and on all together; empty where there are no ancestors."""
    columns = ["spent", *(axis_label(axis) for axis in axes)]
    own = {axis: _spent(ledger, axis) for axis in AXES}
    before = {axis: math.fsum(_spent(each.ledger, axis) for each in ancestors.values()) for axis in AXES}
    whole = {axis: own[axis] + before[axis] for axis in AXES}
    lines = [
        (name, *(amount(axis, spent[axis]) for axis in axes))
        for name, spent in (("here alone", own), ("on ancestors", before), ("with ancestors", whole))
    ]
    note = "An ancestor counts once, however often it is used, and in full, whatever else it was made for."
    return Sheet(
        "Bill with and without ancestors", tuple(columns), lines if ancestors else [], frozenset(range(1, 4)), note
    )


def _spent(ledger: Mapping[str, Mapping[str, float]], axis: str) -> float:
    return math.fsum(amounts.get(axis, 0) for amounts in ledger.values())

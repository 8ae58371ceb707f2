"""How experts are loaded: each one's share of the choices by layer, and the busiest one's over a run's steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt

from .charts import Figures
from .footprints import Told
from .sheets import Sheet
from .style import INK, OKABE_ITO, Chart, colour_scale, legend, rows, shape_scale
from .text import clean

EXPERT = "expert "
"""What the name of a fact begins with that tells an expert's share."""


def figures(told: Told) -> Figures:
    """The charts of a run whose layers told how their experts are loaded."""
    last = _shares(told[-1][1]) if told else {}
    return {"load": by_layer(last), "busiest": over_steps(told)} if last else {}


def load_sheet(told: Told) -> Sheet:
    """The load at the last evaluation, a line a layer; empty where there are no experts."""
    lines = [
        (
            _layer(name),
            str(len(shares)),
            f"{1 / len(shares):.1%}",
            f"{max(shares.values()):.1%} (expert {max(shares, key=shares.__getitem__)})",
            f"{min(shares.values()):.1%}",
            str(sum(not share for share in shares.values())),
        )
        for name, shares in (_shares(told[-1][1]) if told else {}).items()
    ]
    columns = ("layer", "experts", "even", "busiest", "idlest", "without a token")
    note = "Shares of the choices in the step before the last evaluation."
    return Sheet("Load of the experts", columns, lines, frozenset({1, 2, 3, 4, 5}), note)


def by_layer(last: Mapping[str, Mapping[int, float]]) -> Chart:
    """Every expert's share at the last evaluation as a tick, layer by layer; the bar is an even load."""
    layers = [_layer(name) for name in last]
    points: list[dict[str, Any]] = [
        {"layer": _layer(name), "expert": number, "share": share}
        for name, shares in last.items()
        for number, share in shares.items()
    ]
    even = [{"layer": _layer(name), "share": 1 / len(shares)} for name, shares in last.items()]
    y = alt.Y("share:Q", scale=alt.Scale(zero=True), axis=alt.Axis(title="share of the choices", format=".3~%"))
    x = alt.X("layer:O", sort=layers, axis=alt.Axis(title="layer", labelAngle=0))
    ticks = alt.Chart(rows(points)).mark_tick(orient="horizontal", size=26, thickness=2, opacity=0.75)
    bars = alt.Chart(rows(even)).mark_tick(orient="horizontal", size=44, thickness=2, color=INK, opacity=0.6)
    tooltip = ["layer:O", "expert:Q", alt.Tooltip("share:Q", format=".2%")]
    told = "; ".join(
        f"layer {_layer(name)} from {min(own.values()):.1%} to {max(own.values()):.1%}, even {1 / len(own):.1%}"
        for name, own in last.items()
    )
    return alt.layer(
        bars.encode(x=x, y=y), ticks.encode(x=x, y=y, color=alt.value(OKABE_ITO[0]), tooltip=tooltip)
    ).properties(height=260, description=f"Each expert's share of the choices: {told}.")


def over_steps(told: Told) -> Chart:
    """The busiest expert's share at every evaluation, in multiples of an even load: a line a layer."""
    points: list[dict[str, Any]] = [
        {
            "step": step,
            "layer": _layer(name),
            "times": max(shares.values()) * len(shares),
            "share": max(shares.values()),
        }
        for step, facts in told
        for name, shares in _shares(facts).items()
    ]
    layers = list(dict.fromkeys(point["layer"] for point in points))
    named = [f"layer {layer}" for layer in layers]
    for point in points:
        point["layer"] = f"layer {point['layer']}"
    key = legend(named)
    axis = alt.Axis(title="the busiest expert's load, even = 1", format=".3~g")
    base = alt.Chart(rows(points)).encode(
        x=alt.X("step:Q", axis=alt.Axis(title="step", format="~s", tickCount=6)),
        y=alt.Y("times:Q", scale=alt.Scale(zero=False, nice=True), axis=axis),
        color=alt.Color("layer:N", scale=colour_scale(named), sort=named, legend=key),
    )
    shape = alt.Shape("layer:N", scale=shape_scale(named), sort=named, legend=key)
    tooltip = ["layer:N", "step:Q", alt.Tooltip("times:Q", format=".3~g"), alt.Tooltip("share:Q", format=".2%")]
    mark = base.mark_point(size=50, filled=True, opacity=1).encode(shape=shape, tooltip=tooltip)
    one = alt.Chart(rows([{"times": 1.0}])).mark_rule(color=INK, strokeDash=[4, 3], opacity=0.5).encode(y="times:Q")
    ends = ", ".join(f"{p['layer']} {p['times']:.2f}" for p in points if p["step"] == told[-1][0])
    said = f"The busiest expert's load in multiples of an even one, over steps; at the end {ends}."
    return alt.layer(one, base.mark_line(strokeWidth=2), mark).properties(height=260, description=said)


def _shares(facts: Mapping[str, Mapping[str, float]]) -> dict[str, dict[int, float]]:
    """Module -> expert -> share, of those modules that tell them."""
    found = {
        name: {
            int(fact.removeprefix(EXPERT)): share
            for fact, share in own.items()
            if fact.startswith(EXPERT) and fact.removeprefix(EXPERT).isdecimal()
        }
        for name, own in facts.items()
    }
    return {name: shares for name, shares in found.items() if shares}


def _layer(module: str) -> str:
    """The layer's number, where the module lies in one; else its name."""
    number = module.removeprefix("blocks.").partition(".")[0]
    return number if module.startswith("blocks.") and number.isdigit() else clean(module)

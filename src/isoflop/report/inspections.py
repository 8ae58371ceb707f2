"""An inspection of models before a merge, as tables and charts."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

import altair as alt

from ..store.inspections import Inspection, TensorFacts
from .charts import Figures
from .sheets import Sheet
from .style import Chart, colour_scale, legend, rows
from .text import NOTHING, clean


def headline(found: Inspection) -> str:
    """What to know before merging, in a sentence or two."""
    total = sum(facts.magnitude for facts in found.tensors)
    if not total:
        return "No model differs from the base."
    lost = sum(facts.cancelled * facts.magnitude for facts in found.tensors) / total
    if len(found.models) < 2:
        return "One model beside its base: there is nothing to interfere with."
    worst = found.interfering(1)
    where = f" Most of it is lost in {clean(worst[0].name)}." if worst else ""
    return f"Added up, the task vectors lose {100 * lost:.0f} % of their magnitude to opposite signs.{where}"


def layer_sheet(found: Inspection) -> Sheet:
    """Layer by layer: distances, agreement, interference."""
    names = tuple(f"distance {_short(model)}" for model in found.models)
    lines = [(facts.name, *_distances(facts), *_agreement(facts)) for facts in found.layers]
    return Sheet(
        "By layer",
        ("where", *names, "cosine", "sign conflicts", "cancelled"),
        lines,
        frozenset(range(1, len(names) + 4)),
        "Distance: |d| / |base|, d = model - base. Cosine: mean of pairs of task vectors. Sign conflicts: of the "
        "elements that several models change. Cancelled: share of the magnitude that is gone in the sum.",
    )


def tensor_sheet(found: Inspection) -> Sheet | None:
    """The tensors that will interfere most; None where none can, as one model stands alone or none differs."""
    names = tuple(f"stable rank {_short(model)}" for model in found.models)
    lines = [
        (clean(facts.name), *(NOTHING if rank is None else f"{rank:.1f}" for rank in facts.ranks), *_agreement(facts))
        for facts in found.interfering()
    ]
    if not lines:
        return None
    return Sheet(
        "What will interfere",
        ("tensor", *names, "cosine", "sign conflicts", "cancelled"),
        lines,
        frozenset(range(1, len(names) + 4)),
        "The tensors in which most magnitude is lost. Methods that elect a sign (ties, sce) act where signs conflict.",
    )


def figures(found: Inspection) -> Figures:
    """Distance and interference over the layers."""
    inner = [facts for facts in found.layers if facts.layer is not None]
    if len(inner) < 2:
        return {}
    return {"distances": _distance_chart(found, inner), "interference": _interference_chart(inner)}


def _distance_chart(found: Inspection, layers: list[TensorFacts]) -> Chart:
    names = [_short(model) for model in found.models]
    records = [
        {"layer": facts.layer, "value": distance, "what": name}
        for facts in layers
        for name, distance in zip(names, facts.distances, strict=True)
    ]
    return _lines(records, names, "distance from the base, |d| / |base|")


def _interference_chart(layers: list[TensorFacts]) -> Chart:
    kinds = ["sign conflicts", "cancelled"]
    records = [
        {"layer": facts.layer, "value": 100 * value, "what": kind}
        for facts in layers
        for kind, value in zip(kinds, (facts.conflict, facts.cancelled), strict=True)
    ]
    return _lines(records, kinds, "share, %")


def _lines(records: list[dict[str, Any]], names: list[str], title: str) -> Chart:
    """A line over the layers for each name."""
    x = alt.X("layer:Q", axis=alt.Axis(title="layer", tickMinStep=1))
    y = alt.Y("value:Q", axis=alt.Axis(title=title))
    colour = alt.Color("what:N", scale=colour_scale(names), legend=legend(names))
    lines: Chart = alt.Chart(rows(records)).mark_line(point=True).encode(x=x, y=y, color=colour)
    return lines.properties(height=240, description=f"{title}, by layer")


def _short(model: str) -> str:
    return clean(PurePath(model).name or model)


def _distances(facts: TensorFacts) -> tuple[str, ...]:
    return tuple(f"{distance:.3g}" for distance in facts.distances)


def _agreement(facts: TensorFacts) -> tuple[str, str, str]:
    cosine = NOTHING if facts.cosine is None else f"{facts.cosine:.2f}"
    return cosine, f"{100 * facts.conflict:.0f} %", f"{100 * facts.cancelled:.0f} %"

"""One run as a report sees it: its directory's JSON, its loss curves, its evaluations."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import altair as alt

from ..core.scale import Scale
from ..core.table import Table
from ..store.records import Ancestors, scale_of
from ..store.run import Run
from . import loads
from .charts import Figures
from .footprints import Told, weights_told
from .sheets import Sheet
from .style import (
    INK,
    OKABE_ITO,
    Chart,
    Extent,
    colour_scale,
    legend,
    log_scale,
    log_ticks,
    rows,
    shape_scale,
    widened,
)
from .text import COMPUTE, amount, clean, known

POINTS = 800
"""Points of the loss curve that are drawn; more are averaged in groups."""


@dataclass(frozen=True)
class RunRecord:
    """What a run directory says. ``steps`` and ``evaluations`` hold one row a record of ``metrics.jsonl``."""

    name: str
    scale: Scale
    """What the values of ``evaluations`` are measured on."""
    bound: bool
    """They are bounds."""
    state: str
    message: str
    recipe: str
    """The TOML as the user wrote it."""
    resolved: dict[str, Any]
    """The recipe with every default and override."""
    environment: dict[str, Any]
    ledger: dict[str, dict[str, float]]
    ancestors: Ancestors
    """What was spent on the models that it begins with or uses."""
    result: dict[str, Any]
    steps: Table
    evaluations: Table
    told: Told
    """What layers said of their use, and parametrizations of their weights, at each evaluation."""

    @classmethod
    def read(cls, directory: Path) -> RunRecord:
        """Read a run directory; DataError if it is none."""
        stored = Run.read(directory)
        evaluated = stored.metrics("evaluation")
        last = evaluated[-1] if evaluated else stored.result
        scale = scale_of(last)
        return cls(
            name=clean(directory.name),
            scale=replace(scale, unit=clean(scale.unit)),
            bound=last.get("bound", False),
            state=stored.state,
            message=clean(stored.status.message),
            recipe=stored.text,
            resolved=stored.resolved,
            environment=stored.environment,
            ledger=stored.ledger,
            ancestors=stored.ancestors,
            result=stored.result,
            steps=Table.from_records(stored.metrics("step")),
            evaluations=Table.from_records(_flat(record) for record in evaluated),
            told=[(record["step"], record["weights"]) for record in evaluated if record.get("weights")],
        )

    def evaluation_sheet(self) -> Sheet:
        """One line an evaluation: what had been spent, the value with its standard error, its domains."""
        domains = _domains(self.evaluations)
        lines = [
            (
                f"{record['step']:,}",
                amount("flops", record["flops"]),
                amount("tokens", record["tokens"]),
                self.text(record["value"]) + (f" ± {record['stderr']:.4f}" if record["stderr"] >= 0 else ""),
                *(self.text(record[name]) for name in domains),
            )
            for record in self.evaluations.records()
        ]
        named = [clean(name.removeprefix("domain ")) for name in domains]
        columns = ("step", "FLOPs", "tokens", self.scale.unit, *named)
        return Sheet("Evaluations", columns, lines, frozenset(range(len(columns))))

    def text(self, value: Any) -> str:
        """A measured value as it is printed, a bound as one; blank where there is none."""
        return "" if known(value) is None else self.scale.text(value, bound=self.bound)

    def figures(self) -> Figures:
        """The charts that the run has data for, by file name."""
        found: Figures = {}
        if self.evaluations.rows:
            found["quality"] = evaluations(self.evaluations, self.scale, bound=self.bound)
        if self.steps.rows:
            found["loss"] = losses(self.steps)
        return found | weights_told(self.told) | loads.figures(self.told)


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    domains = {f"domain {name}": value for name, value in (record.get("domains") or {}).items()}
    return {**{key: record.get(key) for key in ("step", "flops", "tokens", "value", "stderr")}, **domains}


def _domains(evaluations: Table) -> list[str]:
    """The columns of domains; none where there is one alone, whose values are those of the whole."""
    found = [name for name in evaluations if name.startswith("domain ")]
    return found if len(found) > 1 else []


def losses(steps: Table) -> Chart:
    """Training loss in nats a token against FLOPs: every step faintly, the mean of those within 10 % boldly."""
    measured = [{key: known(record[key]) for key in ("flops", "loss")} for record in steps.records()]
    points = _thinned(
        [{"flops": p["flops"], "loss": p["loss"]} for p in measured if p["flops"] and p["loss"] is not None]
    )
    smooth = []
    for point in points:
        near = [p["loss"] for p in points if 0.9 < p["flops"] / point["flops"] < 1 / 0.9]
        smooth.append({**point, "loss": sum(near) / len(near)})
    extent = Extent.of((p["loss"] for p in points), 0.05)
    x = _compute_axis(widened([p["flops"] for p in points], 0.02))
    y = alt.Y("loss:Q", scale=extent.scale(), axis=extent.axis("training loss, nats a token"))
    raw = alt.Chart(rows(points)).mark_line(color=INK, strokeWidth=1, opacity=0.25).encode(x=x, y=y)
    mean = alt.Chart(rows(smooth)).mark_line(color=OKABE_ITO[0], strokeWidth=2).encode(x=x, y=y)
    return alt.layer(raw, mean).properties(height=300, description=_told("Training loss", [p["loss"] for p in smooth]))


def evaluations(table: Table, scale: Scale, *, bound: bool = False) -> Chart:
    """Held-out quality against FLOPs: the mean boldly, every domain in its colour."""
    domains = _domains(table)
    names = [clean(name.removeprefix("domain ")) for name in domains]
    whole = "all"
    while whole in names:  # a domain may be called so
        whole += " domains"
    names.insert(0, whole)
    points = [
        {"of": name, "flops": record["flops"], "value": record[column], "step": record["step"]}
        for record in table.records()
        for name, column in zip(names, ["value", *domains], strict=True)
        if (known(record["flops"]) or 0) > 0 and known(record[column]) is not None
    ]
    extent = Extent.of(p["value"] for p in points)
    title = f"held-out {scale.unit}{' (a bound)' if bound else ''}, {scale.direction}"
    tooltip = ["of:N", "step:Q", alt.Tooltip("flops:Q", format=".4s"), alt.Tooltip("value:Q", format=".4f")]
    key = legend(names) if domains else None
    base = alt.Chart(rows(points)).encode(
        x=_compute_axis(widened([p["flops"] for p in points])),
        y=alt.Y("value:Q", scale=extent.scale(), axis=extent.axis(title)),
        color=alt.Color("of:N", scale=colour_scale(names), legend=key),
    )
    shape = alt.Shape("of:N", scale=shape_scale(names), legend=key)
    mark = base.mark_point(filled=True, size=60, opacity=1).encode(shape=shape, tooltip=tooltip)
    return alt.layer(base.mark_line(strokeWidth=2), mark).properties(
        height=300, description=_told(f"Held-out {scale.unit}", [p["value"] for p in points if p["of"] == whole])
    )


def _told(what: str, values: list[Any]) -> str:
    """A curve in words."""
    ends = f", from {values[0]:.3f} to {values[-1]:.3f}" if len(values) > 1 else ""
    return f"{what} against compute{ends}."


def _compute_axis(extent: tuple[float, float]) -> alt.X:
    axis = alt.Axis(title=list(COMPUTE), values=log_ticks(*extent), format="~s")
    return alt.X("flops:Q", scale=log_scale(*extent), axis=axis)


def _thinned(points: list[dict[str, float]]) -> list[dict[str, float]]:
    group = -(-len(points) // POINTS)
    chunks = [points[i : i + group] for i in range(0, len(points), group)] if points else []
    return [{key: sum(p[key] for p in chunk) / len(chunk) for key in chunk[0]} for chunk in chunks]

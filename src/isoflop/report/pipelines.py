"""A pipeline's result as tables."""

from __future__ import annotations

import numpy as np
from rich.console import Console
from rich.text import Text

from ..store.pipelines import PipelineResult
from .sheets import Sheet
from .terminal import grid, output
from .text import NOTHING, clean


def value_sheet(result: PipelineResult, metric: str) -> Sheet:
    """Every stage's mean over seeds on every text, with its standard deviation."""
    lines = []
    for stage in result.stages:
        cells = [result.values(stage, [text], metric) for text in result.texts]
        rows = [row for row in result.rows if row.stage == stage and row.role == "evaluation"]
        chosen = next((each.chosen for each in result.chosen if each.stage == stage), {})
        said = ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in chosen.items())
        cost = [f"{np.mean([row.flops for row in rows]):.3g}", f"{np.mean([r.flops_with_ancestors for r in rows]):.3g}"]
        lines.append((clean(stage), *map(_spread, cells), *cost, said or NOTHING))
    return Sheet(
        metric.replace("_", " "),
        ("stage", *result.texts, "FLOPs", "with ancestors", "chosen"),
        lines,
        frozenset(range(1, len(result.texts) + 3)),
        "Mean over seeds and standard deviation. FLOPs: model FLOPs of training, tuning and evaluation left out.",
    )


def bar_sheet(result: PipelineResult) -> Sheet:
    """Every bar with its interval and what became of it."""
    lines = [
        (clean(bar.says), f"{bar.mean:+.4f}", f"[{bar.low:+.4f}, {bar.high:+.4f}]", f"{bar.most:g}", bar.verdict)
        for bar in result.verdicts
    ]
    return Sheet(
        "Bars",
        ("what", "mean", "95 %", "at most", "verdict"),
        lines,
        frozenset({1, 2, 3}),
        "Verdicts at 95 % after Holm's correction over all bars; open: these seeds do not tell.",
    )


def print_pipeline(result: PipelineResult, console: Console | None = None) -> None:
    """Print values, bars and notes."""
    console = console or output()
    console.print(Text(clean(result.title), style="bold"))
    for metric in result.metrics:
        console.print(grid(value_sheet(result, metric)))
    if result.verdicts:
        console.print(grid(bar_sheet(result)))
    for note in result.notes:
        console.print(Text(f"· {clean(note)}"))


def _spread(values: list[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.4f}" if values else NOTHING
    return f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}"

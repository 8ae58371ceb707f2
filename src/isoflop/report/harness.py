"""What lm-evaluation-harness measured, as a table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from ..store.harness import HarnessResult
from .sheets import Sheet
from .terminal import grid, output
from .text import NOTHING, clean


def harness_sheet(results: Sequence[HarnessResult]) -> Sheet:
    """One line a metric of a task: value, standard error, items, examples, step, versions."""
    lines = [
        (
            clean(each.task) if place == 0 else "",
            clean(name),
            _figure(metric.value),
            _figure(metric.stderr),
            {True: "higher", False: "lower", None: ""}[metric.higher_is_better],
            f"{each.samples:,}",
            f"{each.shots}",
            f"{each.step:,}" if each.step else NOTHING,
            clean(each.version) or NOTHING,
        )
        for each in results
        for place, (name, metric) in enumerate(each.metrics.items())
    ]
    columns = ("task", "metric", "value", "± stderr", "better", "items", "shots", "step", "version")
    versions = sorted({each.lm_eval for each in results})
    note = f"By lm_eval {', '.join(map(clean, versions))}; standard errors are about the items, not about seeds."
    return Sheet("Tasks", columns, lines, frozenset({2, 3, 5, 6, 7}), note)


def print_harness(results: Sequence[HarnessResult], console: Console | None = None) -> None:
    """Print results to standard output (or ``console``)."""
    (console or output()).print(grid(harness_sheet(results)))


def _figure(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.4g}" if value >= 1000 or value == 0 else f"{value:.4f}"

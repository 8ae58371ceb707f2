"""A pipeline's result as tables, in a terminal and on a page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from rich.console import Console
from rich.text import Text

from ..store.pipelines import Choice, Chosen, PipelineResult
from .html import Specs, bullets, download, folded, folded_pairs, frame, section, table_of, titled, verbatim
from .sheets import Sheet, bill_sheet
from .terminal import grid, output
from .text import NOTHING, clean, moment


def value_sheet(result: PipelineResult, metric: str) -> Sheet:
    """Every stage's mean over seeds on every text, with its standard deviation."""
    lines = []
    for stage in result.stages:
        cells = [result.values(stage, [text], metric) for text in result.texts]
        rows = [row for row in result.rows if row.stage == stage and row.role == "evaluation"]
        chosen = next((each.chosen for each in result.chosen if each.stage == stage), {})
        said = _said(chosen)
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


def tuning_sheet(result: PipelineResult) -> Sheet:
    """What was searched, what it gave, and what was chosen."""
    lines = []
    for each in result.chosen:
        tried = [f"{_said(one)}: {NOTHING if score is None else f'{score:.4f}'}" for one, score in _pairs(each)]
        lines.append(
            (clean(each.stage), _said(each.chosen), "; ".join(tried), "at its grid's end" if each.edge else "")
        )
    note = "Mean over texts and tuning seeds as a cost: lower is better. A dash is a run that diverged."
    return Sheet("Tuning", ("stage", "chosen", "tried", ""), lines, frozenset(), note)


def headline(result: PipelineResult) -> str:
    """What became of the bars, in a sentence."""
    if not result.verdicts:
        return f"{len(result.stages)} stages, measured on {', '.join(map(clean, result.texts))}."
    said = [f"{sum(bar.verdict == kind for bar in result.verdicts)} {kind}" for kind in ("met", "missed", "open")]
    return f"Of {len(result.verdicts)} bars: {', '.join(said)}."


def pipeline_page(result: PipelineResult, specs: Specs, more: Sequence[str] = ()) -> str:
    """The page of a pipeline, with what was measured beside it: the charts' specifications, and sections.

    Example:
        >>> made = dict(title="two domains", created="2026-01-01T00:00:00+00:00", texts=["old"], metrics=["accuracy"])
        >>> none = dict(rows=[], chosen=[], verdicts=[], bill={}, notes=[], recipes={}, environment={})
        >>> result = PipelineResult(name="two", stages=[], definition="x", **made, **none)
        >>> "isoflop pipeline" in pipeline_page(result, {})
        True
    """
    seeds = sorted({row.seed for row in result.rows if row.role == "evaluation"})
    facts = {
        "Stages": ", ".join(map(clean, result.stages)),
        "Texts": ", ".join(map(clean, result.texts)),
        "Seeds": str(len(seeds)),
        "Made": moment(result.created),
    }
    sections = [
        section(*titled(bar_sheet(result))),
        *(section(*titled(value_sheet(result, metric))) for metric in result.metrics),
        *more,
        section("Notes", bullets(map(clean, result.notes))),
        section(*titled(tuning_sheet(result))),
        section("Bill", table_of(bill_sheet(result.bill), "The whole pipeline, by phase")),
        section(
            "Make it again",
            verbatim("isoflop pipeline pipeline.toml"),
            folded("pipeline.toml, which lies beside this page", result.definition),
            *(folded(f"recipe of {stage}", text) for stage, text in result.recipes.items()),
        ),
        section("Environment", folded_pairs("The process that wrote this", result.environment)),
        section("Data", download(f"{clean(result.name)}.json", "Download the whole result")),
    ]
    return frame(
        kind="isoflop pipeline",
        title=result.title or result.name,
        headline=headline(result),
        facts=facts,
        sections=sections,
        specs=specs,
        data=result.model_dump(mode="json"),
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


def _pairs(each: Chosen) -> Iterable[tuple[Choice, float | None]]:
    return zip(each.tried, each.scores, strict=True)


def _said(choice: Choice) -> str:
    """The values of a grid, by the last part of their keys."""
    return ", ".join(f"{clean(key).rpartition('.')[2]} {clean(value)}" for key, value in choice.items())


def _spread(values: list[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.4f}" if values else NOTHING
    return f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}"

"""A study or a run on the terminal: rich renderables that stay readable at 80 columns."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table as Grid
from rich.text import Text

from ..store.results import StudyResult
from .sheets import (
    Sheet,
    ancestor_sheet,
    asked,
    bill_sheet,
    environment_sheet,
    equal_sheet,
    multiplier_sheet,
    refusal_lines,
    told_apart,
    tuning_sheet,
)
from .text import clean, flatten

if TYPE_CHECKING:
    from .runs import RunRecord  # which draws charts, too: whoever only prints needs no library for that

BILL = ("flops", "hardware_flops", "steps", "tokens", "seconds")
"""Axes that fit a narrow terminal; the page has them all."""


UNBROKEN = 100_000
"""Columns of an output that no terminal limits."""


def output() -> Console:
    """Standard output: as wide as its terminal, and where a pipe or a file takes it, wide enough to cut no line."""
    free = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(width=UNBROKEN if free else None, highlight=False)


def study(result: StudyResult, *, everything: bool = False) -> RenderableType:
    """Headline, equal cost, multipliers, tuning, bill, what made the runs, and notes of a study.

    Args:
        result: the study.
        everything: the multipliers on every axis, and those that charge tuning, not only those on FLOPs.
    """
    parts: list[RenderableType] = [Text(f"{clean(result.title)} ({told_apart(result)})", style="dim")]
    parts += [Text(clean(line), style="bold") for line in result.headline.splitlines()]
    sheets = [equal_sheet(result), multiplier_sheet(result, None if everything else asked(result))]
    sheets += [tuning_sheet(result), bill_sheet(result.bill, BILL), ancestor_sheet(result.ancestors, BILL)]
    parts += [grid(sheet) for sheet in (*sheets, environment_sheet(result)) if sheet.rows]
    notes = [*refusal_lines(result), *(clean(note) for note in result.notes)]
    if not everything and asked(result, others=True):
        notes.insert(0, "The page has the other axes, and all of them with tuning charged; so has --all here.")
    parts.append(_lines(notes))
    return Group(*parts)


def run(record: RunRecord) -> RenderableType:
    """State, evaluations and ledger of one run."""
    parts: list[RenderableType] = [Text(f"{record.name}: {record.state}", style="bold")]
    if record.message:
        parts.append(Text(record.message))
    sheets = [record.evaluation_sheet(), bill_sheet(record.ledger, BILL), ancestor_sheet(record.ancestors, BILL)]
    parts += [grid(sheet) for sheet in sheets if sheet.rows]
    parts.append(_lines([f"{key}: {value}" for key, value in flatten(record.result) if value]))
    return Group(*parts)


def grid(sheet: Sheet) -> RenderableType:
    """A sheet as a table with its title above and its note below; cells are never read as markup."""
    table = Grid(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False, show_edge=False)
    for index, column in enumerate(sheet.columns):
        table.add_column(Text(column), justify="right" if index in sheet.right else "left", overflow="fold")
    for row in sheet.rows:
        table.add_row(*(Text(cell) for cell in row), style="bold" if row[0] == "total" else None)
    parts: list[RenderableType] = [Text(sheet.title, style="bold"), table]
    if sheet.note:
        parts.append(Text(sheet.note, style="dim"))
    return Group("", *parts)


def _lines(lines: list[str]) -> RenderableType:
    bullets = Grid.grid(padding=(0, 1))
    for line in lines:
        bullets.add_row(Text("·"), Text(line))
    return Group("", bullets) if lines else Text("")


def print_study(result: StudyResult, console: Console | None = None, *, everything: bool = False) -> None:
    """Print a study to standard output (or ``console``), with every multiplier if ``everything`` is wanted."""
    (console or output()).print(study(result, everything=everything))


def print_run(record: RunRecord, console: Console | None = None) -> None:
    """Print a run to standard output (or ``console``)."""
    (console or output()).print(run(record))

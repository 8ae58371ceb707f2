"""The verb that follows what is under way: watch."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..core.errors import DataError, UsageError
from .app import app
from .common import DEFAULT_ROOT, Json, Root, emit, find_holding, find_result, find_run

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ..store.run import Run

    Look = Callable[[], tuple[str, RenderableType, bool]]
    """What is seen now: a line, all of it, and whether it goes on."""

LIVE = "live.html"
MOVED = """<!doctype html>
<html lang="en"><title>done</title><meta http-equiv="refresh" content="0; url=report.html">
<a href="report.html">The report</a></html>
"""
"""What the live page becomes once the report is there."""


@app.command()
def watch(
    target: Annotated[str, typer.Argument(help="A study or a run that is under way: its directory or name.")],
    root: Root = DEFAULT_ROOT,
    page: Annotated[
        bool,
        typer.Option("--page", help="Also write live.html beside it, which a browser reads again by itself."),
    ] = False,
    every: Annotated[float, typer.Option("--every", min=0.5, help="Seconds between looks.")] = 5.0,
    once: Annotated[bool, typer.Option("--once", help="Look once.")] = False,
    json: Json = False,
) -> None:
    """Follow a study or a run from another terminal; it is read from its directory and never disturbed."""
    from ..store.progress import PROGRESS

    place = find_holding(target, root, PROGRESS)
    if place is None:
        if find_result(target, root) is not None:
            raise UsageError("is done", where=target, fix=f"`isoflop report {target}` writes its page")
        run = find_run(target, root, "study or run that is under way")
        if json:
            emit(_facts(run))
            return
        look: Look = partial(_look_at_run, run, page=page)
    elif json:
        from ..report.live import LiveStudy

        emit(LiveStudy.read(root, place).facts())
        return
    else:
        look = partial(_look_at_study, root, place, page=page)
    _follow(look, every, once=once)


def _facts(run: Run) -> dict[str, Any]:
    """Where a run stands, as JSON values; ``value``: of its newest evaluation."""
    status, evaluated = run.status, run.metrics("evaluation")
    value = evaluated[-1].get("value") if evaluated else None
    return {"run": str(run.path), "state": run.state, "step": status.step, "horizon": status.horizon, "value": value}


def _follow(look: Look, every: float, *, once: bool) -> None:
    """Show what ``look`` sees until nothing is under way any more: a line where it says something new, or a table."""
    from rich.live import Live

    from ..report.terminal import output

    console = output()
    if once or not sys.stdout.isatty():
        before = ""
        while True:
            said, shown, goes_on = look()
            if once:
                console.print(shown)
            elif said != before:
                typer.echo(said)
            if once or not goes_on:
                return
            before = said
            time.sleep(every)
    with Live(console=console, auto_refresh=False) as live:
        goes_on = True
        while goes_on:
            _, shown, goes_on = look()
            live.update(shown, refresh=True)
            if goes_on:
                time.sleep(every)


def _look_at_study(root: Path, place: Path, *, page: bool) -> tuple[str, RenderableType, bool]:
    from rich.console import Group
    from rich.text import Text

    from ..report.live import LiveStudy, live_page
    from ..report.terminal import grid

    try:
        live = LiveStudy.read(root, place)
    except DataError:
        if find_result(str(place), root) is None:
            raise
        return _ended(place, page=page)
    head = live.headline()
    if page:
        _write(place, live_page(live))
    return head, Group(Text(head, style="bold"), *map(grid, live.sheets())), live.state == "running"


def _ended(place: Path, *, page: bool) -> tuple[str, RenderableType, bool]:
    """What is seen once a study's result is there."""
    from rich.text import Text

    from ..report.page import write_report
    from ..report.terminal import study
    from ..store.results import STUDY, StudyResult

    result = StudyResult.read(place / STUDY)
    if page:
        write_report(place)
        _write(place, MOVED)
    return Text(result.headline).plain, study(result), False


def _look_at_run(run: Run, *, page: bool) -> tuple[str, RenderableType, bool]:
    from ..report.page import run_page
    from ..report.render import specifications
    from ..report.runs import RunRecord
    from ..report.terminal import run as shown

    record = RunRecord.read(run.path)
    status = run.status
    goes_on = record.state == "running"
    if page:
        _write(run.path, run_page(record, specifications(record.figures()), refresh=goes_on))
    steps = f"step {status.step:,}" + (f" of {status.horizon:,}" if status.horizon else "")
    return f"{record.name}: {record.state}, {steps}", shown(record), goes_on


def _write(place: Path, html: str) -> None:
    from ..core.files import write_atomic

    write_atomic(place / LIVE, html)

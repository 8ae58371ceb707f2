"""Verbs on studies: demo, compare, report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..core.errors import UsageError
from .app import app
from .common import DEFAULT_ROOT, Json, Overrides, Root, emit, find_run

if TYPE_CHECKING:
    from ..store.results import StudyResult

Workers = Annotated[int, typer.Option("--workers", min=1, help="Worker processes, one thread each.")]


@app.command()
def compare(
    study: Annotated[str, typer.Argument(help="A study's TOML file, or the name of a shipped one.")],
    overrides: Overrides = None,
    root: Root = DEFAULT_ROOT,
    workers: Workers = 2,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would cost; run nothing.")] = False,
    json: Json = False,
) -> None:
    """Run a study: how much more compute would the baseline have needed? Finished runs are not repeated."""
    from ..lab.study import Study

    loaded = Study.load(study, *(overrides or []))
    if dry_run:
        from ..lab.plan import plan

        planned = plan(loaded, root, workers=workers)
        emit(planned.to_json()) if json else typer.echo(planned.text())
        return
    from ..lab.compare import compare as execute

    result = execute(loaded, root, workers=workers, progress=None if json else lambda line: typer.echo(line, err=True))
    _finish(result, root, json)


@app.command()
def demo(
    root: Root = DEFAULT_ROOT,
    workers: Workers = 2,
    json: Json = False,
) -> None:
    """The main job on real text from this machine: tuned Muon against tuned AdamW, some minutes on two cores."""
    from ..lab.demo import demo as execute

    result = execute(root, workers=workers, progress=None if json else lambda line: typer.echo(line, err=True))
    _finish(result, root, json)


@app.command()
def report(
    target: Annotated[str, typer.Argument(help="A study's directory or name, or a run.")],
    root: Root = DEFAULT_ROOT,
    json: Json = False,
) -> None:
    """Write the report page (one HTML file, charts as SVG and PNG beside it) and print its path."""
    from ..report.page import write_report

    candidates = [Path(target), root / target]
    directory = next((path for path in candidates if (path / "study.json").exists()), None)
    page = write_report(directory if directory is not None else find_run(target, root).path)
    emit({"report": str(page)}) if json else typer.echo(str(page))


def _finish(result: StudyResult, root: Path, json: bool) -> None:
    from ..report.page import write_report

    directory = result.home(root)
    if not (directory / "study.json").exists():
        raise UsageError("the study left no result", where=str(directory))
    page = write_report(directory)
    if json:
        emit({**result.model_dump(mode="json"), "report": str(page)})
        return
    from ..report.terminal import print_study

    print_study(result)
    typer.echo(f"report: {page}")

"""Verbs on what is stored: runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..core.errors import UsageError, nearest
from ..core.reading import user_path
from ..core.scale import Scale
from .app import app
from .common import DEFAULT_ROOT, Json, Root, emit, find_result, find_run, path_argument, say

if TYPE_CHECKING:
    from ..core.table import Table
    from ..store.harness import HarnessResult

runs_app = typer.Typer(help="List, show and index runs.", invoke_without_command=True)
app.add_typer(runs_app, name="runs")

Below = Annotated[
    Path,
    typer.Option(
        "--root",
        help="Directory of runs.",
        parser=user_path,
        metavar="DIRECTORY",
        show_default="that of `isoflop runs`",
    ),
]

WIDE = 110
"""Columns of a terminal from which on there is room for what does not tell runs apart."""

_COLUMNS = ("id", "name", "status", "optimizer", "lr", "seed", "steps", "flops", "value", "unit", "seconds")
_NARROW = ("flops", "unit", "seconds", "created")
"""What a narrow terminal leaves out: it follows from the rest, or is the same in all rows."""
_HEADS = {"path": "directory"}


@runs_app.callback()
def listing(
    ctx: typer.Context,
    root: Root = DEFAULT_ROOT,
    status: Annotated[str | None, typer.Option("--status", help="Only runs of this status, e.g. done.")] = None,
    json: Json = False,
) -> None:
    """List the runs below a root, the newest last."""
    if ctx.invoked_subcommand is not None:
        if status is not None:
            raise UsageError("--status only applies to `isoflop runs` itself", where=f"runs {ctx.invoked_subcommand}")
        ctx.default_map = {verb: {"root": root, "json": json} for verb in _verbs()}
        return
    from ..store.index import STATES, runs

    if status not in (None, *STATES):
        raise UsageError(f"no run has the status {status!r}", where="--status", fix=nearest(str(status), STATES))
    _list(f"{status} runs" if status else "runs", root, lambda: runs(root, status=status), _COLUMNS, json)


def _verbs() -> list[str]:
    """The verbs that take the root that was given before them."""
    return [str(each.name or getattr(each.callback, "__name__", "")) for each in runs_app.registered_commands]


@runs_app.command()
def studies(root: Below = DEFAULT_ROOT, json: Json = False) -> None:
    """List the studies below a root, the newest last: how much more compute each baseline needs than each arm."""
    from ..store.index import studies

    _list("studies", root, lambda: studies(root), ("path", "runs", "created", "verdict"), json)


@runs_app.command()
def fits(root: Below = DEFAULT_ROOT, json: Json = False) -> None:
    """List the fits of scaling laws below a root (those that `isoflop fit --out ROOT/NAME` kept)."""
    from ..store.index import FITS, fits

    _list("fits", root, lambda: fits(root), FITS[:-1], json)


@runs_app.command()
def index(root: Below = DEFAULT_ROOT) -> None:
    """Build the SQLite index anew from the run directories."""
    from ..store.index import rebuild
    from ..store.names import INDEX

    count = rebuild(root)
    kept = f"{root}/{INDEX}" if os.path.isfile(root / INDEX) else f"{root} (no index can be kept there)"
    typer.echo(f"{kept}: {count} runs")


@runs_app.command()
def show(
    run: Annotated[
        str,
        typer.Argument(help="A run: directory, name or hash; or a study, pipeline or fit: directory or name."),
    ],
    root: Below = DEFAULT_ROOT,
    json: Json = False,
) -> None:
    """Show a run (status, evaluations, ledger; with --json also recipe and environment), a study, a pipeline or a fit.

    Of a published model's directory: what `isoflop eval --harness` kept of it below the root.
    """
    from .harness import kept_results

    if (place := find_result(run, root)) is not None:
        _show_result(place, json)
        return
    from ..store.published import is_published

    tasks = kept_results(run, root)
    if is_published(user_path(run)):
        _show_tasks(tasks, run, json)
        return
    found = find_run(run, root)
    if json:
        facts = {
            "path": str(found.path),
            "status": {**found.status.model_dump(), "state": found.state},
            "result": found.result,
            "ledger": found.ledger,
            "ancestors": {key: each.model_dump() for key, each in found.ancestors.items()},
            "tasks": [each.model_dump(mode="json") for each in tasks],
            "recipe": found.resolved,
            "environment": found.environment,
        }
        emit(facts)
        return
    from ..report.runs import RunRecord
    from ..report.terminal import print_run

    print_run(RunRecord.read(found.path))
    if tasks:
        _show_tasks(tasks, run, json)


def _show_tasks(tasks: list[HarnessResult], model: str, json: bool) -> None:
    """Show what lm-evaluation-harness measured of a model."""
    if json:
        emit({"path": model, "tasks": [each.model_dump(mode="json") for each in tasks]})
        return
    if not tasks:
        raise UsageError("nothing is kept of it", where=model, fix="`isoflop eval DIR --harness TASK.yaml` measures it")
    from ..report.harness import print_harness

    print_harness(tasks)


def _show_result(place: Path, json: bool) -> None:
    """Show the fit, study, pipeline or study of batch sizes that a directory holds."""
    from ..core.reading import read_json
    from ..report.pipelines import print_pipeline
    from ..report.terminal import print_study
    from ..store.fits import FIT, FitDocument
    from ..store.measured import TARGETS, MeasuredResult
    from ..store.pipelines import PIPELINE, PipelineResult
    from ..store.results import STUDY, StudyResult

    kinds = {FIT: FitDocument, STUDY: StudyResult, PIPELINE: PipelineResult, TARGETS: MeasuredResult}
    file = next(file for file in kinds if os.path.lexists(place / file))
    stored: Any = StudyResult.read(place / file) if file == STUDY else read_json(place / file, kinds[file])
    if json:
        emit(stored.model_dump(mode="json"))
    elif file == FIT:
        typer.echo(stored.text)
    elif file == TARGETS:
        say("\n".join(stored.lines()))
    else:
        (print_study if file == STUDY else print_pipeline)(stored)


@runs_app.command()
def query(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            help='E.g. "best at <= 1e12 FLOPs", "was muon tried?", optimizer=soap train.batch=64, diverged.',
            metavar="WORDS...",
            show_default=False,
        ),
    ] = None,
    sql: Annotated[
        str | None,
        typer.Option(
            "--sql", help="One SELECT instead, over runs, settings, studies, multipliers, members.", metavar="SELECT"
        ),
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="Runs that are listed.")] = 5,
    root: Below = DEFAULT_ROOT,
    json: Json = False,
) -> None:
    """Ask what was tried, at what budget, with what result. Runs that diverged and findings against a method count."""
    if bool(words) == (sql is not None):
        fix = 'ask in words ("was muon tried?") or with --sql, not both'
        raise UsageError("what is asked?" if sql is None else "is asked twice", where="runs query", fix=fix)
    if sql is not None:
        _select(root, sql, json)
        return
    from ..report import memory
    from ..report.terminal import grid, output
    from ..store.query import remembered_runs

    answer = remembered_runs(root, " ".join(words or []))
    if json:
        emit({"question": vars(answer.question), "runs": answer.runs, "findings": answer.findings})
        return
    for line in memory.sentences(answer):
        say(line)
    if found := memory.found_by_studies(answer):
        say("\nStudies found:")
        for line in found:
            say(f"  {line}")
    for sheet in memory.sheets(answer, top):
        output().print(grid(sheet))


def _select(root: Path, sql: str, json: bool) -> None:
    """Print what an SQL query finds: a table, or a JSON object a row."""
    from rich.table import Table as Rows
    from rich.text import Text

    from ..report.terminal import output
    from ..store.names import printable
    from ..store.query import select

    columns, rows = select(root, sql)
    if json:
        emit([dict(zip(columns, row, strict=True)) for row in rows])
        return
    shown = Rows(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        shown.add_column(Text(printable(column)), overflow="fold")
    for row in rows:
        shown.add_row(*(Text("-" if value is None else printable(str(value))) for value in row))
    output().print(shown)


@runs_app.command()
def rm(
    names: Annotated[list[str], typer.Argument(help="Runs: their directories, names or hashes.", metavar="RUN...")],
    root: Below = DEFAULT_ROOT,
    force: Annotated[
        bool, typer.Option("--force", help="Also what a study's result or another run stands on.")
    ] = False,
) -> None:
    """Remove runs, but none that a study's result or another run stands on."""
    from ..store.removal import remove

    for run in [find_run(name, root) for name in names]:
        remove(run, root, force=force)
        typer.echo(f"removed {run.path}")


@runs_app.command()
def gc(
    root: Below = DEFAULT_ROOT,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would free; free nothing.")] = False,
    json: Json = False,
) -> None:
    """Free what no result stands on: optimizers' states of the finished runs of finished studies."""
    from ..train.tidy import clear, clearable

    total, runs = 0, dict[str, int]()
    for each in clearable(root):
        if not dry_run:
            clear(each)
        total += each.size
        runs[str(each.run.path)] = runs.get(str(each.run.path), 0) + each.size
    if json:
        emit({"bytes": total, "runs": runs, "freed": not dry_run})
        return
    for path, size in runs.items():
        typer.echo(f"{path}: {size:,} bytes")
    would = "would free" if dry_run else "freed"
    typer.echo(f"{would} {total:,} bytes: optimizers' states of {len(runs)} runs; their weights and results stay")


@runs_app.command()
def export(
    out: Annotated[Path, path_argument("The file to write, NAME.csv or NAME.parquet (which needs the extra data).")],
    curves: Annotated[
        bool, typer.Option("--curves", help="A row for each recorded step and evaluation, not for each run.")
    ] = False,
    root: Below = DEFAULT_ROOT,
    json: Json = False,
) -> None:
    """Write all runs below a root, or their curves, as a table for other programs."""
    from ..core.table_files import write_table
    from ..store.curves import curves_table
    from ..store.index import runs

    table = curves_table(root) if curves else runs(root)
    if not table.rows:
        raise UsageError("there is no run to write", where=str(root), fix="choose another --root")
    write_table(table, out)
    facts = {"out": str(out), "rows": table.rows, "columns": list(table)}
    emit(facts) if json else typer.echo(f"{out}: {table.rows:,} {'records' if curves else 'runs'}")


def _list(what: str, root: Path, read: Callable[[], Table], columns: Sequence[str], json: bool) -> None:
    rows = list(read().records()) if os.path.lexists(root) else []
    if json:
        emit([{k: None if v != v else v for k, v in row.items()} for row in rows])
        return
    if not rows:
        typer.echo(f"no {what} yet below {root}")
        return
    from rich.table import Table as Rows
    from rich.text import Text

    from ..report.terminal import output

    console, shown = output(), Rows(box=None, header_style="bold", pad_edge=False)
    if console.width < WIDE:
        units = len({row.get("unit") for row in rows} - {None})
        columns = [column for column in columns if column not in _NARROW or (column == "unit" and units > 1)]
    for column in columns:  # an id is typed or pasted: it stays in one piece
        shown.add_column(_HEADS.get(column, column), no_wrap=column == "id", overflow="fold")
    for row in rows:
        shown.add_row(*(Text(_cell(column, row)) for column in columns))
    console.print(shown)


def _cell(column: str, row: Mapping[str, Any]) -> str:
    value = row.get(column)
    if value is None or value != value:
        return "-"
    if column == "value" and row["bound"]:
        return Scale(row["unit"], bool(row["higher_is_better"])).text(value, bound=True)
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)

"""Verbs on what is stored: runs."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from .app import app
from .common import DEFAULT_ROOT, Json, Root, emit, find_run

runs_app = typer.Typer(help="List, show and index runs.", invoke_without_command=True)
app.add_typer(runs_app, name="runs")

_COLUMNS = ("id", "name", "status", "optimizer", "steps", "flops", "value", "seconds")


@runs_app.callback()
def listing(
    ctx: typer.Context,
    root: Root = DEFAULT_ROOT,
    status: Annotated[str | None, typer.Option("--status", help="Only runs of this status.")] = None,
    json: Json = False,
) -> None:
    """List the runs below a root, the newest last."""
    if ctx.invoked_subcommand is not None:
        return
    from ..store.index import runs

    if not root.is_dir():
        emit([]) if json else typer.echo(f"no runs yet below {root}")
        return
    table = runs(root, status=status)
    if json:
        emit([{k: None if v != v else v for k, v in row.items()} for row in table.records()])
        return
    from rich.console import Console
    from rich.table import Table as Rows

    shown = Rows(*_COLUMNS, box=None, header_style="bold", pad_edge=False)
    for row in table.records():
        shown.add_row(*(_cell(row.get(column)) for column in _COLUMNS))
    Console(soft_wrap=False).print(shown)


@runs_app.command()
def index(root: Root = DEFAULT_ROOT) -> None:
    """Build the SQLite index anew from the run directories."""
    from ..store.index import rebuild

    count = rebuild(root)
    typer.echo(f"{root}/index.sqlite: {count} runs")


@runs_app.command()
def show(
    run: Annotated[str, typer.Argument(help="A run's directory, name or hash.")],
    root: Root = DEFAULT_ROOT,
    json: Json = False,
) -> None:
    """Show one run: status, ledger, recipe, environment."""
    found = find_run(run, root)
    facts = {
        "path": str(found.path),
        "status": {**found.status.model_dump(), "state": found.state},
        "result": found.result,
        "ledger": found.ledger,
        "recipe": found.resolved,
        "environment": found.environment,
    }
    if json:
        emit(facts)
        return
    from rich.console import Console
    from rich.pretty import Pretty

    Console().print(Pretty(facts))


def _cell(value: Any) -> str:
    if value is None or value != value:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)

"""The verb on scaling laws: fit."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..core.errors import DataError, UsageError, nearest
from ..core.reading import user_path
from .app import app
from .common import Json, emit

if TYPE_CHECKING:
    from ..core.table import Table


@app.command()
def fit(
    table: Annotated[
        Path,
        typer.Argument(
            help="A CSV file with a header line, a study's directory, or a root.", parser=user_path, metavar="TABLE"
        ),
    ],
    law: Annotated[str, typer.Option("--law", help="A law's name; auto: the best extrapolation.")] = "auto",
    by: Annotated[str | None, typer.Option("--by", help="Column of the cuts when laws are compared, e.g. C.")] = None,
    columns: Annotated[str, typer.Option("--columns", help="Law's column=table's, e.g. N=params,D=tokens.")] = "",
    where: Annotated[str, typer.Option("--where", help="Only rows with column=value, e.g. arm=muon.")] = "",
    target: Annotated[str, typer.Option("--target", help="Column to predict, with --law auto.")] = "loss",
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Directory for fit.json and report.html.", parser=user_path, metavar="DIRECTORY"),
    ] = None,
    json: Json = False,
) -> None:
    """Fit a scaling law to a table of runs, with intervals and what cannot be known from it."""
    from ..laws.verb import fit_table

    rows = rows_of(table, pairs(where, "--where", "arm=muon"))
    renames = pairs(columns, "--columns", "N=params,D=tokens")
    found = fit_table(rows, law, by=by, columns=renames, target=target)
    stored = found.to_json(source=_printable(table.resolve().name)) if json or out is not None else {}
    page = None
    if out is not None:
        from ..core.files import write_json
        from ..report.page import write_report
        from ..store.fits import FIT

        write_json(out / FIT, stored)
        page = write_report(out)
    if json:
        emit(stored if page is None else {**stored, "report": str(page)})
        return
    typer.echo(found.text)
    if page is not None:
        typer.echo(f"\nreport: {page}")


def _printable(name: str) -> str:
    """A file's name as text; bytes that are no UTF-8 are replaced, since JSON and pages are UTF-8."""
    return os.fsencode(name).decode("utf-8", errors="replace")


def rows_of(source: Path, wanted: dict[str, str]) -> Table:
    """The rows of a CSV file, a study or a root, whose columns have the wanted values; one arm of a study only."""
    from ..core.table import Table
    from ..store.sweeps import runs_table

    rows = runs_table(source) if os.path.isdir(source) else Table.read_csv(source)
    for column, value in wanted.items():
        if column not in rows:
            raise UsageError(f"no column {column!r}", where="--where", fix=nearest(column, rows))
        rows = rows.where(rows.equal(column, value))
        if not rows.rows:
            raise DataError(f"no row has {column} = {value}", where=str(source))
    arms = sorted(set(rows["arm"].tolist())) if os.path.isdir(source) and "arm" in rows else []
    if len(arms) > 1:
        fix = f"choose one: --where arm={arms[0]} (of {', '.join(arms)})"
        raise UsageError("a law describes one arm, the study has several", where=str(source), fix=fix)
    return rows


def pairs(text: str, option: str, example: str) -> dict[str, str]:
    """``N=params, D=tokens`` as a mapping; blanks around names are no part of them."""
    pieces = [piece.partition("=") for piece in text.split(",") if piece.strip()]
    found = {key.strip(): value.strip() for key, _, value in pieces}
    if len(found) < len(pieces) or not all(key and value for key, value in found.items()):
        raise UsageError(
            f"{text!r} is not of the form {example}", where=option, fix="give each column once, with a value"
        )
    return found

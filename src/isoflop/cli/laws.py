"""The verb on scaling laws: fit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..core.errors import UsageError
from .app import app
from .common import Json, emit


@app.command()
def fit(
    table: Annotated[Path, typer.Argument(help="A CSV file with a header line.")],
    law: Annotated[str, typer.Option("--law", help="A law's name; auto: the best extrapolation.")] = "auto",
    by: Annotated[str | None, typer.Option("--by", help="Column of the cuts when laws are compared, e.g. C.")] = None,
    columns: Annotated[str, typer.Option("--columns", help="Law's column=table's, e.g. N=params,D=tokens.")] = "",
    target: Annotated[str, typer.Option("--target", help="Column to predict, with --law auto.")] = "loss",
    out: Annotated[Path | None, typer.Option("--out", help="Keep the fit as JSON that fits itself again.")] = None,
    json: Json = False,
) -> None:
    """Fit a scaling law to a table of runs, with intervals and what cannot be known from it."""
    from ..laws.verb import fit_table

    found = fit_table(table, law, by=by, columns=_pairs(columns), target=target)
    if out is not None:
        from ..core.files import write_json

        write_json(out, found.fit.to_json())
    emit(found.to_json()) if json else typer.echo(found.text)


def _pairs(text: str) -> dict[str, str]:
    """``N=params,D=tokens`` as a mapping."""
    pairs = dict(piece.partition("=")[::2] for piece in text.split(",") if piece)
    if not all(key and value for key, value in pairs.items()):
        raise UsageError(f"{text!r} is not of the form N=params,D=tokens", where="--columns")
    return pairs

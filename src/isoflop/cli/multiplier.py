"""The verb on runs that were trained elsewhere: multiplier."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from ..core.errors import DataError
from ..core.reading import user_path
from .app import app
from .common import Json, emit
from .laws import Where, chosen, pairs


@app.command()
def multiplier(
    tables: Annotated[
        list[Path],
        typer.Argument(
            help="CSV or Parquet files: a row a run, or curves as W&B and TensorBoard export them.",
            parser=user_path,
            metavar="TABLE...",
        ),
    ],
    baseline: Annotated[str, typer.Option("--baseline", help="The arm that the others are compared with.")],
    columns: Annotated[
        str, typer.Option("--columns", help="Our column=table's, e.g. arm=optimizer,flops=C,value=val_loss.")
    ] = "",
    names: Annotated[
        str, typer.Option("--names", help="How runs' names are made up, e.g. '{arm}-{rung}-s{seed}' gives columns.")
    ] = "",
    where: Where = None,
    higher_is_better: Annotated[
        bool, typer.Option("--higher-is-better", help="Of the values, more is better; default: as the table says.")
    ] = False,
    json: Json = False,
) -> None:
    """How much more would the baseline have needed, by a table of runs that were trained elsewhere?

    Columns: arm, seed, value (the quality), an axis (flops, tokens, steps ...), and rung, or runs count by amount.
    """
    from ..core.table_files import joined, named_by, read_table
    from ..lab.foreign import foreign_multipliers

    renames = pairs(columns, "--columns", "arm=optimizer,flops=C")
    for folder in filter(os.path.isdir, tables):
        fix = "name a file: `isoflop runs export runs.csv` writes one of a root of runs"
        raise DataError("is a folder, not a table", where=str(folder), fix=fix)
    rows = joined([read_table(table) for table in tables])
    if names:
        rows = named_by(rows, names, renames.pop("run", "run"))
    rows = chosen(rows, pairs(where, "--where", "state=finished"), tables[0])
    found = foreign_multipliers(rows, baseline, columns=renames, higher_is_better=higher_is_better or None)
    emit(found.to_json()) if json else typer.echo(found.text)

"""The verb on scaling laws: fit."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..core.errors import DataError, UsageError, nearest
from ..core.reading import user_path
from .app import app
from .common import Json, emit, patience

if TYPE_CHECKING:
    from ..core.table import Table


Where = Annotated[
    list[str] | None, typer.Option("--where", help="Only rows with column=value, e.g. arm=muon (may come again).")
]
NAMES = ("loss", "link", "weights", "clusters")
NUMBERS = ("delta", "tau", "kappa", "penalty", "starts", "drop_highest")


@app.command()
def fit(
    table: Annotated[
        Path,
        typer.Argument(
            help="A CSV or Parquet file, ours or another tracker's, a study's directory, or a root.",
            parser=user_path,
            metavar="TABLE",
        ),
    ],
    law: Annotated[str, typer.Option("--law", help="A law's name or table; auto: the best extrapolation.")] = "auto",
    by: Annotated[str | None, typer.Option("--by", help="Column of the cuts when laws are compared, e.g. C.")] = None,
    columns: Annotated[str, typer.Option("--columns", help="Law's column=table's, e.g. N=params,D=tokens.")] = "",
    where: Where = None,
    target: Annotated[str, typer.Option("--target", help="Column to predict, with --law auto.")] = "loss",
    best_of: Annotated[
        str, typer.Option("--best-of", help="Columns that were swept, e.g. lr,batch: the best row of each cell.")
    ] = "",
    predict: Annotated[
        list[str] | None,
        typer.Option("--predict", help="Sizes to predict at, e.g. N=7e9,D=1e12 (may come again).", metavar="SIZES"),
    ] = None,
    level: Annotated[float, typer.Option("--level", help="Of the predictions' intervals, a share.")] = 0.9,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Directory for fit.json and report.html.", parser=user_path, metavar="DIRECTORY"),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--settings",
            help="How to fit: loss=l2 (huber, l1 ...), delta=1e-2, clusters=COLUMN, weights=COLUMN, drop_highest=5, "
            "fixed.E=1.7 ...",
            metavar="KEY=VALUE,...",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Fit a scaling law to a table of runs, with intervals, predictions, and what cannot be known from it."""
    from ..laws.verb import fit_table

    rows = rows_of(table, pairs(where, "--where", "arm=muon"))
    renames = pairs(columns, "--columns", "N=params,D=tokens")
    asked = [_sizes(text) for text in predict or []]
    swept = [name.strip() for name in best_of.split(",") if name.strip()]
    options = _options(settings or [])
    with patience(f"fitting {rows.rows:,} rows"):
        found = fit_table(rows, law, by=by, columns=renames, target=target, best_of=swept, **options)
        if asked:
            found = found.asked(asked, level)
        stored = found.to_json(level, _printable(table.resolve().name)) if json or out is not None else {}
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


def _options(given: list[str]) -> dict[str, Any]:
    """``loss=l2,clusters=run,drop_highest=5,fixed.E=1.7`` as arguments of ``fit_table``."""
    options: dict[str, Any] = {}
    for name, text in pairs(given, "--settings", "loss=l2,delta=1e-2").items():
        key, _, constant = name.partition(".")
        if key == "fixed" and constant:
            options.setdefault(key, {})[constant] = _number(name, text)
        elif name in NAMES:
            options[name] = text
        elif name in NUMBERS:
            number = _number(name, text)
            options[name] = int(number) if name in ("drop_highest", "starts") and number.is_integer() else number
        else:
            fix = nearest(name, (*NAMES, *NUMBERS, "fixed.E"))
            raise UsageError(f"no setting is named {name!r}", where="--settings", fix=fix)
    return options


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"{name} is {text!r}, no number", where="--settings", fix=f"e.g. {name}=0.01") from None


def _sizes(text: str) -> dict[str, float]:
    """``N=7e9,D=1e12`` as numbers."""
    try:
        return {name: float(value) for name, value in pairs(text, "--predict", "N=7e9,D=1e12").items()}
    except ValueError as error:
        raise UsageError(f"{text!r} holds no number ({error})", where="--predict", fix="e.g. N=7e9,D=1e12") from None


def _printable(name: str) -> str:
    """A file's name as text; bytes that are no UTF-8 are replaced, since JSON and pages are UTF-8."""
    return os.fsencode(name).decode("utf-8", errors="replace")


def rows_of(source: Path, wanted: dict[str, str]) -> Table:
    """The rows of a file, a study or a root, whose columns have the wanted values; one arm of a study only."""
    from ..core.table_files import read_table
    from ..store.sweeps import runs_table

    rows = chosen(runs_table(source) if os.path.isdir(source) else read_table(source), wanted, source)
    arms = sorted(set(rows["arm"].tolist())) if os.path.isdir(source) and "arm" in rows else []
    if len(arms) > 1:
        fix = f"choose one: --where arm={arms[0]} (of {', '.join(arms)})"
        raise UsageError("a law describes one arm, the study has several", where=str(source), fix=fix)
    return rows


def chosen(rows: Table, wanted: dict[str, str], source: Path) -> Table:
    """The rows whose columns have the wanted values."""
    for column, value in wanted.items():
        if column not in rows:
            raise UsageError(f"no column {column!r}", where="--where", fix=nearest(column, rows))
        rows = rows.where(rows.equal(column, value))
        if not rows.rows:
            raise DataError(f"no row has {column} = {value}", where=str(source))
    return rows


def pairs(given: str | list[str] | None, option: str, example: str) -> dict[str, str]:
    """``N=params, D=tokens`` as a mapping, or several of the kind; blanks around names are no part of them."""
    text = given if isinstance(given, str) else ",".join(given or [])
    pieces = [piece.partition("=") for piece in text.split(",") if piece.strip()]
    found = {key.strip(): value.strip() for key, _, value in pieces}
    if len(found) < len(pieces) or not all(key and value for key, value in found.items()):
        raise UsageError(
            f"{text!r} is not of the form {example}", where=option, fix="give each column once, with a value"
        )
    return found

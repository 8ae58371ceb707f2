"""The application that every verb adds itself to."""

from __future__ import annotations

import os
from typing import Annotated

import typer

app = typer.Typer(
    name="isoflop",
    help="How much more compute would the baseline have needed? Train, compare and report at equal compute.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        from .. import __version__

        typer.echo(f"isoflop {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if debug:
        os.environ["ISOFLOP_DEBUG"] = "1"

"""The application that every verb adds itself to."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ..core.errors import UsageError

NOT_YET = {
    "sft": "`isoflop train` with start=RUN goes on from a run's model on another source",
}
"""Verbs that others have and isoflop does not have yet, and what to use meanwhile."""


class _Verbs(TyperGroup):
    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] in NOT_YET:
            raise UsageError("is not there yet", where=f"isoflop {args[0]}", fix=f"until then, {NOT_YET[args[0]]}")
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=_Verbs,
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

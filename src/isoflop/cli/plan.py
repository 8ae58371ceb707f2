"""The verb on decisions: plan."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from ..core.errors import UsageError
from ..core.reading import user_path
from .app import app
from .common import Json, emit
from .laws import pairs, rows_of

if TYPE_CHECKING:
    from ..laws.plan.lifetime import Life

_DEFAULT = "ask"


class _Plans(TyperGroup):
    """``isoflop plan FIT ...`` asks; every other command is named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, "--help"):
            args = [_DEFAULT, *args]
        return list(super().parse_args(ctx, args))


plans = typer.Typer(cls=_Plans, no_args_is_help=True, help="What to run: sizes, tokens, costs, each with an interval.")
app.add_typer(plans, name="plan")

Number = float | None


def _number(option: str, help: str) -> Any:
    return typer.Option(option, help=help, metavar="NUMBER")


@plans.command(_DEFAULT)
def ask(
    source: Annotated[
        Path,
        typer.Argument(
            help="A fit.json, a CSV file, a study's directory or a root.", parser=user_path, metavar="FIT|TABLE"
        ),
    ],
    compute: Annotated[Number, _number("--compute", "FLOPs: which N and D? With one of them: which loss?")] = None,
    loss: Annotated[Number, _number("--loss", "Loss to reach: at which cost?")] = None,
    params: Annotated[Number, _number("--params", "N.")] = None,
    tokens: Annotated[Number, _number("--tokens", "D.")] = None,
    unique: Annotated[Number, _number("--unique-tokens", "U: how often to repeat them?")] = None,
    requests: Annotated[
        str | None,
        typer.Option(
            "--requests",
            help="A life, with --loss or --compute: which N and D? 1e9x800: so many requests of 800 tokens.",
            metavar="COUNTxTOKENS",
        ),
    ] = None,
    law: Annotated[str, typer.Option("--law", help="Of a table: a law's name; auto: the best extrapolation.")] = "auto",
    columns: Annotated[str, typer.Option("--columns", help="Law's column=table's, e.g. N=params,D=tokens.")] = "",
    where: Annotated[str, typer.Option("--where", help="Only rows with column=value, e.g. arm=muon.")] = "",
    level: Annotated[float, _number("--level", "Of the intervals, a share.")] = 0.9,
    json: Json = False,
) -> None:
    """Answer from a fit, or from a table that is fitted first: best N and D, loss, cost, repeats, a whole life."""
    from ..laws.plan.verb import plan_from

    stored = source.suffix == ".json"
    if stored and (where or columns or law != "auto"):
        raise UsageError(
            "a stored fit has its law and rows", where=str(source), fix="give a table, or drop the options"
        )
    rows = source if stored else rows_of(source, pairs(where, "--where", "arm=muon"))
    made = plan_from(
        rows, law, columns=pairs(columns, "--columns", "N=params,D=tokens"), compute=compute, loss=loss,
        params=params, tokens=tokens, unique=unique, life=_life(requests), level=level,
    )  # fmt: skip
    if json:
        emit(made.to_json())
    else:
        typer.echo(str(made))


def _life(text: str | None) -> Life | None:
    """``1e9x800``: requests, and tokens read and written by each."""
    from ..laws.plan.lifetime import Life

    if text is None:
        return None
    count, _, tokens = text.partition("x")
    try:
        return Life(float(count), float(tokens))
    except ValueError:
        raise UsageError(
            f"{text!r} is no life", where="--requests", fix="write requests x tokens, e.g. 1e9x800"
        ) from None

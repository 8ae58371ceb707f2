"""The verb that makes a trained model smaller: compress."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ..core.errors import UsageError
from ..core.reading import user_path
from .app import app
from .common import DEFAULT_ROOT, Json, Root, emit, find_run
from .training import warn


@app.command()
def compress(
    model: Annotated[str, typer.Argument(help="A run's directory, name or hash, or a Hugging Face directory.")],
    using: Annotated[
        list[str] | None,
        typer.Option("--with", help='A transform, as round or {name="round", format="int4"}; in order.'),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The new directory; must not exist.", parser=user_path, metavar="DIRECTORY"),
    ] = None,
    inspect: Annotated[
        str | None, typer.Option("--inspect", help="Only show what an MX format would do, e.g. mxfp8_e4m3.")
    ] = None,
    root: Root = DEFAULT_ROOT,
    json: Json = False,
) -> None:
    """Round, or thin out, a trained model's weights: `isoflop show transform` lists how. Runs are measured again."""
    from ..core.contracts import TransformPart
    from ..core.slots import part_from
    from ..pipelines.compressing import compress_directory, compress_run, inspected
    from ..store.published import is_published

    directory = user_path(model)
    source = directory if is_published(directory) else find_run(model, root)
    if inspect is not None:
        found = inspected(source, inspect)
        if json:
            emit({name: asdict(damage) for name, damage in found})
            return
        typer.echo("collapsed  saturated     bias    error  weight")
        for name, d in found:
            typer.echo(f"{d.collapsed:9.1%}  {d.saturated:9.1%}  {d.bias:+7.4f}  {d.error:7.4f}  {name}")
        return
    if not using or out is None:
        fix = """e.g. --with '{name="round", format="int4"}' --out small"""
        raise UsageError("wants --with and --out, or --inspect", where="compress", fix=fix)
    parts = [part for text in using if isinstance(part := part_from("transform", text), TransformPart)]
    if isinstance(source, Path):
        made = compress_directory(source, parts, out)
    else:
        made = compress_run(source, parts, out, warn)
    if json:
        emit({"out": str(out), **{key: value for key, value in asdict(made).items() if key != "scale"}})
    else:
        typer.echo(made.line(str(out)))

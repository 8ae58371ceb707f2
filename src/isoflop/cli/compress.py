"""The verb that makes a trained model smaller: compress."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..core.errors import UsageError
from ..core.reading import user_path
from .app import app
from .common import DEFAULT_ROOT, Json, Root, emit, find_run
from .training import warn

if TYPE_CHECKING:
    from ..store.run import Run


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
    name: Annotated[str | None, typer.Option("--name", help="Make a run of that name instead of a directory.")] = None,
    inspect: Annotated[
        str | None, typer.Option("--inspect", help="Only show what an MX format would do, e.g. mxfp8_e4m3.")
    ] = None,
    root: Root = DEFAULT_ROOT,
    json: Json = False,
) -> None:
    """Round, or thin out, a trained model's weights: `isoflop show transform` lists how. Runs are measured again."""
    from ..core.contracts import TransformPart
    from ..core.slots import part_from
    from ..pipelines.compressed_runs import compress_to_run
    from ..pipelines.compressing import compress_directory, compress_run
    from ..store.published import is_published

    directory = user_path(model)
    source = directory if is_published(directory) else find_run(model, root)
    if inspect is not None:
        _show_inspection(source, inspect, json)
        return
    if not using or (out is None) == (name is None):
        fix = """e.g. --with '{name="round", format="int4"}' --name small"""
        raise UsageError("wants --with and one of --name and --out, or --inspect", where="compress", fix=fix)
    parts = [part for text in using if isinstance(part := part_from("transform", text), TransformPart)]
    if out is not None:
        made = (
            compress_directory(source, parts, out)
            if isinstance(source, Path)
            else compress_run(source, parts, out, warn)
        )
    elif isinstance(source, Path):
        what = "is a directory, which has no text that a run could be measured on"
        raise UsageError(what, where=str(source), fix="write another directory: --out")
    else:
        assert name is not None
        made = compress_to_run(source, parts, root, name, warn)
    place = name or str(out)
    if json:
        emit({"name" if name else "out": place, **{k: v for k, v in asdict(made).items() if k != "scale"}})
    else:
        typer.echo(made.line(place))


def _show_inspection(source: Run | Path, format: str, json: bool) -> None:
    """What a format would do to a model: a line a weight, the worst first, and one of the whole gradient."""
    from ..pipelines.inspecting import inspected

    found = inspected(source, format, warn=warn)
    if json:
        weights = {each.name: {**asdict(each.damage), "gradient": each.gradient} for each in found.weights}
        emit({"gradient": found.gradient, "weights": weights})
        return
    typer.echo("collapsed  saturated     bias    error  gradient  weight")
    for each in found.weights:
        d, off = each.damage, "-" if each.gradient is None else f"{each.gradient:.1%}"
        typer.echo(f"{d.collapsed:9.1%}  {d.saturated:9.1%}  {d.bias:+7.4f}  {d.error:7.4f}  {off:>8}  {each.name}")
    if found.gradient is not None:
        typer.echo(f"with all operands of products, and gains, in {format} the gradient is off by {found.gradient:.1%}")

"""The verb that lets a model out: export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..core.errors import UsageError, nearest
from ..core.reading import user_path
from .app import app
from .common import DEFAULT_ROOT, Json, Root, emit, find_run, path_argument
from .training import warn

SIZES = ("float32", "bfloat16", "float16")


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="A run's directory, name or hash, or a Hugging Face directory.")],
    out: Annotated[Path, path_argument("The new directory.")],
    dtype: Annotated[str, typer.Option("--dtype", help=f"Of the weights: {', '.join(SIZES)}.")] = SIZES[0],
    context: Annotated[
        int | None,
        typer.Option("--context", min=1, help="Tokens of the longest text it is meant for; default: as trained."),
    ] = None,
    root: Root = DEFAULT_ROOT,
    json: Json = False,
) -> None:
    """Write a model as a directory that transformers loads, and all that read its directories."""
    from ..pipelines.publishing import publish_directory, publish_run
    from ..store.published import is_published

    if dtype not in SIZES:
        raise UsageError(f"no type of weights is named {dtype!r}", where="--dtype", fix=nearest(dtype, SIZES))
    if is_published(user_path(model)):
        form = publish_directory(user_path(model), out, dtype=dtype, context=context)
    else:
        form = publish_run(find_run(model, root), out, dtype=dtype, context=context, warn=warn)
    for remark in form.remarks:
        warn(remark)
    facts = {"out": str(out), "model_type": form.family.model_type, "remarks": list(form.remarks)}
    emit(facts) if json else typer.echo(f"{out}: a {form.family.model_type} ({form.family.architecture})")

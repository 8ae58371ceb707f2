"""The verb that lets a model out: export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..core.errors import UsageError, nearest
from ..core.reading import user_path
from .app import app
from .common import DEFAULT_ROOT, Json, Root, emit, find_run, path_argument
from .training import warn

if TYPE_CHECKING:
    from ..models.hf.families import Form

SIZES = ("float32", "bfloat16", "float16")
GGUF = ("f16", "f32", "bf16", "q8_0", "q4_0")
SMALL = ("packed", "compressed-tensors", "torchao")


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="A run's directory, name or hash, or a Hugging Face directory.")],
    out: Annotated[Path, path_argument("The new directory, or a file NAME.gguf for llama.cpp.")],
    dtype: Annotated[
        str | None,
        typer.Option("--dtype", help=f"Of the weights: {', '.join(SIZES)}; in a GGUF file {', '.join(GGUF)}."),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option("--context", min=1, help="Tokens of the longest text it is meant for; default: as trained."),
    ] = None,
    as_: Annotated[
        str | None,
        typer.Option("--as", help=f"Store rounded and sparse matrices in few bits: {', '.join(SMALL)}."),
    ] = None,
    adapter: Annotated[
        bool, typer.Option("--adapter", help="Only the adapter that the run trained, in PEFT's layout.")
    ] = False,
    root: Root = DEFAULT_ROOT,
    json: Json = False,
) -> None:
    """Write a model as a directory that transformers loads, or as a GGUF file that llama.cpp loads."""
    if adapter:
        from ..pipelines.adapters import publish_adapter

        base = publish_adapter(find_run(model, root), user_path(out), warn=warn)
        emit({"out": str(out), "base": str(base)}) if json else typer.echo(f"{out}: an adapter of {base}")
        return
    from ..pipelines.packing import publish_packed, unpacked
    from ..pipelines.publishing import publish_directory, publish_gguf, publish_run
    from ..store.published import is_published

    known = GGUF if out.suffix == ".gguf" else SIZES
    kind = dtype or known[0]
    if kind not in known:
        raise UsageError(f"no type of weights is named {kind!r}", where="--dtype", fix=nearest(kind, known))
    if as_ is not None and (as_ not in SMALL or known is GGUF):
        fix = nearest(as_, SMALL) if known is SIZES else "a GGUF file's types are those of --dtype"
        raise UsageError(f"no form of a directory is named {as_!r}", where="--as", fix=fix)

    def write(directory: Path, dtype: str = SIZES[0]) -> Form:
        if is_published(user_path(model)):
            with unpacked(user_path(model)) as plain:
                return publish_directory(plain, directory, dtype=dtype, context=context)
        return publish_run(find_run(model, root), directory, dtype=dtype, context=context, warn=warn)

    notes, facts = list[str](), dict[str, Any]()
    if as_ is not None:
        form, stored = publish_packed(write, user_path(out), as_, kind)
        facts = {"packed": len(stored.packed), "bits": stored.bits, "plain": stored.plain}
    elif known is GGUF:
        form, notes = publish_gguf(write, user_path(out), kind)
    else:
        form = write(out, kind)
    for note in notes:
        warn(note)
    for remark in form.remarks:
        warn(remark)
    facts |= {"out": str(out), "model_type": form.family.model_type, "remarks": [*form.remarks, *notes]}
    small = f", {facts['packed']} matrices in {facts['bits']:.3g} bits a weight" if "packed" in facts else ""
    emit(facts) if json else typer.echo(f"{out}: a {form.family.model_type} ({form.family.architecture}){small}")

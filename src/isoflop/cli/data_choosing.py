"""The verbs that choose documents by what they are worth: score, embed, select."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..core.errors import UsageError, nearest
from ..core.reading import user_path
from .common import DEFAULT_ROOT, Json, Root
from .data import Format, Inputs, Out, Reading, data_app, shown, shown_flops, started, tokenizer_of
from .gathered import gathered
from .laws import pairs
from .training import warn

if TYPE_CHECKING:
    from ..data.engine.choosing import Selection
    from ..data.engine.inputs import Unit


@data_app.command()
@gathered
def score(
    inputs: Inputs,
    out: Out,
    *,
    scorer: Annotated[str, typer.Option("--scorer", help="A scorer's name or table (`isoflop show scorer`).")],
    text: Annotated[
        list[str] | None,
        typer.Option("--text", help="Documents it fits to: NAME=FILE, e.g. target=good.jsonl (may come again)."),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", help="Models it asks: NAME=RUN, or a Hugging Face directory (may come again)."),
    ] = None,
    vectors: Annotated[
        list[str] | None,
        typer.Option("--vectors", help="Vectors for clusters: a folder of `embed`, or files (may come again)."),
    ] = None,
    sample: Annotated[int, typer.Option("--sample", min=2, help="Documents of the pool it sees first.")] = 100_000,
    reading: Reading,
    root: Root = DEFAULT_ROOT,
    json: Json = False,
) -> None:
    """Say of every document what it is worth; the scores stay beside the input for any number of selections."""
    from ..core.contracts import ScorerPart
    from ..core.slots import part_from
    from ..data.engine.inputs import units_of
    from ..data.engine.scoring import score as run

    part = part_from("scorer", scorer)
    assert isinstance(part, ScorerPart)
    texts: dict[str, list[Unit]] = {}
    for name, file in named(text, "--text", "target=good.jsonl"):
        texts[name] = units_of([*(given for unit in texts.get(name, []) for given in unit.files), file])
    models: dict[str, Any] = {}
    for name, place in named(model, "--model", "prior=RUN"):
        from ..pipelines.scorer_models import reading_model

        models[name] = reading_model(place, root)
    with started(inputs, out, reading, "jsonl.gz", json) as (units, settings):
        if vectors:
            from ..data.engine.vectors import StoredVectors, stored_flops, stored_units

            stored = units_of([file for given in vectors for file in stored_units(given)])
            flops = sum(map(stored_flops, vectors))
            models["encoder"] = StoredVectors.read(stored, units, settings.keys, flops=flops)
        found = run(units, part, settings, texts, models, sample)
    shown(found, out, json)
    if inside := found["counts"].get("also_fitted_to"):
        said = f"{inside:,} documents of the pool are among those that the scorer was fitted to"
        warn(f"{said}: they come first; `isoflop data decontaminate` drops them")
    if not json:
        shown_flops(found)


def named(given: Sequence[str] | None, option: str, example: str) -> list[tuple[str, str]]:
    """``NAME=VALUE`` of an option that may come again."""
    found = [each.partition("=") for each in given or []]
    for name, sign, value in found:
        if not (name and sign and value):
            raise UsageError(f"{name + sign + value!r} is not of the form {example}", where=option)
    return [(name, value) for name, _, value in found]


@data_app.command()
@gathered
def embed(
    inputs: Inputs,
    out: Out,
    *,
    model: Annotated[str | None, typer.Option("--model", help="A run, or a Hugging Face directory.")] = None,
    svd: Annotated[
        int | None,
        typer.Option("--svd", min=1, help="Instead: so many leading directions of the input's hashed words and pairs."),
    ] = None,
    sample: Annotated[int, typer.Option("--sample", min=2, help="Documents that they are found in.")] = 100_000,
    reading: Reading,
    format: Format = "jsonl.gz",
    root: Root = DEFAULT_ROOT,
    json: Json = False,
) -> None:
    """Write the vector of every document, of length 1: the mean of a model's states, or by its words."""
    from ..data.engine.vectors import embed as run

    if (model is None) == (svd is None):
        raise UsageError("takes one of --model and --svd", where="isoflop data embed", fix="e.g. --svd 64")
    with started(inputs, out, reading, format, json) as (units, settings):
        if model is not None:
            from ..pipelines.scorer_models import reading_model

            found = run(units, reading_model(model, root), settings.alone)
        else:
            from ..data.engine.latent import LatentVectors
            from ..data.engine.scoring import sampled

            found = run(units, LatentVectors.fit(sampled(units, settings.keys, sample), svd or 1), settings)
    shown(found, out, json)
    if not json:
        shown_flops(found)


SELECTION = (
    "ratio=8, tokens=1e9, bytes=1e9, documents=1000, repeats=4, rule=batched, batch=1024, gumbel=1, key=site, most=0.2"
)


@data_app.command()
@gathered
def select(
    inputs: Inputs,
    out: Out,
    *,
    scores: Annotated[Path, typer.Option("--scores", help="Folder of `score`.", parser=user_path, metavar="DIRECTORY")],
    keep: Annotated[
        list[str],
        typer.Option("--keep", help=f"How much and by which rule, of {SELECTION}.", metavar="KEY=VALUE,..."),
    ],
    groups: Annotated[
        Path | None,
        typer.Option(
            "--groups",
            help="Scores of clusters, of each of which `most` is kept.",
            parser=user_path,
            metavar="DIRECTORY",
        ),
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option("--tokenizer", help="That `tokens` are counted with: a tokenizer's name or table.")
    ] = None,
    reading: Reading,
    format: Format = "jsonl.gz",
    json: Json = False,
) -> None:
    """Keep the documents of the highest scores; the bill of their selection goes with them."""
    from ..data.engine.scoring import flops_of
    from ..data.engine.scoring import select as run

    selection = selection_of(pairs(keep, "--keep", "ratio=8,rule=batched"))
    counted = None if tokenizer is None else tokenizer_of(tokenizer)
    with started(inputs, out, reading, format, json) as (units, settings):
        found = run(units, scores, selection, settings, counted, groups)
    shown(found, out, json)
    if not json:
        flops = flops_of(found["bill"])["all"]
        typer.echo(f"selected at {flops:.4g} model FLOPs; training it for {selection.repeats} epochs comes to that")


def selection_of(given: Mapping[str, str]) -> Selection:
    """``ratio=8,rule=batched`` as a selection; UsageError for what it does not know."""
    import dataclasses

    from ..data.engine.choosing import Selection

    kinds = {each.name: str(each.type) for each in dataclasses.fields(Selection)}
    values: dict[str, Any] = {}
    for name, text in given.items():
        if name not in kinds:
            raise UsageError(f"no setting is named {name!r}", where="--keep", fix=nearest(name, kinds))
        try:
            if kinds[name].startswith("bool"):
                values[name] = {"true": True, "false": False}[text.lower()]
            elif kinds[name].startswith(("int", "float")):
                number = float(text)
                values[name] = int(number) if kinds[name].startswith("int") else number
            else:
                values[name] = text
        except (KeyError, ValueError, OverflowError):
            raise UsageError(f"{name} is {text!r}", where="--keep", fix=f"e.g. {SELECTION}") from None
    return Selection(**values)

"""The verb that writes documents anew: rephrase."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from ..core.errors import UsageError
from .common import DEFAULT_ROOT, Json, Root
from .data import Format, Inputs, Out, Reading, data_app, shown, shown_flops, started
from .gathered import gathered


@dataclass(frozen=True)
class Drawn:
    """Which documents are rephrased, and in what style."""

    style: Annotated[
        list[str] | None,
        typer.Option("--style", help="easy, medium, hard or qa (may come again)."),
    ] = None
    share: Annotated[float, typer.Option("--share", help="Of documents that are rephrased; 1: one to one.")] = 1.0
    words: Annotated[int, typer.Option("--words", min=1, help="Of a piece that is rephrased at once.")] = 225
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another one draws other documents and styles.")] = 0


@data_app.command()
@gathered
def rephrase(
    inputs: Inputs,
    out: Out,
    *,
    generator: Annotated[
        str,
        typer.Option(
            "--generator",
            help="template, a run, a Hugging Face directory, or http://HOST:PORT/v1#MODEL.",
        ),
    ] = "template",
    drawn: Drawn,
    temperature: Annotated[float, typer.Option("--temperature", min=0, help="Of what a model draws.")] = 0.7,
    tests: Annotated[
        list[str] | None, typer.Option("--tests", help="Files of tests that no rephrasing may hold (may come again).")
    ] = None,
    reading: Reading,
    format: Format = "jsonl.gz",
    root: Root = DEFAULT_ROOT,
    json: Json = False,
) -> None:
    """Write documents, each followed by a rephrasing; both share the key `pair`, for `build --group pair`."""
    from ..data.engine.inputs import units_of
    from ..data.engine.rephrasing import Rephrasing
    from ..data.engine.rephrasing import rephrase as run

    how = Rephrasing(tuple(drawn.style or ["medium"]), drawn.share, drawn.words, seed=drawn.seed)
    live = _generator(generator, root, temperature)
    with started(inputs, out, reading, format, json) as (units, settings):
        found = run(units, live, how, settings, units_of(tests) if tests else ())
    shown(found, out, json)
    if not json:
        typer.echo(f"{found['copied']:.1%} of a rephrasing's runs of 5 words are its document's own")
        shown_flops(found)


def _generator(name: str, root: Path, temperature: float) -> Any:
    """The generator that a command line names."""
    if name == "template":
        from ..data.engine.templates import TemplateRephraser

        return TemplateRephraser()
    if name.startswith(("http://", "https://")):
        from ..data.engine.endpoint import EndpointRephraser

        url, _, model = name.partition("#")
        if not model:
            raise UsageError("names no model", where=name, fix=f"name it behind #: {name}#MODEL")
        return EndpointRephraser(url, model, temperature=temperature)
    from ..pipelines.rephrasers import model_rephraser

    return model_rephraser(name, root, temperature=temperature)

"""The verbs on documents in files: clean, dedup and their kin. All are gone on with where they were stopped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..core.errors import UsageError, nearest
from ..core.reading import user_path
from .app import app
from .common import DEFAULT_ROOT, Json, Root, emit
from .gathered import gathered
from .laws import pairs
from .training import warn

if TYPE_CHECKING:
    from ..data.engine.inputs import Unit
    from ..data.engine.jobs import JobSettings
    from ..data.engine.scoring import Selection

data_app = typer.Typer(help="Clean, deduplicate, score, choose and tokenise documents in files.", no_args_is_help=True)
app.add_typer(data_app, name="data")

Inputs = Annotated[
    list[str],
    typer.Argument(help="Files, folders or patterns: JSONL (.gz, .zst), Parquet, Arrow, text.", metavar="INPUT..."),
]
Out = Annotated[
    Path, typer.Option("--out", help="The output's folder; new, or to go on in.", parser=user_path, metavar="DIRECTORY")
]
Format = Annotated[str, typer.Option("--format", help="Of the documents: jsonl, jsonl.gz, jsonl.zst or parquet.")]


@dataclass(frozen=True)
class Reading:
    """How documents are read, and by how many."""

    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Processes; default: one a core.")] = None
    broken: Annotated[
        int, typer.Option("--broken", min=0, help="Lines that hold no document and are only counted and listed.")
    ] = 100
    key: Annotated[str, typer.Option("--key", help="Key of the text.")] = "text"
    id_key: Annotated[str, typer.Option("--id-key", help="Key of the document's id.")] = "id"


@contextmanager
def started(
    inputs: Sequence[str], out: Path, reading: Reading, format: str, json: bool
) -> Iterator[tuple[list[Unit], JobSettings]]:
    """The units of the input and how to work on them, with a bar of progress while entered."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from ..data.engine.inputs import Keys, units_of
    from ..data.engine.jobs import JobSettings
    from ..data.engine.packed import checked_format
    from ..store.environment import cores

    units, keys = units_of(inputs), Keys(reading.key, reading.id_key)
    columns = (BarColumn(), TextColumn("{task.percentage:>3.0f}% {task.fields[said]}"), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=json or not console.is_terminal) as bar:
        task = bar.add_task("", total=None, said="")

        def tell(done: int, whole: int, counts: Mapping[str, int]) -> None:
            said = f"{counts.get('documents', 0):,} documents, {counts.get('kept', 0):,} kept"
            bar.update(task, completed=done, total=whole, said=said)

        workers = reading.workers or cores()
        yield units, JobSettings(out, workers, reading.broken, keys, checked_format(format), tell)


def shown(found: Mapping[str, Any], out: Path, json: bool) -> None:
    """Print what came of a job."""
    if json:
        emit({**found, "out": str(out)})
        return
    counts = dict(found["counts"])
    documents, kept = counts.pop("documents", 0), counts.pop("kept", None)
    share = f" ({kept / documents:.1%})" if documents and kept is not None else ""
    typer.echo(f"{documents:,} documents" + ("" if kept is None else f", {kept:,} kept{share}"))
    for name, count in sorted(counts.items(), key=lambda pair: -pair[1]):
        typer.echo(f"  {name.replace('_', ' ')}: {count:,}")
    typer.echo(f"in {out}")


@data_app.command()
@gathered
def clean(
    inputs: Inputs,
    out: Out,
    *,
    chain: Annotated[str, typer.Option("--chain", help="Published filters: gopher, c4, fineweb or dclm.")] = "fineweb",
    filters: Annotated[
        list[str] | None,
        typer.Option("--filter", help="Instead: a filter's name or table, in order (may come again)."),
    ] = None,
    reading: Reading,
    format: Format = "jsonl.gz",
    json: Json = False,
) -> None:
    """Drop and mend documents by published rules, in one pass; decisions and reasons are kept beside them."""
    from ..data.engine.cleaning import chain_of, filter_of
    from ..data.engine.cleaning import clean as run

    chosen = [filter_of(text) for text in filters] if filters else chain_of(chain)
    with started(inputs, out, reading, format, json) as (units, settings):
        found = run(units, chosen, settings)
    shown(found, out, json)


@data_app.command()
@gathered
def dedup(
    inputs: Inputs,
    out: Out,
    *,
    method: Annotated[
        str, typer.Option("--method", help="exact, minhash (near ones), bloom (paragraphs) or substring.")
    ] = "minhash",
    preset: Annotated[
        str, typer.Option("--preset", help="Of minhash: datatrove, refinedweb, dclm, nemo, slimpajama or recall.")
    ] = "datatrove",
    against: Annotated[
        list[Path] | None,
        typer.Option(
            "--against",
            help="Folder of an earlier dedup, taken as seen.",
            parser=user_path,
            metavar="DIR",
        ),
    ] = None,
    reading: Reading,
    format: Format = "jsonl.gz",
    json: Json = False,
) -> None:
    """Drop documents that repeat an earlier one; the folder is an index that later input may be held against."""
    from ..data.engine.dedup import Keying
    from ..data.engine.dedup import dedup as run
    from ..data.engine.minhash import PRESETS

    methods = ("exact", "minhash", "bloom", "substring")
    if method not in methods:
        raise UsageError(f"no method is named {method!r}", where="--method", fix=nearest(method, methods))
    if preset not in PRESETS:
        raise UsageError(f"no preset is named {preset!r}", where="--preset", fix=nearest(preset, PRESETS))
    if method in ("bloom", "substring") and against:
        raise UsageError("is for exact and minhash", where="--against", fix="give both inputs in one call")
    with started(inputs, out, reading, format, json) as (units, settings):
        if method == "bloom":
            from ..data.engine.bloom import BloomSettings, bloom

            characters = sum(unit.size * (1 if unit.kind in ("lines", "text") else 4) for unit in units)
            found = bloom(units, BloomSettings(expected=max(characters // 5, 1000)), settings)
        elif method == "substring":
            from ..data.engine.substring import substrings

            found = substrings(units, settings)
        else:
            found = run(units, Keying(method, PRESETS[preset]), settings, against or ())  # type: ignore[arg-type]
    shown(found, out, json)


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
    sample: Annotated[int, typer.Option("--sample", min=2, help="Documents of the pool it sees first.")] = 100_000,
    reading: Reading,
    root: Root = DEFAULT_ROOT,
    json: Json = False,
) -> None:
    """Say of every document what it is worth; the scores stay beside the input for any number of selections."""
    from ..core.contracts import ScorerPart
    from ..core.slots import part_from
    from ..data.engine.inputs import units_of
    from ..data.engine.scoring import flops_of
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
        found = run(units, part, settings, texts, models, sample)
    shown(found, out, json)
    if inside := found["counts"].get("also_fitted_to"):
        said = f"{inside:,} documents of the pool are among those that the scorer was fitted to"
        warn(f"{said}: they come first; `isoflop data decontaminate` drops them")
    if not json:
        typer.echo("model FLOPs: " + ", ".join(f"{name} {flops:.4g}" for name, flops in flops_of(found).items()))


def named(given: Sequence[str] | None, option: str, example: str) -> list[tuple[str, str]]:
    """``NAME=VALUE`` of an option that may come again."""
    found = [each.partition("=") for each in given or []]
    for name, sign, value in found:
        if not (name and sign and value):
            raise UsageError(f"{name + sign + value!r} is not of the form {example}", where=option)
    return [(name, value) for name, _, value in found]


SELECTION = "ratio=8, bytes=1e9, documents=1000, repeats=4, rule=batched, batch=1024, gumbel=1, key=domain, most=0.2"


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
    reading: Reading,
    format: Format = "jsonl.gz",
    json: Json = False,
) -> None:
    """Keep the documents of the highest scores; the bill of their selection goes with them."""
    from ..data.engine.scoring import flops_of
    from ..data.engine.scoring import select as run

    selection = selection_of(pairs(keep, "--keep", "ratio=8,rule=batched"))
    with started(inputs, out, reading, format, json) as (units, settings):
        found = run(units, scores, selection, settings)
    shown(found, out, json)
    if not json:
        flops = flops_of(found["bill"])["all"]
        typer.echo(f"selected at {flops:.4g} model FLOPs; training it for {selection.repeats} epochs comes to that")


def selection_of(given: Mapping[str, str]) -> Selection:
    """``ratio=8,rule=batched`` as a selection; UsageError for what it does not know."""
    import dataclasses

    from ..data.engine.scoring import Selection

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


@data_app.command()
@gathered
def decontaminate(
    inputs: Inputs,
    out: Out,
    *,
    tests: Annotated[list[str], typer.Option("--tests", help="Files of tests, of any keys (may come again).")],
    reading: Reading,
    format: Format = "jsonl.gz",
    json: Json = False,
) -> None:
    """Drop documents that share 13 words in a row with a test."""
    from ..data.engine.contamination import decontaminate as run
    from ..data.engine.inputs import units_of

    with started(inputs, out, reading, format, json) as (units, settings):
        found = run(units, units_of(tests), settings)
    shown(found, out, json)
    if not json and found["items_too_short"]:
        typer.echo(f"{found['items_too_short']:,} texts of tests are too short to be looked for")


@data_app.command()
@gathered
def mix(
    sources: Annotated[list[str], typer.Argument(help="PATH=SHARE, e.g. books/=0.7 web.parquet=0.3.")],
    out: Out,
    *,
    bytes: Annotated[int, typer.Option("--bytes", min=1, help="Of text in all.")],
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another one draws other documents.")] = 0,
    reading: Reading,
    format: Format = "jsonl.gz",
    json: Json = False,
) -> None:
    """Draw documents of several sources by shares of text; each is named by its source, under `domain`."""
    from ..data.engine.inputs import units_of
    from ..data.engine.mixing import mix as run

    shares: dict[str, float] = {}
    for each in sources:
        name, _, share = each.rpartition("=")
        try:
            shares[name] = float(share)
        except ValueError:
            raise UsageError("is not of the form PATH=SHARE", where=each, fix="e.g. books/=0.7") from None
    with started(list(shares), out, reading, format, json) as (_, settings):
        found = run({name: units_of([name]) for name in shares}, shares, bytes, settings, seed=seed)
    shown(found, out, json)


@data_app.command()
@gathered
def stats(
    inputs: Inputs,
    out: Out,
    *,
    count: Annotated[str, typer.Option("--count", help="A key of records whose values are counted.")] = "domain",
    reading: Reading,
    json: Json = False,
) -> None:
    """Count documents, words, lengths, scripts, equal texts and equal ids."""
    from ..data.engine.statistics import histogram, statistics

    with started(inputs, out, reading, "jsonl", json) as (units, settings):
        found = statistics(units, settings, count)
    if json:
        emit({**found, "out": str(out)})
        return
    plain = {name: value for name, value in found["counts"].items() if not name.startswith("length.")}
    shown({"counts": plain}, out, json)
    typer.echo("documents by characters, from:")
    for line in histogram(found["counts"]):
        typer.echo(line)


@data_app.command()
@gathered
def build(
    inputs: Inputs,
    out: Out,
    *,
    tokenizer: Annotated[str, typer.Option("--tokenizer", help="A tokenizer's name or table.")] = "bytes",
    heldout: Annotated[float, typer.Option("--heldout", help="Share of documents held out, by a hash.")] = 0.05,
    domain: Annotated[str, typer.Option("--domain", help="What held-out text is evaluated under.")] = "text",
    reading: Reading,
    json: Json = False,
) -> None:
    """Tokenise documents into shards, which the source `built` trains on."""
    from ..core.contracts import TokenizerPart
    from ..core.slots import part_from
    from ..data.engine.building import build as run

    part = part_from("tokenizer", tokenizer)
    assert isinstance(part, TokenizerPart)
    if not 0 < heldout < 1:
        raise UsageError(f"is {heldout}, no share", where="--heldout", fix="e.g. 0.05")
    with started(inputs, out, reading, "jsonl", json) as (units, settings):
        found = run(units, part, settings, share=heldout, domain=domain)
    shown(found, out, json)

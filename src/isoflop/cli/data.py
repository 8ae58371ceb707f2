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
from .common import Json, emit
from .gathered import gathered

if TYPE_CHECKING:
    from ..core.contracts import TokenizerPart
    from ..data.engine.inputs import Unit
    from ..data.engine.jobs import JobSettings

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
        if count:
            typer.echo(f"  {name.replace('_', ' ')}: {count:,}")
    typer.echo(f"in {out}")


def shown_flops(found: Mapping[str, Any]) -> None:
    """Print what a job's models took."""
    from ..data.engine.scoring import flops_of

    typer.echo("model FLOPs: " + ", ".join(f"{name} {flops:.4g}" for name, flops in flops_of(found).items()))


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
    first: Annotated[
        list[str] | None,
        typer.Option("--first", help="Filters before these: url, language ... (may come again)."),
    ] = None,
    reading: Reading,
    format: Format = "jsonl.gz",
    json: Json = False,
) -> None:
    """Drop and mend documents by published rules, in one pass; decisions and reasons are kept beside them."""
    from ..data.engine.cleaning import chain_of, filter_of
    from ..data.engine.cleaning import clean as run

    chosen = [filter_of(text) for text in filters] if filters else chain_of(chain)
    chosen = [*map(filter_of, first or []), *chosen]
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


def tokenizer_of(text: str) -> TokenizerPart:
    """The tokenizer that a command line names, by its name or as a table."""
    from ..core.contracts import TokenizerPart
    from ..core.slots import part_from

    part = part_from("tokenizer", text)
    assert isinstance(part, TokenizerPart)
    return part


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
    languages: Annotated[bool, typer.Option("--languages", help="Count languages, too.")] = False,
    steps: Annotated[
        list[Path] | None,
        typer.Option(
            "--step",
            help="Folder of clean, dedup or decontaminate, whose drops the page shows (may come again).",
            parser=user_path,
            metavar="DIR",
        ),
    ] = None,
    reading: Reading,
    json: Json = False,
) -> None:
    """Count documents, words, lengths, scripts, equal texts and equal ids; write a page about them."""
    from ..data.engine.statistics import histogram, statistics
    from ..report.corpora import write_corpus_page
    from ..store.corpora import CORPUS_FACTS, CorpusFacts

    with started(inputs, out, reading, "jsonl", json) as (units, settings):
        found = statistics(units, settings, count, languages=languages, steps=steps or ())
    page = out / "report.html"
    write_corpus_page(CorpusFacts.read(out / CORPUS_FACTS), page)
    if json:
        emit({**found, "out": str(out), "report": str(page)})
        return
    plain = {name: value for name, value in found["counts"].items() if not name.startswith("length.")}
    shown({"counts": plain}, out, json)
    typer.echo("documents by characters, from:")
    for line in histogram(found["counts"]):
        typer.echo(line)
    typer.echo(str(page))


@data_app.command()
@gathered
def build(
    inputs: Inputs,
    out: Out,
    *,
    tokenizer: Annotated[str, typer.Option("--tokenizer", help="A tokenizer's name or table.")] = "bytes",
    heldout: Annotated[float, typer.Option("--heldout", help="Share of documents held out, by a hash.")] = 0.05,
    domain: Annotated[str, typer.Option("--domain", help="What held-out text is evaluated under.")] = "text",
    group: Annotated[
        str | None, typer.Option("--group", help="A key whose records stay together, e.g. pair of `rephrase`.")
    ] = None,
    reading: Reading,
    json: Json = False,
) -> None:
    """Tokenise documents into shards, which the source `built` trains on."""
    from ..data.engine.building import build as run

    part = tokenizer_of(tokenizer)
    if not 0 < heldout < 1:
        raise UsageError(f"is {heldout}, no share", where="--heldout", fix="e.g. 0.05")
    with started(inputs, out, reading, "jsonl", json) as (units, settings):
        found = run(units, part, settings, share=heldout, domain=domain, group=group)
    shown(found, out, json)

"""The verbs on checkpoints: merge, merge inspect, convert."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..core.errors import DataError, UsageError
from ..core.reading import user_path
from .app import app
from .common import DEFAULT_ROOT, Json, Root, default_verb, emit, find_run, path_argument

if TYPE_CHECKING:
    from ..merge.plan import MergePlan


verbs = typer.Typer(cls=default_verb("run"), no_args_is_help=True, add_completion=False, rich_markup_mode="rich")
app.add_typer(verbs, name="merge", help="Merge checkpoints: merge CONFIG OUT. Or look before: merge inspect.")


@verbs.command()
def run(
    config: Annotated[Path, path_argument("A merge: TOML of ours, or mergekit's YAML.")],
    out: Annotated[Path, path_argument("The new directory; appears when everything is written.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the plan: memory, disk, time.")] = False,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes, each with tensors of its own.")] = 1,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads of each process.")] = 1,
    json: Json = False,
) -> None:
    """Merge checkpoints into a new one. Killed, the same command goes on where it was."""
    from tempfile import TemporaryDirectory

    import torch

    from ..merge.execute import merge
    from ..merge.plan import make_plan
    from ..merge.recipe import load
    from ..pipelines.evaluated import evaluated_runs

    torch.set_num_threads(threads)
    recipe = load(config)
    if dry_run:
        with TemporaryDirectory() as folder, evaluated_runs(recipe, Path(folder) / "out") as plain:
            facts = _facts(make_plan(plain(recipe)), out)
        emit(facts) if json else _print_plan(facts)
        return
    with _bar(not json) as progress, evaluated_runs(recipe, out) as plain:
        plan = merge(plain(recipe), out, workers=workers, progress=progress)
    if json:
        emit({"out": str(out), "tensors": len(plan.tasks), "bytes": plan.layout.bytes})
    else:
        typer.echo(f"{out}: {len(plan.tasks)} tensors, {plan.layout.bytes:,} bytes; {out / 'README.md'} says from what")


@verbs.command()
def inspect(
    sources: Annotated[list[str], typer.Argument(help="A merge's TOML or YAML; or the base, then the models.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Directory for inspection.json and report.html.", parser=user_path, metavar="DIRECTORY"
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Show distances, cosines, sign conflicts and ranks of models before they are merged."""
    from tempfile import TemporaryDirectory

    from ..merge.inspect import inspect, pair_of
    from ..merge.recipe import load
    from ..pipelines.evaluated import evaluated_runs

    if len(sources) == 1:
        if not user_path(sources[0]).is_file():
            raise UsageError("one argument is a merge's file, more are a base and models", where=sources[0])
        recipe = load(user_path(sources[0]))
        base, models = pair_of(recipe, sources[0])
        with TemporaryDirectory() as folder, evaluated_runs(recipe, Path(folder) / "out") as plain:
            found = inspect(*pair_of(plain(recipe), sources[0]))
        found = found.model_copy(update={"base": base, "models": tuple(models)})
    else:
        base, *models = sources
        found = inspect(base, models)
    page = None
    if out is not None:
        from ..report.page import write_report

        found.write(out)
        page = write_report(out)
    if json:
        emit({**found.model_dump(mode="json"), **({"report": str(page)} if page else {})})
        return
    from rich.console import Console

    from ..report.inspections import headline, layer_sheet, tensor_sheet
    from ..report.terminal import grid

    console = Console(highlight=False)
    console.print(headline(found), markup=False)
    for sheet in filter(None, (layer_sheet(found), tensor_sheet(found))):
        console.print(grid(sheet))
    if page is not None:
        typer.echo(f"\nreport: {page}")


@verbs.command()
def fold(
    base: Annotated[Path, path_argument("The checkpoint that the adapter was trained on.")],
    adapter: Annotated[Path, path_argument("A LoRA adapter in PEFT's layout.")],
    out: Annotated[Path, path_argument("The new directory.")],
    off: Annotated[bool, typer.Option("--off", help="Take a merged adapter off again.")] = False,
) -> None:
    """Merge a LoRA adapter into its base, or take it off again."""
    from ..merge.lora_merge import fold

    fold(base, adapter, out, sign=-1.0 if off else 1.0)
    typer.echo(str(out))


@verbs.command()
def search(
    config: Annotated[Path, path_argument("A merge of runs; its weights are searched.")],
    out: Annotated[Path, path_argument("Directory of trials and the best merge; an unfinished search goes on.")],
    run: Annotated[str, typer.Option("--run", help="Run whose first metric on held-out text is the fitness.")],
    trials: Annotated[int, typer.Option("--trials", min=1, help="Merges that are scored.")] = 100,
    knobs: Annotated[str, typer.Option("--knobs", help="Of each model, e.g. weight,density.")] = "weight",
    filters: Annotated[str, typer.Option("--filters", help="Names' pieces with numbers of their own.")] = "",
    blocks: Annotated[int, typer.Option("--blocks", min=1, help="Points of each gradient over the layers.")] = 1,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the search.")] = 0,
    root: Root = DEFAULT_ROOT,
    json: Json = False,
) -> None:
    """Search a merge's weights by CMA-ES. Killed, the same command goes on where it was."""
    from ..merge.recipe import load
    from ..merge.search import BEST, Space, search
    from ..pipelines.evaluated import evaluated_runs
    from ..train.restore import restore
    from .probe import heldout_fitness

    names = [tuple(piece for piece in text.split(",") if piece) for text in (knobs, filters)]
    recipe = load(config)
    space = Space(recipe, names[0], names[1], blocks)
    score = heldout_fitness(restore(find_run(run, root), device="cpu"))
    with evaluated_runs(recipe, out) as plain:
        best = search(space, lambda asked: score(plain(asked)), out, trials=trials, seed=seed)
    facts = {"out": str(out / BEST), "value": best, "trials": trials}
    emit(facts) if json else typer.echo(f"{out / BEST}: {best:.4f} after {trials} trials")


@verbs.command()
def export(
    run: Annotated[str, typer.Argument(help="Name, directory or hash of a run.")],
    out: Annotated[Path, path_argument("The new directory.")],
    adapter: Annotated[bool, typer.Option("--adapter", help="Only its adapter, in PEFT's layout.")] = False,
    root: Root = DEFAULT_ROOT,
) -> None:
    """Write a run's model as it is evaluated, whatever it was trained with baked in; or the adapter that it trained."""
    from ..core.contracts import merged
    from ..merge.lora_files import write_adapter
    from ..merge.lora_trained import adapter_of, write_weights
    from ..train.restore import trained

    _refuse_existing(out)
    model = trained(find_run(run, root), device="cpu").model
    if adapter:
        write_adapter(adapter_of(model), out)
    else:
        write_weights(merged(model), out)
    typer.echo(str(out))


@verbs.command()
def extract(
    base: Annotated[Path, path_argument("The model before fine-tuning.")],
    tuned: Annotated[Path, path_argument("The model after it.")],
    out: Annotated[Path, path_argument("The new directory, in PEFT's layout.")],
    rank: Annotated[int, typer.Option("--rank", min=1, help="Of each matrix's update, at most.")] = 16,
    rest: Annotated[bool, typer.Option("--rest", help="Carry embeddings and norms that differ as a whole.")] = False,
    json: Json = False,
) -> None:
    """Extract a LoRA adapter from a fine-tuned model, and say what it loses."""
    from ..merge.lora_files import write_adapter
    from ..merge.lora_merge import extract

    _refuse_existing(out)
    found = extract(base, tuned, rank, rest=rest)
    write_adapter(found.adapter, out)
    errors = sorted(found.errors.values())
    if json:
        emit({"out": str(out), "rank": rank, "errors": found.errors, "left": found.left})
        return
    typer.echo(f"{out}: {len(errors)} modules at rank {rank}")
    typer.echo(f"relative error of the updates: median {errors[len(errors) // 2]:.3f}, largest {errors[-1]:.3f}")
    if found.left:
        typer.echo(
            f"left out: {len(found.left)} tensors that differ, e.g. {found.left[0]}; --rest carries most of them"
        )


def _refuse_existing(out: Path) -> None:
    if out.exists():
        raise UsageError("exists already", where=str(out), fix="choose another output")


def _facts(plan: MergePlan, out: Path) -> dict[str, Any]:
    import shutil

    from ..merge.execute import continued, estimate

    parent = out.absolute().parent
    while not parent.exists():
        parent = parent.parent
    about = estimate(plan)
    return {
        "method": plan.recipe.method,
        "sources": plan.paths,
        "tensors": len(plan.tasks),
        "files": sorted(plan.layout.headers),
        "memory_bytes": about.memory,
        "disk_bytes": about.disk,
        "free_bytes": shutil.disk_usage(parent).free,
        "read_bytes": plan.reads,
        "cpu_seconds": about.seconds,
        "exists": out.exists(),
        "continues": continued(plan, out),
    }


def _print_plan(facts: dict[str, Any]) -> None:
    typer.echo(f"method   {facts['method']}")
    for source in facts["sources"]:
        typer.echo(f"source   {source}")
    typer.echo(f"output   {facts['tensors']} tensors in {len(facts['files'])} files")
    typer.echo(f"memory   {_size(facts['memory_bytes'])} of tensors at once, beside the program itself")
    typer.echo(f"disk     {_size(facts['disk_bytes'])}, {_size(facts['free_bytes'])} are free")
    typer.echo(f"time     about {facts['cpu_seconds']:.0f} s of one core, from a trial of the method here")
    if facts["disk_bytes"] > facts["free_bytes"]:
        typer.echo("         there is not enough room")
    if facts["exists"]:
        typer.echo("         the output exists already: choose another one")
    if facts["continues"]:
        typer.echo("         a merge that was killed will be continued")


def _size(count: int) -> str:
    size = float(count)
    for unit in ("B", "KB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


@contextmanager
def _bar(wanted: bool) -> Iterator[Callable[[int, int], None] | None]:
    """A function (done, all) that moves a progress bar; None where there is no terminal to draw it on."""
    if not (wanted and sys.stderr.isatty()):
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("merging")
        yield lambda done, total: progress.update(bar, completed=done, total=total)


@app.command()
def convert(
    source: Annotated[Path, path_argument("A directory with pickled weights (.bin, .pt), or one such file.")],
    out: Annotated[Path, path_argument("The new directory of safetensors.")],
    json: Json = False,
) -> None:
    """Turn pickled weights into safetensors. Only tensors are read: no code in the files can run."""
    from ..core.digests import digest
    from ..store.tensor_writer import lay_out, open_output
    from ..store.tensors import CARRIED, NAMES, as_bytes, convert_pickled

    kinds = (".bin", ".pt", ".pth", ".ckpt")
    if not source.exists():
        raise UsageError("no such file or directory", where=str(source))
    directory = source if source.is_dir() else source.parent
    files = sorted(p for p in source.iterdir() if p.suffix in kinds) if source.is_dir() else [source]
    if not files:
        raise DataError(
            "holds no pickled weights", where=str(source), fix=f"files of kinds {', '.join(kinds)} are looked for"
        )
    tensors = dict(convert_pickled(files))
    layout = lay_out([(name, NAMES[tensor.dtype], tuple(tensor.shape)) for name, tensor in tensors.items()])
    with open_output(out, layout, digest([[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files])) as output:
        for name, tensor in tensors.items():
            output.write(name, 0, as_bytes(tensor))
            output.finished(name)
        for name in ("config.json", *CARRIED):
            if (directory / name).is_file():
                (output.path / name).write_bytes((directory / name).read_bytes())
    if json:
        emit({"out": str(out), "tensors": len(tensors), "bytes": layout.bytes})
    else:
        typer.echo(f"{out}: {len(tensors)} tensors, {layout.bytes:,} bytes")

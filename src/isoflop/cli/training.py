"""Verbs on one run: train, eval."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..core.errors import DataError, UsageError, shown
from ..core.reading import user_path
from ..report.text import duration
from .app import app
from .common import DEFAULT_ROOT, Json, Overrides, Root, Track, emit, find_run, patience_until

if TYPE_CHECKING:
    from rich.console import Console

    from ..core.contracts import Measurement, MetricPart
    from ..core.recipe import Recipe
    from ..store.run import Run
    from ..train.restore import Trained
    from ..train.watch import Progress

PREPARING = "preparing the text and the model"
"""What a run does before its first step."""
WIDE = 140
"""Columns from which on there is room for a bar beside what is said."""

Threads = Annotated[int | None, typer.Option("--threads", min=1, help="torch threads; default: torch's own choice.")]

Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda, mps; default: the run's own.")]
TrainOn = Annotated[
    str | None,
    typer.Option(
        "--device", help="cpu, cuda, mps: short for train.device=..., a key of the recipe: another device, another run."
    ),
]


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe's TOML file, or the name of a shipped one.")],
    overrides: Overrides = None,
    root: Root = DEFAULT_ROOT,
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the run's directory; default: <recipe's name>-<hash>.")
    ] = None,
    device: TrainOn = None,
    threads: Threads = None,
    audit: Annotated[bool, typer.Option("--audit", help="Check the ledger against executed operations first.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what the run would cost; train nothing.")] = False,
    track: Track = None,
    json: Json = False,
) -> None:
    """Train one recipe to its budget; run it again to go on where it stopped.

    With a longer budget, and a schedule that allows it, it goes on from the run with the shorter one.
    """
    from ..core.recipe import Recipe
    from ..core.toml import locate, read

    file = locate(recipe)
    _, text = read(file)  # once: a pipe, as in `train <(...)`, has nothing left for a second reader
    changes = [*(overrides or []), *([] if device is None else [f"train.device={device}"])]
    loaded = Recipe.from_toml(text, *changes, source=recipe, folder=file.parent)
    if dry_run:
        _dry_run(loaded, root, json)
        return
    from ..lab.tracking import Trackers
    from ..store.names import printable
    from ..store.records import scale_of
    from ..train.run import train as execute

    follower = Trackers(track, warn=warn) if track else None
    with _progress(quiet=json) as show:
        run = execute(
            loaded,
            root,
            name=name,
            text=text,
            threads=threads,
            audit=audit,
            lengthens=True,
            progress=show,
            follower=follower,
            warn=warn,
        )
    value, steps, flops = (run.figure(name) for name in ("value", "step", "flops"))
    result = run.result
    if json:
        emit({"run": str(run.path), **result})
    else:
        scale = scale_of(result)
        reached = f"{scale.text(value, bound=result.get('bound', False))} {printable(scale.unit)}"
        typer.echo(f"{run.path}: {reached} after {steps} steps, {flops:.3e} FLOPs")


def _dry_run(recipe: Recipe, root: Path, json: bool) -> None:
    from ..core.roles import numel
    from ..data.text_source import TextSourcePart
    from ..train.build import WALKED, cost_and_steps
    from ..train.forecast import forecast, refuse_oversize
    from .rounding import rounding_advice

    for _, part in recipe.parts():  # a source within another one, too
        if isinstance(part, TextSourcePart):
            part.look()
    cost, steps = cost_and_steps(recipe, root, exact=False)
    refuse_oversize(recipe, cost)
    ahead = forecast(recipe, root, cost, steps)
    parameters, total = numel(recipe.policy.all_shapes(recipe.vocab_size)), cost.run(steps)
    trained = numel(recipe.policy.trained_shapes(recipe.vocab_size))
    seen = steps or 1000  # a budget in seconds has no horizon
    facts = {
        "recipe": recipe.id,
        "parameters": parameters,
        "trained_parameters": trained,
        "steps": steps,
        "tokens": steps * cost.tokens,
        "flops": total.flops,
        "hardware_flops": total.executed,
        "optimizer_share": cost.updates(seen).flops / cost.run(seen).flops,
        "memory_bytes": ahead.memory,
        "seconds": ahead.seconds,
        "epochs": steps * cost.tokens / ahead.text_tokens if ahead.text_tokens else None,
    }
    advice = rounding_advice(recipe, root, parameters, steps * cost.tokens, steps)
    if advice is not None:
        facts["rounding"] = dataclasses.asdict(advice)
    if json:
        emit(facts)
        return
    about = "about " if recipe.budget.axis == "text_bytes" and steps * recipe.train.accumulate >= WALKED else ""
    most = "" if recipe.source.predicts_all else "at most "
    size = f"{parameters:,} parameters" + ("" if trained == parameters else f" ({trained:,} of them trained)")
    typer.echo(
        f"recipe {facts['recipe']}: {size}, {about}{steps:,} steps, {most}{facts['tokens']:,} tokens\n"
        f"{facts['flops']:.4e} model FLOPs ({facts['hardware_flops']:.4e} executed), "
        f"{facts['optimizer_share']:.1%} of them the optimizer's"
    )
    if advice is not None:
        typer.echo(advice.line())
    needs = f"about {ahead.memory / 1e9:.2g} GB of memory at its peak"
    if ahead.source:
        needs = f"about {duration(ahead.seconds)} of training ({ahead.source}), evaluations apart; {needs}"
    typer.echo(needs)
    if ahead.text_tokens:
        typer.echo(f"{facts['epochs']:.2f} passes over the training text of {ahead.text_tokens:,} tokens")
    elif ahead.text_tokens is None:
        typer.echo("the text has not been read yet: its size, and how often it is passed over, are known then")


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Callable[[Progress], None] | None]:
    """A live bar on a terminal, a line each tenth of the run elsewhere, nothing if quiet."""
    if quiet:
        yield None
    elif sys.stderr.isatty():
        from rich.console import Console

        with live_bar(Console(stderr=True)) as show:
            yield show
    else:
        with patience_until(PREPARING, _line) as line:  # a text that was never read before takes a while
            yield line


def _line(at: Progress) -> None:
    every = max(1, at.horizon // 10) if at.horizon else 50  # 0: a budget in seconds
    if at.step % every == 0 or at.step == at.horizon or (at.new and at.value is not None):
        typer.echo(_describe(dataclasses.replace(at, value=at.value if at.new else None)), err=True)


@contextmanager
def live_bar(console: Console) -> Iterator[Callable[[Progress], None]]:
    """A line that redraws itself, with a bar where there is room; a narrow terminal cuts its end."""
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar
    from rich.table import Column

    text = TextColumn("{task.description}", markup=False, table_column=Column(ratio=1, no_wrap=True))
    columns = [BarColumn(20), text] if console.width >= WIDE else [text]
    with Bar(*columns, console=console, expand=True) as bar:
        task = bar.add_task(PREPARING, total=None)

        def show(at: Progress) -> None:
            bar.update(task, completed=at.step, total=at.horizon or None, description=_describe(at))

        yield show


def warn(message: str) -> None:
    typer.secho(f"note: {shown(message)}", err=True, fg=typer.colors.YELLOW)


def _describe(at: Progress) -> str:
    """Where a run is, the most telling first."""
    if at.horizon:
        left = (at.horizon - at.step) * at.seconds / at.step
        place = f"step {at.step}/{at.horizon}  {duration(left)} left"
    else:
        place = f"step {at.step}  {duration(at.seconds)} spent"
    value = ""
    if at.value is not None:
        value = f"  {at.scale.text(at.value, bound=at.bound, digits=3)} {at.scale.unit}"
    share = f"  {at.utilisation:.0%} of the matmul rate" if at.utilisation else ""
    return f"{place}  loss {at.loss:.3f}{value}  {at.tokens_per_second:,.0f} tokens/s{share}"


@app.command("eval")
def evaluate(
    run: Annotated[str, typer.Argument(help="A run's directory, name or hash, or a Hugging Face directory.")],
    text: Annotated[
        list[Path] | None,
        typer.Option("--text", help="Measure on this UTF-8 text instead (may come twice).", parser=user_path),
    ] = None,
    harness: Annotated[
        list[Path] | None,
        typer.Option(
            "--harness",
            help="Measure by lm-evaluation-harness on this task's YAML file instead (may come twice).",
            parser=user_path,
            metavar="TASK.yaml",
        ),
    ] = None,
    task: Annotated[
        list[Path] | None,
        typer.Option(
            "--task",
            help="Measure on this task in JSON Lines instead: choices, or answers that are checked (may come twice).",
            parser=user_path,
            metavar="TASK.jsonl",
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="With --harness or --task, only so many items of each task.")
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            "--against",
            help="With --task, what --json printed of another model: differences item by item.",
            parser=user_path,
            metavar="FILE.json",
        ),
    ] = None,
    root: Root = DEFAULT_ROOT,
    threads: Threads = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Measure a run's newest checkpoint on its held-out text, as it was when the run began, or on another text.

    A published model has no text of its own: name one. With --harness, tasks are measured and the results kept.
    """
    from ..store.names import printable
    from ..store.published import is_published

    use_threads(threads)
    if limit is not None and not harness and not task:
        raise UsageError("--limit only applies with --harness and --task", where="eval")
    if against is not None and not task:
        raise UsageError("--against only applies with --task", where="eval")
    if task:
        from .tasks import on_local_tasks

        if text or harness:
            raise UsageError("--task excludes --text and --harness", where="eval", fix="use one of them")
        on_local_tasks(lambda: usable(run, root, device), run, task, limit, json, against)
        return
    if harness:
        from .harness import on_tasks

        if text:
            raise UsageError("--text and --harness exclude each other", where="eval", fix="use one of them")
        on_tasks(lambda: usable(run, root, device), run, root, harness, limit, json)
        return
    if text:
        recipe, step, results = _on_texts(usable(run, root, device), text)
    elif is_published(user_path(run)):
        raise UsageError("a published model has no held-out text of its own", where=run, fix="name one: --text FILE")
    else:
        recipe, step, results = _on_own_text(find_run(run, root), device)
    measured = [(part, results[part.name]) for part in recipe.metrics]
    if json:
        scales = {part.name: dataclasses.asdict(part.scale) for part, _ in measured}
        emit({part.name: {**dataclasses.asdict(found), **scales[part.name]} for part, found in measured})
        return
    when = f", after step {step:,}" if step else ""  # a published model has no steps to speak of
    for part, found in measured:
        typer.echo(f"{part.name}: {_measured(part, found)} {part.scale.unit}{when}")
        for name, domain in found.domains.items():
            counted = part.counts.removesuffix("s") if domain.n == 1 else part.counts
            typer.echo(f"  {printable(name)}: {_measured(part, domain)} over {domain.n:,} {counted}")
        if found.how:
            typer.echo(f"  {found.how}; {found.cost.flops:.3g} FLOPs, +- is one standard error over text and samples")


def _on_own_text(run: Run, device: str | None) -> tuple[Recipe, int, dict[str, Measurement]]:
    from ..train.restore import restore

    session = restore(run, device=device, warn=warn)
    return session.recipe, session.step, session.measure()


def usable(name: str, root: Path, device: str | None) -> Trained:
    """What a run, or a published model's directory, leaves for use."""
    from ..store.published import is_published
    from ..train.restore import published, trained

    found = (
        published(user_path(name), device=device)
        if is_published(user_path(name))
        else trained(find_run(name, root), device=device, warn=warn)
    )
    if found.tokenizer is None:
        raise UsageError("was trained on ids that stand for no text", where=name)
    for remark in (*found.remarks, *getattr(found.tokenizer, "remarks", ())):
        warn(remark)
    return found


def _on_texts(found: Trained, files: list[Path]) -> tuple[Recipe, int, dict[str, Measurement]]:
    """Each file as a domain of its own."""
    from ..core.reading import read_text
    from ..data.loader import heldout_of
    from ..data.tokenizing import alters

    assert found.tokenizer is not None
    texts = {str(file): read_text(file, pipe=True) for file in files}
    for file, text in texts.items():
        if not text.strip():
            raise DataError("holds no text", where=file, fix="name a file that holds some")
    for file, text in texts.items():
        if alters(found.tokenizer, text):
            warn(f"{file}: its tokens stand for another text: bits per byte compare only with the same tokenizer's")
    heldout = {file: heldout_of(text, found.tokenizer, found.ctx.device) for file, text in texts.items()}
    return found.recipe, found.step, found.measure(heldout)


def _measured(part: MetricPart, found: Measurement) -> str:
    return part.scale.text(found.value, bound=found.bound, stderr=found.stderr)


def use_threads(threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)

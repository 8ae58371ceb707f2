"""Verbs on studies: demo, compare, report."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..core.errors import UsageError
from ..core.reading import user_path
from .app import app
from .common import (
    DEFAULT_ROOT,
    Json,
    Root,
    Track,
    emit,
    find_holding,
    find_result,
    find_run,
    patience,
    patience_until,
    say,
)

if TYPE_CHECKING:
    from ..lab.plan import StudyPlan
    from ..lab.study import Study
    from ..lab.workers import Assignment
    from ..store.results import StudyResult

Workers = Annotated[int, typer.Option("--workers", min=1, help="Worker processes, one thread each.")]
Everything = Annotated[
    bool, typer.Option("--all", help="Print the multipliers on every axis, and with tuning charged, not only on FLOPs.")
]


@app.command()
def compare(
    study: Annotated[str, typer.Argument(help="A study's TOML file, or the name of a shipped one.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key.path=value, e.g. recipe.train.batch=16 tuning.points=3")
    ] = None,
    root: Root = DEFAULT_ROOT,
    workers: Workers = 2,
    device: Annotated[
        str | None,
        typer.Option(
            "--device", help="cpu, cuda, mps: short for recipe.train.device=...; runs on another device are other runs."
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Say what it would cost, and run none of it. Prepares the corpus and times a few steps of each arm "
            "(once); without the device at hand it gives FLOPs only.",
        ),
    ] = False,
    detect: Annotated[
        float | None,
        typer.Option(
            "--detect",
            help="Run nothing; say which rungs, seeds and arms' rungs find this multiplier (e.g. 1.2) with a chance of "
            "80 %, and what they cost.",
        ),
    ] = None,
    track: Track = None,
    everything: Everything = False,
    json: Json = False,
    export: Annotated[
        Path | None,
        typer.Option(
            "--export-runs",
            help="Write the recipes of the runs that it waits for now, to be made elsewhere; make none here.",
            parser=user_path,
            metavar="DIRECTORY",
        ),
    ] = None,
    made: Annotated[
        Path | None,
        typer.Option(
            "--import-runs",
            help="Take its runs that were made below another root, each checked by digest; make none here.",
            parser=user_path,
            metavar="DIRECTORY",
        ),
    ] = None,
) -> None:
    """Run a study: how much more compute would the baseline have needed? Finished runs are not repeated."""
    from ..lab.study import Study
    from ..lab.targets import is_target_study

    changes = [*(overrides or []), *([] if device is None else [f"recipe.train.device={device}"])]
    if is_target_study(study):
        foreign = {"--dry-run": dry_run, "--detect": detect, "--track": track, "--export-runs": export}
        for option, given in {**foreign, "--import-runs": made}.items():
            if given:
                raise UsageError(f"is a study of batch sizes, which has no {option}", where=study, fix="leave it out")
        _targets(study, changes, root, workers, json)
        return
    loaded = Study.load(study, *changes)
    if export is not None or made is not None:
        _elsewhere(loaded, root, made, export, json)
        return
    if detect is not None:
        _detect(loaded, study, detect, root, workers, json)
        return
    if dry_run:
        planned = _planned(loaded, root, workers, json)
        emit(planned.to_json()) if json else say(planned.text())
        return
    from ..lab.compare import compare as execute

    with _telling(json) as progress:
        result = execute(loaded, root, workers=workers, progress=progress, track=track or ())
    _finish(result, root, json, everything)


def _targets(study: str, overrides: list[str], root: Path, workers: int, json: bool) -> None:
    """Run a study of batch sizes."""
    from ..lab.targets import TargetStudy, run_targets

    progress = partial(typer.echo, err=True)
    result = run_targets(TargetStudy.load(study, *overrides), root, workers=workers, say=progress)
    if json:
        emit(result.model_dump(mode="json"))
        return
    for line in result.lines():
        say(line)


def _planned(study: Study, root: Path, workers: int, json: bool) -> StudyPlan:
    from ..lab.plan import plan

    with nullcontext() if json else patience("timing a few steps of each arm"):
        return plan(study, root, workers=workers)


def _detect(study: Study, source: str, detect: float, root: Path, workers: int, json: bool) -> None:
    """Print the form of a study that finds an effect, and its plan."""
    from ..lab.proposal import propose

    proposal = propose(study, detect, root)
    if not json:
        say(proposal.text(source, study.scale.unit) + "\n")
    planned = _planned(study.with_(*proposal.overrides), root, workers, json)
    emit({"proposal": proposal.to_json(), "plan": planned.to_json()}) if json else say(planned.text())


def _elsewhere(study: Study, root: Path, made: Path | None, export: Path | None, json: bool) -> None:
    """Take runs that were made elsewhere, then write out those that the study waits for."""
    from ..core.errors import DataError
    from ..lab.elsewhere import Imported, export_runs, import_runs, missing_runs

    found = Imported() if made is None else import_runs(study, root, made)
    wanted = missing_runs(study, root) if export is None else export_runs(study, root, export)
    if json:
        kept, ids = [str(place) for place in found.kept], [job.recipe.id for job in wanted]
        emit({"kept": kept, "refused": found.refused, "left": found.other, "wanted": ids})
    elif made is not None:
        rest = f"; {len(found.other)} left there: not finished, or not this study's" if found.other else ""
        say(f"{len(found.kept)} runs taken from {made}{rest}")
    if not json:
        say(_next(study, wanted, export))
    if found.refused:
        told = "; ".join(f"{name}: {why}" for name, why in found.refused.items())
        raise DataError(f"{len(found.refused)} runs were refused: {told}", where=str(made))


def _next(study: Study, wanted: list[Assignment], export: Path | None) -> str:
    """What is to be done next."""
    if not wanted:
        return "every run is there: `isoflop compare` of the same study concludes it"
    if export is None:
        return f"it waits for {len(wanted)} more runs: --export-runs DIRECTORY writes them out"
    phase = "evaluation" if any(job.role == "evaluation" for job in wanted) else "tuning"
    after = "" if phase == "evaluation" else "; what they tell decides which runs follow"
    loop = f'for file in {export}/*.toml; do isoflop train "$file" --root made --threads 1; done'
    return (
        f"{len(wanted)} runs of {phase} written to {export}{after}\n"
        f"make them: {loop}\n"
        "bring them back: the same command with --import-runs made"
    )


@app.command()
def demo(
    root: Root = DEFAULT_ROOT,
    workers: Workers = 2,
    everything: Everything = False,
    json: Json = False,
) -> None:
    """The main job on real text from this machine: three methods against tuned AdamW, some minutes on two cores."""
    from ..lab.demo import demo as execute

    with _telling(json) as progress:
        result = execute(root, workers=workers, progress=progress)
    _finish(result, root, json, everything)


@app.command()
def report(
    target: Annotated[
        str | None,
        typer.Argument(
            help="A study, pipeline, run, fit or measured claim: its directory or name.", show_default=False
        ),
    ] = None,
    root: Root = DEFAULT_ROOT,
    all_: Annotated[
        bool,
        typer.Option("--all", help="One page over all runs, studies, fits and claims instead, to be searched."),
    ] = False,
    claims: Annotated[
        Path, typer.Option("--claims", help="With --all: directory of claims.", parser=user_path, metavar="DIRECTORY")
    ] = Path("claims"),
    json: Json = False,
) -> None:
    """Write the report page (one HTML file, charts as SVG, PNG and CSV beside it) and print its path."""
    from ..report.page import write_report
    from ..store.measured import MEASURED

    if all_ == (target is not None):
        raise UsageError("of what?" if target is None else "is one page or another", where="report", fix=_EITHER)
    if target is None:
        from ..report.index_page import write_index

        page = write_index(root, _claims(claims))
        emit({"report": str(page)}) if json else typer.echo(str(page))
        return
    found = find_result(target, root) or find_holding(target, root, MEASURED)
    page = write_report(found or find_run(target, root, "study, pipeline, run or fit").path)
    emit({"report": str(page)}) if json else typer.echo(str(page))


_EITHER = "name a study, a pipeline, a run or a fit, or say --all for a page over everything"


def _claims(place: Path) -> list[dict[str, str]]:
    """What is known of the claims in a directory; none where there is no such directory."""
    if not place.is_dir():
        return []
    from ..lab.claims.page import spoken
    from ..lab.claims.shelf import chosen

    verdicts = [claim.verdict("cpu") for claim in chosen(place, [])]
    return [
        {
            "name": verdict.claim.name,
            "verdict": spoken(verdict.status, verdict.marks),
            "statement": " ".join(verdict.claim.statement.split()),
            "published": verdict.claim.figure,
        }
        for verdict in verdicts
    ]


@contextmanager
def _telling(json: bool) -> Iterator[Callable[[str], None] | None]:
    """A line for each run that ends; until the first one, that work goes on. Nothing where JSON is wanted."""
    if json:
        yield None
        return
    with patience_until("preparing the text and the first runs", lambda said: typer.echo(said, err=True)) as line:
        yield line


def _finish(result: StudyResult, root: Path, json: bool, everything: bool) -> None:
    from ..report.page import write_report
    from ..store.results import STUDY

    directory = result.home(root)
    if not (directory / STUDY).exists():
        raise UsageError("the study left no result", where=str(directory))
    with nullcontext() if json else patience("drawing the report"):
        page = write_report(directory)
    if json:
        emit({**result.model_dump(mode="json"), "report": str(page)})
        return
    from ..report.terminal import print_study

    print_study(result, everything=everything)
    typer.echo(f"report: {page}")

"""The verb on pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .app import app
from .common import DEFAULT_ROOT, Json, Root, emit

if TYPE_CHECKING:
    from ..pipelines.pipeline import Pipeline


@app.command()
def pipeline(
    file: Annotated[str, typer.Argument(help="A pipeline's TOML file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key.path=value, e.g. recipe.train.batch=16 seeds=[1,2,3]")
    ] = None,
    root: Root = DEFAULT_ROOT,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would make and cost; make nothing.")] = False,
    json: Json = False,
) -> None:
    """Make models in stages of training and merging, measure all of them, and say which bars are met."""
    from ..pipelines.pipeline import Pipeline

    loaded = Pipeline.load(file, *(overrides or []))
    if dry_run:
        _dry_run(loaded, root, json)
        return
    from ..pipelines.run import home
    from ..pipelines.run import run as execute

    result = execute(loaded, root, progress=None if json else lambda line: typer.echo(line, err=True))
    if json:
        emit(result.model_dump(mode="json"))
        return
    from ..report.pipelines import print_pipeline
    from ..store.pipelines import PIPELINE

    print_pipeline(result)
    typer.echo(f"\nresult: {home(loaded, root) / PIPELINE}")


def _dry_run(loaded: Pipeline, root: Path, json: bool) -> None:
    from ..pipelines.planning import foresee

    planned = foresee(loaded, root)
    if json:
        emit({"stages": [vars(stage) for stage in planned], "flops": sum(s.flops * s.runs for s in planned)})
        return
    for stage in planned:
        what = f"{stage.steps:,} steps, {stage.flops:.4e} FLOPs" if stage.steps else f"a {stage.kind}"
        typer.echo(f"{stage.name}: {what}, {stage.runs} times ({stage.trials} trials a tuning seed)")
    typer.echo(f"in all at most {sum(s.flops * s.runs for s in planned):.4e} model FLOPs")

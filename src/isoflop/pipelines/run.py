"""A pipeline from beginning to end: search the grids, make every stage for every seed, measure, judge."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..core.digests import digest
from ..core.errors import NumericsError
from ..core.files import alone_in, write_atomic, write_json
from ..core.reading import read_json, user_path
from ..ledger.ledger import CHARGED
from ..store.environment import process
from ..store.pipelines import PIPELINE, Choice, Chosen, PipelineResult, StageRow
from ..store.results import own_part
from .judging import flops_of, judge
from .making import Maker, Say
from .pipeline import Pipeline

Choices = dict[str, Choice]


def run(pipeline: Pipeline, root: Path | str = "runs", *, progress: Say | None = None) -> PipelineResult:
    """Make a pipeline and return its result; it also lies in ``home(pipeline, root)`` as pipeline.json.

    What is made already, by this pipeline or another one under ``root``, is not made again; killed, it goes on.

    Args:
        pipeline: what is made.
        root: directory of runs and pipelines.
        progress: called with a line of text whenever a model was made.

    Raises:
        NumericsError: every value of a grid, or an evaluation run, diverged.
        Stopped: a signal; the state of the present run is saved.
        UsageError: another process works on the same pipeline.

    Example:
        >>> pipeline = Pipeline.load("domains.toml")  # doctest: +SKIP
        >>> result = run(pipeline, "runs")  # doctest: +SKIP
    """
    root = user_path(root)
    place = home(pipeline, root)
    with alone_in(place):
        maker = Maker(pipeline, root, place, progress or (lambda line: None))
        rows: list[StageRow] = []
        chosen = _search(maker, rows)
        choices = {found.stage: found.chosen for found in chosen}
        for seed in pipeline.seeds:
            for stage in pipeline.models:
                rows.append(_row(maker, stage, seed, "evaluation", choices))
        result = _conclude(maker, rows, chosen)
        write_atomic(place / "pipeline.toml", result.definition)
        write_json(place / PIPELINE, result.model_dump(mode="json"))
    return result


def home(pipeline: Pipeline, root: Path) -> Path:
    """The pipeline's directory below ``root``: named after it, and after its digest if another one has the name."""
    place = root / pipeline.name
    there = place / PIPELINE
    if there.exists() and read_json(there, dict[str, Any]).get("definition") != pipeline.to_toml():
        return root / f"{pipeline.name}-{digest(pipeline.to_json())[:12]}"
    return place


def _search(maker: Maker, rows: list[StageRow]) -> list[Chosen]:
    """Search every grid in the stages' order, each with what was chosen before; adds a row for each trial."""
    pipeline, found = maker.pipeline, list[Chosen]()
    scale = pipeline.probe(next(iter(pipeline.texts)), None).metrics[0].scale
    metric = pipeline.metrics[0]
    for stage, own in pipeline.stages.items():
        if not own.grid:
            continue
        before = {each.stage: each.chosen for each in found}
        tried, scores = pipeline.grid(stage), list[float | None]()
        for choice in tried:
            trials = [_trial(maker, stage, seed, {**before, stage: choice}) for seed in pipeline.tuning_seeds]
            rows += trials
            costs = [scale.cost(t.values[text][metric]) for t in trials if t.values for text in pipeline.judges(stage)]
            scores.append(float(np.mean(costs)) if all(t.values for t in trials) else None)
        best = min((s for s in scores if s is not None), default=None)
        if best is None:
            raise NumericsError(f"every value of {stage}'s grid diverged", where=pipeline.name, fix="give lower rates")
        choice = tried[scores.index(best)]
        edge = any(_at_edge(choice[key], values) for key, values in own.grid.items())
        found.append(Chosen(stage=stage, tried=tried, scores=scores, chosen=choice, edge=edge))
        maker.say(f"{stage}: {_said(choice)}, of {len(tried)} tried")
    return found


def _at_edge(value: Any, values: tuple[Any, ...]) -> bool:
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    return len(numbers) == len(values) > 2 and value in (min(numbers), max(numbers))


def _trial(maker: Maker, stage: str, seed: int, choices: Choices) -> StageRow:
    """A row of tuning; without values where the run diverged."""
    try:
        return _row(maker, stage, seed, "tuning", choices)
    except NumericsError:
        return StageRow(
            stage=stage,
            seed=seed,
            role="tuning",
            choice=choices[stage],
            made="",
            identity="",
            values={},
            ledger={},
            ancestors={},
            flops=0,
            flops_with_ancestors=0,
        )


def _row(maker: Maker, stage: str, seed: int, role: Literal["tuning", "evaluation"], choices: Choices) -> StageRow:
    made = maker.made(stage, seed, choices)
    bill = made.bill()
    return StageRow(
        stage=stage,
        seed=seed,
        role=role,
        choice=choices.get(stage, {}),
        made=str(made.place.relative_to(maker.root)),
        identity=made.identity,
        values=maker.measure(made, seed, choices),
        ledger={phase: dict(amounts) for phase, amounts in made.ledger.items()},
        ancestors=made.ancestors,
        trunk=made.trunk,
        flops=flops_of([made.ledger], CHARGED),
        flops_with_ancestors=flops_of((each.ledger for each in bill.values()), CHARGED),
    )


def _said(choice: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} = {value}" for key, value in choice.items())


def _conclude(maker: Maker, rows: list[StageRow], chosen: list[Chosen]) -> PipelineResult:
    pipeline = maker.pipeline
    choices = {found.stage: found.chosen for found in chosen}
    edges = [f"{each.stage}: {_said(each.chosen)} lies at the end of its grid" for each in chosen if each.edge]
    seed = pipeline.seeds[0]

    def reference(stage: str) -> dict[str, str]:
        return maker.made(stage, seed, choices).reference()

    return PipelineResult(
        name=pipeline.name,
        title=pipeline.title or pipeline.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        texts=list(pipeline.texts),
        metrics=pipeline.metrics,
        stages=pipeline.models,
        rows=rows,
        chosen=chosen,
        verdicts=judge(pipeline.bars, rows, pipeline.metrics[0]),
        bill=_bill(rows, maker),
        notes=[*edges, *pipeline.caveats],
        definition=pipeline.to_toml(),
        recipes={
            stage: pipeline.recipe_of(stage, seed, choices, reference).to_toml()
            for stage in pipeline.stages
            if pipeline.made_by_training(stage)
        },
        environment=process(),
    )


def _bill(rows: list[StageRow], maker: Maker) -> dict[str, dict[str, float]]:
    """What all of it spent: each model once, what tuning trained as ``tuning``, measuring as ``evaluation``."""
    bill: dict[str, dict[str, float]] = {}
    seen = set[str]()

    def add(phase: str, amounts: Mapping[str, float]) -> None:
        into = bill.setdefault(phase, {})
        for axis, amount in amounts.items():
            into[axis] = into.get(axis, 0) + amount

    made = {row.identity for row in rows}
    for row in sorted(rows, key=lambda row: row.role):  # what evaluation made is not tuning's
        own = own_part(row.ledger, row.trunk, made)
        parts = {row.identity: own, **{key: each.ledger for key, each in row.ancestors.items()}}
        for identity, ledger in parts.items():
            if identity and identity not in seen:
                seen.add(identity)
                for phase, amounts in ledger.items():
                    add(phase if row.role == "evaluation" or phase == "evaluation" else "tuning", amounts)
    for phase, amounts in maker.spent.to_json().items():
        add(phase, amounts)
    return bill

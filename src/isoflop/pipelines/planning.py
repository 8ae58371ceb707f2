"""What a pipeline will make and cost, before anything is made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..train.build import cost_and_steps
from .pipeline import Pipeline


@dataclass(frozen=True)
class Foreseen:
    """A stage before it is made.

    Attributes:
        name: of the stage.
        kind: training, merge or text.
        steps: of one training run; 0 for what is not trained.
        flops: of one; 0 for what is not trained.
        trials: combinations of its grid (0: it has none).
        runs: how often it is made, on tuning and evaluation seeds; less where models are the same.

    Example:
        >>> Foreseen("base", "training", steps=200, flops=10**12, trials=0, runs=3).runs
        3
    """

    name: str
    kind: str
    steps: int
    flops: int
    trials: int
    runs: int


def foresee(pipeline: Pipeline, root: Path | str = "runs") -> list[Foreseen]:
    """Every stage in order, with the first values of its grid."""
    found = []
    for stage, own in pipeline.stages.items():
        steps = flops = 0
        if pipeline.made_by_training(stage):
            recipe = pipeline.recipe_of(stage, pipeline.seeds[0], {}, pipeline.foreseen)
            cost, steps = cost_and_steps(recipe, root, exact=False)
            flops = cost.run(steps).flops
        trials = len(pipeline.grid(stage)) if own.grid else 0
        tuning = len(pipeline.tuning_seeds) * (trials or (1 if _needed(pipeline, stage) else 0))
        found.append(Foreseen(stage, pipeline.kind_of(stage), steps, flops, trials, len(pipeline.seeds) + tuning))
    return found


def _needed(pipeline: Pipeline, stage: str) -> bool:
    """Whether the search of some grid needs a stage."""
    users = [name for name in pipeline.stages if stage in pipeline.parents(name)]
    return any(pipeline.stages[name].grid or _needed(pipeline, name) for name in users)

"""What a pipeline leaves: every stage's model with its values and its bill, what was chosen, and the bars."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any, Literal

from ..core.documents import Frozen
from .records import Ancestors
from .results import Trunk

PIPELINE = "pipeline.json"
"""The file of a pipeline's directory that holds its result."""
Values = dict[str, dict[str, float]]
"""Text -> metric -> value."""
Choice = dict[str, Any]
"""Values of a stage's grid, by key path."""


class StageRow(Frozen):
    """One model: of one stage and seed, with one choice of what is searched.

    Example:
        >>> spent = dict(ledger={"train": {"flops": 600.0}}, ancestors={}, flops=600.0, flops_with_ancestors=600.0)
        >>> row = StageRow(stage="base", seed=1, role="evaluation", made="base-1", identity="ab", values={}, **spent)
        >>> row.values == {}, row.flops
        (True, 600.0)
    """

    stage: str
    seed: int
    role: Literal["tuning", "evaluation"]
    choice: Choice = {}
    """Values of the stage's own grid."""
    made: str
    """The directory of its run, or of the merged weights, below the root."""
    identity: str
    """Hash of its recipe, or digest of the merge and its sources; "" where it diverged."""
    values: Values
    """What it reaches on every text; {} where it diverged."""
    ledger: dict[str, dict[str, float]]
    """What the stage itself spent."""
    ancestors: Ancestors
    """What was spent on the models that it builds on, each once."""
    trunk: Trunk | None = None
    """The part of the run's path that it took over from a shorter one; the ledger holds that, too."""
    flops: float
    """Of the stage itself, without evaluation."""
    flops_with_ancestors: float


class Chosen(Frozen):
    """What the tuning seeds said of a stage's grid.

    Example:
        >>> grid = [{"share": 0.1}, {"share": 0.5}]
        >>> Chosen(stage="sfa", tried=grid, scores=[2.2, 2.1], chosen=grid[1], edge=True).chosen
        {'share': 0.5}
    """

    stage: str
    tried: list[Choice]
    scores: list[float | None]
    """Mean of the first metric over texts and seeds as a cost (lower is better); None where one diverged."""
    chosen: Choice
    edge: bool
    """A number that was chosen lies at the end of its list: a better one may lie beyond."""


class BarVerdict(Frozen):
    """What became of a bar.

    Example:
        >>> figures = dict(per_seed=[-0.12, -0.08], mean=-0.1, low=-0.2, high=-0.05, most=0.0, p=0.01)
        >>> BarVerdict(says="forgets less", **figures, verdict="met").verdict
        'met'
    """

    says: str
    per_seed: list[float]
    mean: float
    low: float
    high: float
    """Student's t interval at 95 %, of this bar alone."""
    most: float
    p: float
    """Two-sided, of mean = most, adjusted for all bars (Holm)."""
    verdict: Literal["met", "missed", "open"]
    """Open: these seeds do not tell on which side of ``most`` the mean lies."""


class PipelineResult(Frozen):
    """Everything that a report of a pipeline shows.

    Example:
        >>> texts = {"old": {"bits_per_byte": 2.0}, "new": {"bits_per_byte": 2.2}}
        >>> spent = dict(ledger={}, ancestors={}, flops=600.0, flops_with_ancestors=600.0)
        >>> row = StageRow(stage="base", seed=1, role="evaluation", made="base-1", identity="ab", values=texts, **spent)
        >>> [round(value, 2) for value in values_of([row], "base", ["old", "new"], "bits_per_byte")]
        [2.1]
    """

    schema_version: Literal[1] = 1
    name: str
    title: str
    created: str
    texts: list[str]
    metrics: list[str]
    stages: list[str]
    rows: list[StageRow]
    chosen: list[Chosen]
    verdicts: list[BarVerdict]
    bill: dict[str, dict[str, float]]
    """What all of it spent, by phase and axis; all that tuning trained is phase ``tuning``."""
    notes: list[str]
    definition: str
    """The pipeline as TOML."""
    recipes: dict[str, str]
    """Training stage -> its recipe of the first seed, as TOML."""
    environment: dict[str, Any]

    def values(self, stage: str, texts: Sequence[str], metric: str) -> list[float]:
        """A stage's mean over texts, seed by seed."""
        return values_of(self.rows, stage, texts, metric)


def values_of(rows: Iterable[StageRow], stage: str, texts: Sequence[str], metric: str) -> list[float]:
    """A stage's mean over texts, seed by seed."""
    own = sorted((row for row in rows if row.stage == stage and row.role == "evaluation"), key=lambda row: row.seed)
    return [fmean(row.values[text][metric] for text in texts) for row in own]

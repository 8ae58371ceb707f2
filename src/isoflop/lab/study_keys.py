"""The tables of a study's file: its ladder, its arms, how it tunes, what its author expects."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, NonNegativeInt, PositiveFloat, model_validator

from ..core.complaints import SEEDS, few_seeds
from ..core.documents import Later, Section
from ..core.recipe import Budget


def _enough(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if len(seeds) < SEEDS:
        raise ValueError(few_seeds(len(seeds)))
    return seeds


Seed = Annotated[int, Field(ge=0, lt=2**63)]
Seeds = Annotated[tuple[Seed, ...], AfterValidator(_enough), Field(json_schema_extra={"minItems": SEEDS})]
Grid = Annotated[tuple[PositiveFloat, ...], Field(min_length=3)]
Knob = Annotated[tuple[float, ...], Field(min_length=2)]


class Ladder(Section):
    """The baseline's budgets, each twice the one before, each a full run of its own.

    Example:
        >>> ladder = Ladder(axis="steps", rungs=(100.0, 200.0, 400.0))
        >>> ladder.budget(1)
        Budget(flops=None, steps=200, tokens=None, text_bytes=None, seconds=None)
    """

    example = '{ axis = "steps", rungs = [200, 400, 800] }'

    axis: Literal["flops", "steps", "tokens"]
    """What a budget is counted in."""
    rungs: Annotated[tuple[PositiveFloat, ...], Field(min_length=3)]
    """The budgets, each twice the one before; at least three."""
    branches: Annotated[bool, Later()] = False
    """Whether a longer run goes on from a shorter one of the same arm, seed and tuned values, where its schedule lets
    it end with the same bytes: at a constant rate from the shorter one's end, with ``wsd`` and a warm-up in steps from
    where that begins to decay. Results are those of runs made one by one; the bill counts the shared steps once."""

    @model_validator(mode="after")
    def _doubles(self) -> Ladder:
        for low, high in pairwise(self.rungs):
            if not 1.98 <= high / low <= 2.02:
                example = ", ".join(f"{self.rungs[0] * 2**k:g}" for k in range(len(self.rungs)))
                raise ValueError(
                    f"rungs must double, but {high:g} / {low:g} = {high / low:.3g}; e.g. rungs = [{example}]"
                )
        if self.axis != "flops" and any(rung % 1 for rung in self.rungs):
            raise ValueError(f"rungs in {self.axis} must be whole numbers")
        return self

    def budget(self, rung: int) -> Budget:
        """The recipe's budget at a rung."""
        limit = self.rungs[rung]
        return Budget.model_validate({self.axis: limit if self.axis == "flops" else int(limit)})


class Arm(Section):
    """A method that is compared with the baseline: what it changes, and the rungs that it runs at.

    Example:
        >>> Arm(overrides=("optimizer=muon",)).rungs
        (0,)
    """

    example = '{ overrides = ["optimizer=muon"] }'

    overrides: Annotated[tuple[str, ...], Field(min_length=1)]
    """Changes to the baseline's recipe, each ``key.path=value``."""
    rungs: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] = (0,)
    """Indices into the ladder. Low ones leave room above: where the baseline would need more than its top rung,
    only a bound is known. Rung 0 alone leaves none below: a multiplier near 1 is then mostly a bound, too."""


class Tune(Section):
    """How every arm's hyper-parameter is chosen: equal trials at the lowest rung; the baseline again at the top one.

    Example:
        >>> Tune(seeds=(101,)).points, Tune(seeds=(101,)).hyper
        (4, 'optimizer.lr')
    """

    example = "{ seeds = [101] }"

    hyper: str = "optimizer.lr"
    """Key path of the hyper-parameter."""
    points: Annotated[int, Field(ge=3)] = 4
    """Trials of each arm, taken from its part's search space around the value that the recipe gives."""
    grids: dict[str, Grid] = Field(default_factory=dict)
    """Arm -> its trials, ascending, where the search space's are not wanted."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)]
    """Never among the study's seeds."""
    knobs: Annotated[dict[str, Knob], Field(max_length=2), Later()] = {}
    """Key paths of up to two more numbers, each with the values that every arm tries."""
    search: Annotated[Literal["coordinate", "joint"], Later()] = "coordinate"
    """How knobs are searched: one after another at the best ``hyper`` so far, or every one with every."""
    extensions: NonNegativeInt = 2
    """How often every arm gets one more trial because some optimum lies at the edge of its grid."""
    top_points: Annotated[int, Field(ge=2)] | None = None
    """Trials of the baseline at its top rung, around the lowest rung's optimum; by default the whole grid."""


class Expect(Section):
    """What the author expects, so that a plan can say what the study could see.

    Example:
        >>> Expect(seed_sd=0.01).per_doubling
        0.15
    """

    example = "{ seed_sd = 0.02 }"

    seed_sd: PositiveFloat = 0.02
    """Standard deviation of a run's quality over seeds, in the unit of the first metric."""
    per_doubling: PositiveFloat = 0.15
    """What doubling the budget gains the baseline, in the unit of the first metric."""

"""The claim as a document: a published statement, the studies that test it, and the bars, decided before the run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import Field, NonNegativeInt, PositiveFloat, model_validator

from ...core.documents import Section
from ...core.errors import nearest
from ...core.recipe import Name
from ...core.toml import TomlDocument
from ...store.results import Axis

CLAIM = "claim.toml"
"""The file of a claim's directory that states it."""
CPU = "cpu"
"""The scale that every claim has: its studies as their files say."""


class Ratio(Section):
    """How many times as much of an axis the baseline of a study needs, or another arm of it needs, as this arm.

    Example:
        >>> Ratio(arm="soap", axis="steps", over="shampoo").axis
        'steps'
    """

    example = '{ arm = "soap", axis = "steps" }'

    arm: Name
    """An arm of the study."""
    axis: Axis
    """What is compared."""
    rung: NonNegativeInt | None = None
    """The rung that the arm ran at; None: its lowest."""
    over: Name | None = None
    """Another arm of the study that takes the baseline's place: the two multipliers are divided, seed by seed."""


class Widths(Section):
    """How wide the range of good values of a tuned number is, in doublings, summed over stages of a pipeline.

    Good is what comes within ``within`` of the stage's best value on a tuning seed; between the values that were tried
    the quality is taken to be linear in the logarithm.

    Example:
        >>> Widths(terms={"adamw": 1.0, "sgd": -1.0}, key="optimizer.lr", within=0.05).within
        0.05
    """

    example = "{ terms = { adamw = 1, sgd = -1 }, within = 0.05 }"

    terms: Annotated[dict[Name, float], Field(min_length=1)]
    """Stage -> what its width is multiplied by."""
    key: str = "optimizer.lr"
    """What was tuned."""
    within: PositiveFloat
    """How much worse than the best is still good, in the unit of the first metric."""


class OtherValue(Section):
    """A value of another study of the claim, to be subtracted seed by seed.

    Example:
        >>> OtherValue(study="short", value="log2_critical_batch").study
        'short'
    """

    example = '{ study = "short", value = "log2_critical_batch" }'

    study: Name
    """Label of the study."""
    value: str
    """Name of its value."""


class ClaimBar(Section):
    """What must come out, in numbers. One of ``ratio``, ``terms``, ``stated``, ``widths`` and ``value`` is measured.

    Example:
        >>> bar = ClaimBar(says="fewer steps", study="large", ratio=Ratio(arm="soap", axis="steps"), at_least=1.18)
        >>> bar.null, bar.sense
        (1.0, 1)
    """

    example = '{ says = "fewer steps", study = "large", ratio = { arm = "soap", axis = "steps" }, at_least = 1.18 }'

    says: str
    """In words."""
    study: Name
    """Which of the claim's studies measures it."""
    ratio: Ratio | None = None
    """Of a study: a multiplier."""
    terms: Annotated[dict[Name, float], Field(min_length=1)] | None = None
    """Of a pipeline: stage -> what its value is multiplied by; the products are summed, seed by seed."""
    texts: tuple[Name, ...] = ()
    """Of a pipeline: texts over which the mean is taken; none: all."""
    metric: str | None = None
    """Of a pipeline: what is measured; None: the first metric."""
    stated: str | None = None
    """Of a pipeline: one of its own bars, by what it says; the threshold is that bar's."""
    widths: Widths | None = None
    """Of a pipeline: how wide the ranges of good values are."""
    value: str | None = None
    """Of what is neither study nor pipeline: one of the values that it measures, by name."""
    less: OtherValue | None = None
    """Of a value: another study's value that is subtracted, seed by seed."""
    at_least: float | None = None
    """The size: the interval must lie at or above it."""
    at_most: float | None = None
    """The size: the interval must lie at or below it."""
    direction: float | None = None
    """Where the direction turns; default: 1 for a ratio, else the size itself, so that there is no weaker success."""
    exact: bool = False
    """It follows from a formula: every seed must meet it, and no interval is asked for."""
    p_value: bool | None = None
    """It is the p-value of a test, at most the size for the claim; a larger one tells nothing, never the contrary."""
    decides: bool = True
    """Whether the claim's verdict depends on it; else it is only told beside."""

    @property
    def sense(self) -> int:
        """1: more is better for the claim; -1: less."""
        return 1 if self.at_least is not None else -1

    @property
    def size(self) -> float | None:
        """The threshold; None: the one that a pipeline states."""
        return self.at_least if self.at_least is not None else self.at_most

    @property
    def null(self) -> float | None:
        """Where the direction turns; None: at the size."""
        return 1.0 if self.direction is None and self.ratio is not None else self.direction

    def problems(self) -> Iterator[str]:
        """What is wrong with it by itself."""
        measures = ("ratio", "terms", "stated", "widths", "value")
        given = [key for key in measures if getattr(self, key) is not None]
        if len(given) != 1:
            yield f"give one of {', '.join(measures)}, not {' and '.join(given) or 'none'}"
        sizes = [key for key in ("at_least", "at_most") if getattr(self, key) is not None]
        if self.stated is not None:
            if sizes:
                yield f"{sizes[0]}: is stated by the pipeline's own bar; leave it out"
        elif len(sizes) != 1:
            yield "give at_least or at_most: without a size decided before the run there is nothing to meet"
        elif self.null is not None and self.size is not None and self.sense * (self.size - self.null) < 0:
            yield f"direction: {self.null:g} is harder to reach than the size {self.size:g}"
        if self.value is None and (self.exact or self.p_value or self.less is not None):
            yield "exact, p_value, less: only of a value"
        if self.p_value and (self.exact or self.at_most is None):
            yield "p_value: takes at_most, such as 0.05, and is not exact"


class GivenScale(Section):
    """What is changed in the studies where there is more than a processor's core.

    Example:
        >>> GivenScale(overrides=("recipe.train.device=cuda",)).overrides
        ('recipe.train.device=cuda',)
    """

    example = '{ overrides = ["recipe.train.device=cuda"] }'

    overrides: Annotated[tuple[str, ...], Field(min_length=1)]
    """Changes to every study, each ``key.path=value``."""


class Claim(TomlDocument):
    """A published statement put to the test: what was said, how it is asked here, what must come out.

    Write it before its studies are run: the first run freezes the bars, and later changes of them are told with every
    verdict. ``isoflop claims run`` runs it.

    Example:
        >>> text = '''name = "lion"
        ... statement = "Lion needs less compute than AdamW."
        ... axis = "flops"
        ... figure = "up to 5x less"
        ... setting = "image-text pre-training"
        ... studies = { lion = "lion.toml" }
        ... bars = [{ says = "less", study = "lion", ratio = { arm = "lion", axis = "flops" }, at_least = 1.2 }]'''
        >>> Claim.from_toml(text).bars[0].size
        1.2
    """

    name: Name
    """What the claim is called; its directory's name."""
    systems: tuple[str, ...] = ()
    """What the index calls the systems whose claim it is."""
    statement: str
    """What was said, in words of our own."""
    source: str = ""
    """Where it was said."""
    axis: str
    """What the figure is a ratio of, or measured in."""
    figure: str
    """The figure that was published. It stands beside ours, never as ours."""
    setting: str
    """Under which conditions it was found."""
    here: str = ""
    """How our conditions differ, in one line."""
    studies: Annotated[dict[Name, str], Field(min_length=1)]
    """Label -> file beside this one: a study, a pipeline, a study of batch sizes, or a Python script that measures; or
    the name of a shipped study. The result lies beside as LABEL.json."""
    bars: tuple[ClaimBar, ...] = ()
    """What must come out."""
    scales: dict[Name, GivenScale] = {}
    """Other scales than "cpu"."""
    remarks: tuple[str, ...] = ()
    """What the reader of the verdict should know."""

    kind = "claim"

    @model_validator(mode="after")
    def _sound(self) -> Claim:
        if problems := [*self._problems()]:
            raise ValueError("\n".join(problems))
        return self

    def _problems(self) -> Iterator[str]:
        if not self.bars:
            yield "bars: a claim needs a bar, decided before its studies are run; see [[bars]] in other claims"
        elif not any(bar.decides for bar in self.bars):
            yield "bars: none of them decides"
        if CPU in self.scales:
            yield f"scales.{CPU}: is what the studies' files say; name the other one otherwise"
        for number, bar in enumerate(self.bars):
            if bar.study not in self.studies:
                what = nearest(bar.study, list(self.studies))
                yield f"bars.{number}.study: the claim has no study {bar.study!r}; {what}"
            if bar.less is not None and bar.less.study not in self.studies:
                yield f"bars.{number}.less.study: the claim has no study {bar.less.study!r}"
            yield from (f"bars.{number}: {problem}" for problem in bar.problems())

    def overrides(self, scale: str) -> tuple[str, ...]:
        """What a scale changes in the studies."""
        return () if scale == CPU else self.scales[scale].overrides

    def asked(self) -> list[dict[str, Any]]:
        """The bars, as they are frozen."""
        return [bar.model_dump(mode="json", exclude_none=True) for bar in self.bars]

"""The study: a baseline on a ladder of budgets, arms, seeds, equal tuning trials; a frozen object <-> one TOML file."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PrivateAttr, model_validator

from ..core.documents import Describes, Later, Section, leaves
from ..core.errors import RecipeError, nearest
from ..core.placing import placed
from ..core.recipe import Budget, Name, Recipe
from ..core.registry import Part
from ..core.scale import Scale
from ..core.toml import TomlDocument, locate, read
from ..store.names import reserved
from .factors import Factors, with_arms

Seed = Annotated[int, Field(ge=0, lt=2**63)]
Grid = Annotated[tuple[PositiveFloat, ...], Field(min_length=3)]
Knob = Annotated[tuple[float, ...], Field(min_length=2)]
Knobs = tuple[tuple[str, float], ...]
"""Chosen values of a study's knobs, by key path."""
OWN = ("name", "seed", "budget")
"""Keys of a run's recipe that the study sets itself."""


def measured_by(recipe: Recipe) -> dict[str, Any]:
    """What decides how a recipe's quality is measured, by key path: the same for every arm of a study.

    A source may change in its other fields: its runs are compared only if they were evaluated on the same text.
    """
    source = {f"source.{key}": value for key, value in recipe.source.model_dump(mode="json").items()}
    return {
        "metrics": [metric.model_dump(mode="json") for metric in recipe.metrics],
        "train.length": recipe.train.length,
        **{key: value for key, value in source.items() if key == "source.name" or key.startswith("source.heldout_")},
    }


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


class Study(TomlDocument):
    """A comparison at equal quality. Seeds decide initialisation and data order and are shared by all arms.

    Write one where the question is how much compute a method saves, not whether one run of it came out lower: the
    baseline is trained at every rung, every arm is tuned with as many trials as the baseline. ``compare`` runs it.

    Example:
        >>> study = Study.load("demo", "seeds=[1,2,3]")
        >>> study.baseline, study.seeds, study.base("muon").optimizer.name
        ('adamw', (1, 2, 3), 'muon')
    """

    name: Name
    """What the study is called, and the directory of its result."""
    title: str = ""
    """Title of the report's page."""
    baseline: Name = "baseline"
    """What the baseline is called."""
    recipe: Annotated[dict[str, Any], Describes(Recipe)]
    """The baseline's recipe without name, seed and budget; or a recipe's file, or the name of a shipped one."""
    ladder: Ladder
    factors: Annotated[Factors | None, Later()] = None
    """Two changes, made each alone and together: three arms, and whether the two do more together than apart."""
    arms: Annotated[dict[Name, Arm], Field(min_length=1)]
    seeds: Annotated[tuple[Seed, ...], Field(min_length=3)]
    """Seeds of the evaluation runs."""
    tuning: Tune
    expect: Expect = Expect()
    caveats: tuple[str, ...] = ()
    """What the reader of the result should bear in mind; printed with it."""

    kind = "study"
    mistaken = ("budget", "is a recipe, not a study: `isoflop train {source}` runs it")

    _made: dict[tuple[str, float | None, Knobs], Recipe] = PrivateAttr(default_factory=dict)
    """Recipes by arm, tuned value (None: as written) and knobs, at the lowest rung and the first seed."""

    @model_validator(mode="after")
    def _sound(self) -> Study:
        if problems := [*self._structure()] or [*self._recipes()] or [*self._grids()]:
            raise ValueError("\n".join(problems))
        return self

    @classmethod
    def completed(cls, tree: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
        """The arms that follow from the factors."""
        return with_arms(tree), {}

    @classmethod
    def placed(cls, tree: dict[str, Any], folder: Path) -> dict[str, Any]:
        """As of any document; the recipe's file, if one is named, is looked for beside the study's first."""
        if not isinstance(name := tree.get("recipe"), str):
            return super().placed(tree, folder)
        file = folder / name if os.path.isfile(folder / name) else locate(name)
        given, _ = read(file)
        if "ladder" in given:
            raise RecipeError([f"recipe: {name} is a study, not a recipe"], source=cls.kind)
        recipe = {key: value for key, value in placed(given, file.parent).items() if key not in OWN}
        return {**super().placed({**tree, "recipe": {}}, folder), "recipe": recipe}

    # ------------------------------------------------------------ what it asks for

    @property
    def everyone(self) -> tuple[str, ...]:
        """The baseline and then the arms."""
        return (self.baseline, *self.arms)

    @property
    def top(self) -> int:
        """Index of the highest rung."""
        return len(self.ladder.rungs) - 1

    @property
    def scale(self) -> Scale:
        """What the runs are ranked on: their first metric, which all arms share."""
        return self.base(self.baseline).metrics[0].scale

    def rungs_of(self, arm: str) -> tuple[int, ...]:
        """The rungs that an arm is evaluated at: all for the baseline."""
        return tuple(range(self.top + 1)) if arm == self.baseline else self.arms[arm].rungs

    def base(self, arm: str, value: float | None = None, knobs: Knobs = ()) -> Recipe:
        """An arm's recipe at the lowest rung and the first seed, built once for each tuned value.

        Args:
            arm: the baseline or an arm, by name.
            value: of the tuned hyper-parameter; None: as the recipe has it.
            knobs: further values; what is left out is as the recipe has it.

        Raises:
            RecipeError: every problem of the recipe.
        """
        if (arm, value, knobs) not in self._made:
            source = f"{self.name}: {arm}"
            if value is not None:
                tree = self.base(arm).to_json()
                changes = (f"{self.tuning.hyper}={value!r}", *(f"{key}={chosen!r}" for key, chosen in knobs))
            else:
                budget = self.ladder.budget(0).model_dump(mode="json", exclude_none=True)
                tree = {**self.recipe, "name": f"{self.name}-{arm}"[:64], "seed": self.seeds[0], "budget": budget}
                changes = () if arm == self.baseline else self.arms[arm].overrides
            self._made[arm, value, knobs] = Recipe.from_json(tree, *changes, source=source)
        return self._made[arm, value, knobs]

    def run_recipe(self, arm: str, rung: int, seed: int, value: float | None = None, knobs: Knobs = ()) -> Recipe:
        """The recipe of one run: the arm's ``base`` with that seed and that rung's budget; RecipeError if not legal."""
        return self.base(arm, value, knobs).having(seed=seed, budget=self.ladder.budget(rung))

    def allows(self, arm: str, value: float, knobs: Knobs = ()) -> bool:
        """Whether the arm's recipe takes ``value`` for the tuned hyper-parameter, and those values of knobs."""
        try:
            self.base(arm, value, knobs)
        except RecipeError:
            return False
        return True

    def grid(self, arm: str) -> tuple[float, ...]:
        """The arm's trials at the lowest rung, ascending: given, or of its part's search space.

        Of a search space those ``points`` neighbours are taken whose middle lies nearest the recipe's value (in log),
        the higher ones of two equally near.
        """
        if arm in self.tuning.grids:
            return self.tuning.grids[arm]
        part, key = self._tuned_part(arm)
        space, own = [math.log(v) for v in part.search[key]], math.log(getattr(part, key))
        count = self.tuning.points
        start = min(
            range(len(space) - count + 1), key=lambda i: (round(abs(sum(space[i : i + count]) / count - own), 9), -i)
        )
        return tuple(part.search[key][start : start + count])

    def differences(self, other: Study) -> list[str]:
        """Key paths at which two studies differ."""
        ours, theirs = (dict(leaves(study.model_dump(mode="json"))) for study in (self, other))
        return [path for path in {**ours, **theirs} if ours.get(path) != theirs.get(path)]

    # ------------------------------------------------------------ checks

    def _structure(self) -> Iterator[str]:
        if problem := reserved(self.name):
            yield f"name: {problem}"
        if self.baseline in self.arms:
            yield f"arms.{self.baseline}: is the baseline's name; name one of the two otherwise"
        if len(set(self.seeds)) < len(self.seeds):
            yield "seeds: one is given twice"
        for seed in sorted(set(self.tuning.seeds) & set(self.seeds)):
            yield (
                f"tuning.seeds: {seed} is also an evaluation seed; a value chosen on a seed is favoured there: "
                "take others"
            )
        for key in OWN:
            if key in self.recipe:
                yield f"recipe.{key}: is set by the study (seeds, ladder); leave it out"
        for name, arm in self.arms.items():
            for rung in arm.rungs:
                if rung > self.top:
                    yield f"arms.{name}.rungs: {rung} is no rung; the ladder's are 0 to {self.top}"
            if len(set(arm.rungs)) < len(arm.rungs):
                yield f"arms.{name}.rungs: one is given twice"
            for change in arm.overrides:
                if change.partition("=")[0].strip().split(".")[0] in OWN:
                    yield f"arms.{name}.overrides: {change!r} sets what the study sets itself (seeds, ladder)"
        for name, grid in self.tuning.grids.items():
            if name not in self.everyone:
                yield f"tuning.grids.{name}: no such arm; {nearest(name, self.everyone)}"
            if list(grid) != sorted(set(grid)):
                yield f"tuning.grids.{name}: values must ascend"

    def _recipes(self) -> Iterator[str]:
        known: set[str] = set()  # what is wrong with the baseline's recipe is wrong with every arm's
        measured: dict[str, Any] = {}
        for arm in self.everyone:
            try:
                own = measured_by(self.base(arm))
                if arm == self.baseline:
                    measured = own
                for key in measured:
                    if own.get(key) != measured[key]:
                        yield f"arms.{arm}: differs from {self.baseline} in {key}, which decides what is measured"
            except RecipeError as error:
                place = "recipe" if arm == self.baseline else f"arms.{arm}"
                yield from (f"{place}: {problem}" for problem in error.problems if problem not in known)
                known |= set(error.problems)
        for key in measured:
            if f"{self.tuning.hyper}.".startswith(f"{key}."):
                yield f"tuning.hyper: {key} decides what is measured, so it cannot be tuned"

    def _grids(self) -> Iterator[str]:
        sizes = {}
        for arm in self.everyone:
            if problem := self._search_problem(arm):
                yield f"tuning: {arm}: {problem}"
            else:
                sizes[arm] = len(self.grid(arm))
                yield from self._knobs(arm)
                for value in self.grid(arm):
                    if not self.allows(arm, value):
                        yield f"tuning: {arm} does not take {self.tuning.hyper} = {value!r}"
        if len(set(sizes.values())) > 1:
            counts = ", ".join(f"{arm} {size}" for arm, size in sizes.items())
            yield f"tuning.grids: every arm must get the same number of trials ({counts})"
        if len(sizes) == len(self.everyone):
            yield from self._alike()

    def _knobs(self, arm: str) -> Iterator[str]:
        """Knobs that an arm does not have, or values that it does not take."""
        for key, values in self.tuning.knobs.items():
            if key == self.tuning.hyper or list(values) != sorted(set(values)):
                yield f"tuning.knobs.{key}: {'is tuning.hyper' if key == self.tuning.hyper else 'values must ascend'}"
                continue
            for value in values:
                if not self.allows(arm, self.grid(arm)[0], ((key, value),)):
                    yield f"tuning.knobs: {arm} does not take {key} = {value!r}: every arm gets the same trials"
                    break

    def _alike(self) -> Iterator[str]:
        """Arms whose runs would be the baseline's own, whatever value tuning chooses."""
        value = self.grid(self.baseline)[0]
        for arm in self.arms:
            if self.allows(arm, value) and self.base(arm, value).hash == self.base(self.baseline, value).hash:
                yield (
                    f"arms.{arm}.overrides: leave {self.baseline} as it is (but for {self.tuning.hyper}, which is "
                    "tuned): name what the arm changes"
                )

    def _tuned_part(self, arm: str) -> tuple[Any, str]:
        """What holds the tuned hyper-parameter (a part, if all is well), and its key; AttributeError if none."""
        *path, key = self.tuning.hyper.split(".")
        return functools.reduce(getattr, path, self.base(arm)), key

    def _search_problem(self, arm: str) -> str:
        """Why the arm has no grid of its own search space, where it needs one."""
        if arm in self.tuning.grids:
            return ""
        try:
            part, key = self._tuned_part(arm)
        except AttributeError:
            return f"its recipe has no {self.tuning.hyper}"
        if not isinstance(part, Part):
            return f"{self.tuning.hyper} belongs to no part with a search space; give tuning.grids.{arm}"
        if key not in part.search:
            return f"{part.slot} {part.name} declares no search space for {key}; give tuning.grids.{arm}"
        if len(part.search[key]) < self.tuning.points:
            return f"its search space for {key} has {len(part.search[key])} values, {self.tuning.points} are wanted"
        return ""


def json_schema() -> dict[str, Any]:
    """The study's JSON schema, for editors; the recipe within it is described by the recipe's own schema."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Study.model_json_schema()}

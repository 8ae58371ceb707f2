"""The study: a baseline on a ladder of budgets, arms, seeds, equal tuning trials; a frozen object <-> one TOML file."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, model_validator

from ..core.documents import Describes, Later, leaves
from ..core.errors import DataError, RecipeError, nearest
from ..core.placing import placed
from ..core.recipe import Name, Recipe
from ..core.references import root
from ..core.registry import Part
from ..core.scale import Scale
from ..core.toml import TomlDocument, locate, read
from ..ledger.budgets import leaves_at, whole_run
from ..store.names import printable, reserved
from ..store.notebook import html
from ..store.results import STUDY, StudyResult, study_home
from .factors import Factors, with_arms
from .study_keys import Arm, Expect, Ladder, Seeds, Tune

Role = Literal["tuning", "evaluation"]
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
    seeds: Seeds
    """Seeds of the evaluation runs, at least three: an interval of two is 18 of their standard deviations wide."""
    tuning: Tune
    expect: Expect = Expect()
    caveats: tuple[str, ...] = ()
    """What the reader of the result should bear in mind; printed with it."""

    kind = "study"

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

    def takes(self, arm: str, rung: int) -> tuple[int, int]:
        """Steps and model FLOPs of an arm's run at a rung."""
        steps, cost = whole_run(self.run_recipe(arm, rung, self.seeds[0]))
        return steps, cost.flops

    def branch(self, recipe: Recipe) -> int | None:
        """Steps after which a run of twice the budget may leave this one; None where the rungs share nothing."""
        return leaves_at(recipe) or None if self.ladder.branches else None

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

    def _repr_html_(self) -> str:
        """What a notebook shows: the verdict, if the study has run below the directory of runs, else its plan."""
        definition = self.to_toml()
        with suppress(DataError):
            result = StudyResult.read(study_home(root(), self.name, definition) / STUDY)
            if result.definition == definition:
                return result._repr_html_()
        rows, total = [], 0
        for role, arm, rung, runs in planned_runs(self):
            steps, flops = self.takes(arm, rung)
            rows.append((role, arm, str(rung), str(runs), f"{steps:,}", f"{flops:.3e}"))
            total += runs * flops
        told = (
            f"not run below {root()} yet: {sum(int(row[3]) for row in rows)} runs, {total:.3e} FLOPs",
            "isoflop.lab.plan.plan(study) says how long they take here and which effects they could show",
        )
        columns = ("phase", "arm", "rung", "runs", "steps", "FLOPs each")
        return html(printable(self.title or self.name), told, columns, rows)

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
            yield from self._branches()

    def _branches(self) -> Iterator[str]:
        """Rungs that are to branch, where no longer run could go on from a shorter one."""
        several = [arm for arm in self.everyone if len(self.rungs_of(arm)) > 1]
        if self.ladder.branches and all(self.branch(self.base(arm)) is None for arm in several):
            told = ", ".join(f"{self.base(arm).schedule.name} of {arm}" for arm in several)
            yield (
                f"ladder.branches: every rate goes by the length of the run from its first step on ({told}): take "
                "constant, inverse_sqrt, or wsd with a warm-up in steps"
            )

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


def planned_runs(study: Study) -> Iterator[tuple[Role, str, int, int]]:
    """Phase, arm, rung and number of a study's runs, but for those that an optimum at an edge may add."""
    tuning = study.tuning
    for arm in study.everyone:
        yield "tuning", arm, 0, trials_of(study, arm) * len(tuning.seeds)
    top = tuning.top_points or len(study.grid(study.baseline))
    yield "tuning", study.baseline, study.top, top * len(tuning.seeds)
    for arm in study.everyone:
        for rung in study.rungs_of(arm):
            yield "evaluation", arm, rung, len(study.seeds)


def trials_of(study: Study, arm: str) -> int:
    """Trials of an arm at the lowest rung, those of knobs among them."""
    knobs = [len(values) for values in study.tuning.knobs.values()]
    if study.tuning.search == "joint":
        return math.prod([len(study.grid(arm)), *knobs])
    return len(study.grid(arm)) + sum(knobs)


def json_schema() -> dict[str, Any]:
    """The study's JSON schema, for editors; the recipe within it is described by the recipe's own schema."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Study.model_json_schema()}

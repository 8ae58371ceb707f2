"""The pipeline as a document: named stages, the texts that they are measured on, and what is to be shown of them."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any

import tomli_w
from pydantic import Field, model_validator

from ..core import toml
from ..core.documents import Describes, Section
from ..core.errors import RecipeError, nearest
from ..core.recipe import Name, Recipe
from ..core.registry import SLOTS
from ..core.toml import TomlDocument
from ..merge.recipe import MergeRecipe, checked
from ..store.pipelines import Choice

Seed = Annotated[int, Field(ge=0, lt=2**63)]
OWN = ("name", "seed")
"""Keys of a training stage's recipe that the pipeline sets itself."""
UNKNOWN = "0" * 64
"""Digest of what is not made yet."""
LEFT_OUT = ("averaging", "parametrization", "freeze")
"""Keys of the first stage's recipe that have no part in measuring."""


class Stage(Section):
    """One model that is made: by training (``recipe``) or by merging models of earlier stages (``merge``)."""

    example = '{ recipe = { start = "base", source = "code" } }'

    like: Name | None = None
    """An earlier stage whose recipe or merge, with the values chosen for it, this one changes."""
    recipe: Annotated[dict[str, Any], Describes(Recipe)] | None = None
    """What its training changes in the pipeline's recipe. ``start`` and ``models`` may name earlier stages, and every
    ``source`` one of the texts."""
    merge: Annotated[dict[str, Any], Describes(MergeRecipe)] | None = None
    """A merge whose ``base`` and ``models`` name earlier stages; their averaged weights, parametrizations baked in."""
    grid: dict[str, Annotated[tuple[Any, ...], Field(min_length=2)]] = {}
    """Key paths of its recipe or merge with the values that are tried on the tuning seeds, every one with every."""
    judged_by: tuple[Name, ...] = ()
    """Texts on which values of the grid are judged, by the mean of the first metric; none: all texts."""


class Bar(Section):
    """What is to be shown, written before anything is run: sum_i c_i value_i <= most, for each seed and on average."""

    example = '{ says = "sfa forgets less", terms = { sfa = 1, plain = -1 }, texts = ["old"] }'

    says: str
    """In words."""
    terms: Annotated[dict[Name, float], Field(min_length=1)]
    """Stage -> c_i, what its value is multiplied by."""
    texts: Annotated[tuple[Name, ...], Field(min_length=1)]
    """A stage's value is the mean of the metric over these."""
    metric: str | None = None
    """None: the recipe's first one."""
    most: float = 0.0
    """What the sum may be at most."""


class Pipeline(TomlDocument):
    """Stages of training and merging, run for several seeds; the same file and seeds give the same models.

    Write one where a method is more than one run: fine-tuning domain after domain, adapters that are combined, models
    that are merged at the end. ``isoflop.pipelines.run.run`` makes it.
    """

    name: Name
    """What the pipeline is called, and the directory of its result."""
    title: str = ""
    """One line about it."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)]
    """Each makes all stages anew."""
    tuning_seeds: tuple[Seed, ...] = ()
    """On which grids are searched; never among ``seeds``."""
    recipe: Annotated[dict[str, Any], Describes(Recipe)] = {}
    """What the recipes of all training stages share."""
    texts: Annotated[dict[Name, Any], Field(min_length=1)]
    """Sources whose held-out text every stage's model is measured on."""
    stages: Annotated[dict[Name, Stage], Field(min_length=1)]
    """In order: each may build on those before it."""
    bars: tuple[Bar, ...] = ()
    """What is to be shown."""
    caveats: tuple[str, ...] = ()
    """What the reader of the result should bear in mind; printed with it."""

    kind = "pipeline"
    mistaken = ("ladder", "is a study, not a pipeline: `isoflop compare {source}` runs it")

    @model_validator(mode="after")
    def _sound(self) -> Pipeline:
        if problems := [*self._structure()] or [*self._stages_fit()]:
            raise ValueError("\n".join(problems))
        return self

    # ------------------------------------------------------------ what its stages are

    @property
    def metrics(self) -> list[str]:
        """Names of what is measured; the first decides."""
        return [metric.name for metric in self.probe(next(iter(self.texts)), None).metrics]

    def made_by_training(self, stage: str) -> bool:
        """Whether a stage trains; otherwise it merges."""
        own = self.stages[stage]
        return own.recipe is not None if own.like is None else self.made_by_training(own.like)

    def tree(self, stage: str, choices: Mapping[str, Choice]) -> dict[str, Any]:
        """A stage's recipe or merge as a tree, with the values that were chosen for it and for what it is like.

        Args:
            stage: its name.
            choices: stage -> values of its grid; the first ones where it is missing.
        """
        own, training = self.stages[stage], self.made_by_training(stage)
        kind = Recipe if training else MergeRecipe
        begun = self.tree(own.like, choices) if own.like else self._with_texts(self.recipe) if training else {}
        changes = self._with_texts(own.recipe) if training else own.merge
        tree = copy.deepcopy(joined(begun, changes or {}))
        chosen = choices.get(stage) or {key: values[0] for key, values in own.grid.items()}
        for key, value in chosen.items():
            toml.override(tree, f"{key}={_literal(value)}", kind)
        return tree

    def grid(self, stage: str) -> list[Choice]:
        """Every combination of the values of a stage's grid."""
        own = self.stages[stage].grid
        return [dict(zip(own, values, strict=True)) for values in itertools.product(*own.values())]

    def judges(self, stage: str) -> tuple[str, ...]:
        """Texts on which a stage's grid is judged."""
        return self.stages[stage].judged_by or tuple(self.texts)

    def recipe_of(
        self, stage: str, seed: int, choices: Mapping[str, Choice], reference: Callable[[str], dict[str, Any]]
    ) -> Recipe:
        """The recipe of a training stage; RecipeError if it is not legal.

        Args:
            stage: its name.
            seed: of initialisation and data order.
            choices: stage -> values of its grid.
            reference: from the name of an earlier stage to what a recipe keeps of its model; ``run`` at least.
        """
        tree = self.tree(stage, choices)
        if (parent := _started(tree)) in self.stages:
            given, facts = tree["start"], reference(parent)
            own = {key: facts[key] for key in ("run", "recipe", "digest", "vocab_size") if key in facts}
            tree["start"] = {**(given if isinstance(given, dict) else {}), **own}
            tree = {**{key: facts[key] for key in ("model", "tokenizer") if key in facts}, **tree}
        for name, other in dict(tree.get("models", {})).items():
            if other in self.stages:
                tree["models"][name] = {key: value for key, value in reference(other).items() if key != "tokenizer"}
        whole = {**tree, "name": f"{self.name}-{stage}"[:64], "seed": seed}
        return Recipe.from_json(whole, source=f"{self.name}: {stage}")

    def merge_of(self, stage: str, choices: Mapping[str, Choice], place: Callable[[str], str]) -> MergeRecipe:
        """The merge of a merging stage; RecipeError if it is not legal.

        Args:
            stage: its name.
            choices: stage -> values of its grid.
            place: from the name of an earlier stage to the directory of its weights.
        """
        tree, source = self.tree(stage, choices), f"{self.name}: {stage}"
        for table, key in _sources(tree):
            if table.get(key) in self.stages:
                table[key] = place(table[key])
        return checked(toml.validated(MergeRecipe, tree, source=source), source)

    def probe(self, text: str, start: str | None) -> Recipe:
        """The recipe that a text is measured by: that of the first stage on this text, with the tokenizer of ``start``.

        Args:
            text: its name in the pipeline.
            start: the directory of the first stage's run; None: it is not made yet.
        """
        tree = self.tree(self.first, {})
        tree = {key: value for key, value in tree.items() if key not in LEFT_OUT}
        tree |= {"source": self.texts[text], "name": f"{self.name}-{text}"[:64]}
        return Recipe.from_json(tree | ({"start": start} if start else {}), source=f"{self.name}: texts.{text}")

    @property
    def first(self) -> str:
        """The first stage that trains."""
        return next(stage for stage in self.stages if self.made_by_training(stage))

    def parents(self, stage: str) -> list[str]:
        """The earlier stages that a stage takes models of, itself."""
        tree = self.tree(stage, {})
        if self.made_by_training(stage):
            others = tree.get("models")
            named = [_started(tree), *(others.values() if isinstance(others, dict) else ())]
        else:
            named = [table.get(key) for table, key in _sources(tree)]
        return list(dict.fromkeys(name for name in named if isinstance(name, str) and name in self.stages))

    def _with_texts(self, tree: Any) -> Any:
        """The tree with every source that is named after a text replaced by it."""
        if isinstance(tree, list):
            return [self._with_texts(item) for item in tree]
        if not isinstance(tree, dict):
            return tree
        return {
            key: self.texts[value]
            if key == "source" and isinstance(value, str) and value in self.texts
            else self._with_texts(value)
            for key, value in tree.items()
        }

    # ------------------------------------------------------------ checks

    def _structure(self) -> Iterator[str]:
        names = list(self.stages)
        for place, (name, stage) in enumerate(self.stages.items()):
            earlier = names[:place]
            if stage.like is not None and stage.like not in earlier:
                yield f"stages.{name}.like: no earlier stage is named {stage.like!r}; {nearest(stage.like, earlier)}"
                return
            if (stage.recipe is None) == (stage.merge is None) and (stage.like is None or stage.recipe is not None):
                yield f"stages.{name}: give either recipe (it trains) or merge"
                return
            for key in set(stage.recipe or {}) & set(OWN):
                yield f"stages.{name}.recipe.{key}: is set by the pipeline; leave it out"
            yield from self._unknown(f"stages.{name}.judged_by", stage.judged_by, self.texts, "text")
        yield from (f"recipe.{key}: is set by the pipeline; leave it out" for key in set(self.recipe) & set(OWN))
        if not any(self.made_by_training(name) for name in names):
            yield "stages: none trains; `isoflop merge` merges what exists"
        if any(stage.grid for stage in self.stages.values()) and not self.tuning_seeds:
            yield "tuning_seeds: a stage has a grid; name at least one seed to search it on"
        for seed in sorted(set(self.tuning_seeds) & set(self.seeds)):
            yield f"tuning_seeds: {seed} is also an evaluation seed; a value chosen on a seed is favoured there"
        if len(set(self.seeds)) < len(self.seeds):
            yield "seeds: one is given twice"
        for number, bar in enumerate(self.bars):
            yield from self._unknown(f"bars.{number}.terms", bar.terms, self.stages, "stage")
            yield from self._unknown(f"bars.{number}.texts", bar.texts, self.texts, "text")
            if len(self.seeds) < 3:
                yield f"bars.{number}: an interval needs at least 3 seeds, not {len(self.seeds)}"

    @staticmethod
    def _unknown(where: str, given: Any, legal: Any, what: str) -> Iterator[str]:
        for name in given:
            if name not in legal:
                yield f"{where}: no {what} is named {name!r}; {nearest(name, list(legal))}"

    def _stages_fit(self) -> Iterator[str]:
        """Problems of every stage's recipe or merge, as far as they show before its models exist."""
        known: set[str] = set()
        try:
            metrics = self.metrics
        except RecipeError as error:
            yield from (f"stages: {problem}" for problem in error.problems)
            return
        for number, bar in enumerate(self.bars):
            if bar.metric is not None:
                yield from self._unknown(f"bars.{number}.metric", [bar.metric], metrics, "metric of the recipe")
        for place, name in enumerate(self.stages):
            for choice in self.grid(name):
                try:
                    self._refuse_order(name, place)
                    self._foreseen(name, choice)
                except RecipeError as error:
                    yield from (f"stages.{name}: {problem}" for problem in error.problems if problem not in known)
                    known |= set(error.problems)

    def _refuse_order(self, stage: str, place: int) -> None:
        later = set(self.parents(stage)) - set(list(self.stages)[:place])
        if later:
            raise RecipeError(
                [f"builds on {', '.join(sorted(later))}, but a stage builds on those above it"], source=self.name
            )
        for parent in self.parents(stage) if self.made_by_training(stage) else ():
            if not self.made_by_training(parent):
                raise RecipeError(
                    [f"trains from {parent}, which is a merge: name a stage that trains"], source=self.name
                )

    def _foreseen(self, stage: str, choice: Choice) -> Recipe | MergeRecipe:
        """A stage's recipe or merge with stand-ins for the models of earlier stages."""
        if self.made_by_training(stage):
            return self.recipe_of(stage, self.seeds[0], {stage: choice}, self.foreseen)
        return self.merge_of(stage, {stage: choice}, lambda name: name)

    def foreseen(self, stage: str) -> dict[str, Any]:
        """What stands in a recipe for the model of an earlier stage that is not made yet."""
        own = self.recipe_of(stage, self.seeds[0], {}, self.foreseen)
        facts = own.to_json()
        kept: dict[str, Any] = {key: facts[key] for key in ("model", "tokenizer", "parametrization") if key in facts}
        return {"run": stage, "recipe": UNKNOWN, "digest": UNKNOWN, "vocab_size": own.vocab_size, **kept}


def joined(tree: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A tree with changes: tables are joined, but a budget and what names another part replace the old as a whole.

    Entries of a list are changed by their number, as in ``terms.1.weight``.
    """
    out = dict(tree)
    for key, value in changes.items():
        out[key] = _changed(key, out.get(key), value)
    return out


def _changed(key: str, old: Any, value: Any) -> Any:
    if isinstance(old, str) and key in SLOTS:
        old = {"name": old}
    if not isinstance(value, dict):
        return value
    if isinstance(old, list) and value and all(name.isdecimal() and int(name) < len(old) for name in value):
        return [_changed("", item, value[str(i)]) if str(i) in value else item for i, item in enumerate(old)]
    same = isinstance(old, dict) and key != "budget" and value.get("name", old.get("name")) == old.get("name")
    return joined(old, value) if same else value


def _literal(value: Any) -> str:
    """A value as TOML writes it."""
    return tomli_w.dumps({"value": list(value) if isinstance(value, tuple) else value}).partition("=")[2].strip()


def _started(tree: Mapping[str, Any]) -> Any:
    """What a recipe's tree names as its start."""
    start = tree.get("start")
    return start.get("run") if isinstance(start, dict) else start


def _sources(tree: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Where a merge's tree names a model: table and key."""
    pieces = tree.get("slices", ())
    yield from ((table, "base") for table in (tree, *pieces))
    yield from ((source, "path") for source in tree.get("models", ()))
    yield from ((source, "path") for piece in pieces for source in piece.get("sources", ()))

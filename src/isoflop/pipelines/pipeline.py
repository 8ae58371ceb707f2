"""The pipeline as a document: named stages, the texts that they are measured on, and what is to be shown of them."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator

from ..core import toml
from ..core.complaints import SEEDS, few_seeds
from ..core.contracts import ModelPart, PlainModel
from ..core.documents import Describes, Later, Section
from ..core.errors import RecipeError, UsageError, nearest
from ..core.recipe import Name, Recipe
from ..core.slots import DecoderSlot, TransformSlot, resolve
from ..core.toml import TomlDocument
from ..merge.recipe import MergeRecipe, checked
from ..store.pipelines import Choice
from .trees import joined, kept_names, literal, merged_in, sources_in, started, with_sources

Seed = Annotated[int, Field(ge=0, lt=2**63)]
OWN = ("name", "seed")
"""Keys of a training stage's recipe that the pipeline sets itself."""
UNKNOWN = "0" * 64
"""Digest of what is not made yet."""
LEFT_OUT = ("averaging", "parametrization", "freeze")
"""Keys of the first stage's recipe that have no part in measuring."""


class StageSearch(Section):
    """A search of a merge's numbers by CMA-ES, for each seed anew; see ``isoflop.merge.search``.

    Example:
        >>> StageSearch(trials=50).knobs
        ('weight',)
    """

    example = "{ trials = 60, blocks = 2 }"

    trials: Annotated[int, Field(ge=1)] = 100
    """Merges that are scored."""
    knobs: Annotated[tuple[str, ...], Field(min_length=1)] = ("weight",)
    """Of each model."""
    filters: tuple[str, ...] = ()
    """Pieces of tensors' names with numbers of their own."""
    blocks: Annotated[int, Field(ge=1)] = 1
    """Points of each gradient over the layers."""


class SampledText(Section):
    """Text that the model of an earlier stage writes, for each seed anew.

    Example:
        >>> SampledText(model="base", documents=100).tokens
        256
    """

    example = '{ model = "base", documents = 500 }'

    model: Name
    """An earlier stage that trains."""
    documents: Annotated[int, Field(ge=2)]
    """How many."""
    tokens: Annotated[int, Field(ge=1)] = 256
    """Of each, at most."""
    decoder: DecoderSlot = "sample"  # type: ignore[assignment]
    """How it is written."""


class CompressedModel(Section):
    """The model of an earlier stage with transforms applied; see ``isoflop compress``.

    Example:
        >>> CompressedModel(model="base", transforms=("round",)).transforms[0].format
        'int4'
    """

    example = '{ model = "base", transforms = [{ name = "prune", hidden = 0.5 }] }'

    model: Name
    """An earlier stage that trains."""
    transforms: Annotated[tuple[TransformSlot, ...], Field(min_length=1)]
    """In order."""


class Stage(Section):
    """One model that is made: by training (``recipe``), merging, or compression; or a text that is written."""

    example = '{ recipe = { start = "base", source = "code" } }'

    like: Name | None = None
    """An earlier stage whose recipe or merge, with the values chosen for it, this one changes."""
    recipe: Annotated[dict[str, Any], Describes(Recipe)] | None = None
    """What its training changes in the pipeline's recipe. ``start`` and ``models`` may name earlier stages, and every
    ``source`` one of the texts."""
    merge: Annotated[dict[str, Any], Describes(MergeRecipe)] | None = None
    """A merge whose ``base`` and ``models`` name earlier stages; their averaged weights, parametrizations baked in."""
    compress: CompressedModel | None = None
    """A model to be compressed; later stages may start from it."""
    sample: SampledText | None = None
    """Text to be written; later stages may name this one as their ``source``."""
    search: StageSearch | None = None
    """Of a merge: its numbers are searched, on the texts of ``judged_by``."""
    grid: dict[str, Annotated[tuple[Any, ...], Field(min_length=2)]] = {}
    """Key paths of its recipe or merge with the values that are tried on the tuning seeds, every one with every."""
    judged_by: tuple[Name, ...] = ()
    """Texts on which what is searched is judged, by the mean of the first metric; none: all texts."""


class Bar(Section):
    """What is to be shown, written before anything is run: sum_i c_i value_i <= most, for each seed and on average.

    Example:
        >>> Bar(says="sfa forgets less", terms={"sfa": 1.0, "plain": -1.0}, texts=("old",)).most
        0.0
    """

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
    branches: Annotated[bool, Later()] = False
    """Whether a run goes on from a shorter one of the same recipe, wherever its schedule lets it end with the same
    bytes; the bill counts the steps that they share once."""
    caveats: tuple[str, ...] = ()
    """What the reader of the result should bear in mind; printed with it."""

    kind = "pipeline"

    @classmethod
    def placed(cls, tree: dict[str, Any], folder: Path) -> dict[str, Any]:
        """The tree with paths found beside the file; where a merge names a stage, that is no path."""
        found = super().placed(tree, folder)
        stages: Any = tree.get("stages")
        for name, stage in stages.items() if isinstance(stages, dict) else ():
            if isinstance(stage, dict) and isinstance(stage.get("merge"), dict):
                found["stages"][name]["merge"] = kept_names(found["stages"][name]["merge"], stage["merge"], stages)
        return found

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

    def kind_of(self, stage: str) -> Literal["training", "merge", "compression", "text"]:
        """What a stage makes, and how."""
        own = self.stages[stage]
        if own.like is not None:
            return self.kind_of(own.like)
        if own.compress is not None:
            return "compression"
        return "text" if own.sample is not None else "training" if own.recipe is not None else "merge"

    def made_by_training(self, stage: str) -> bool:
        """Whether a stage trains."""
        return self.kind_of(stage) == "training"

    @property
    def models(self) -> list[str]:
        """The stages that make models."""
        return [stage for stage in self.stages if self.kind_of(stage) != "text"]

    def tree(self, stage: str, choices: Mapping[str, Choice]) -> dict[str, Any]:
        """A stage's recipe or merge as a tree, with the values that were chosen for it and for what it is like.

        Args:
            stage: its name.
            choices: stage -> values of its grid; the first ones where it is missing.
        """
        own, training = self.stages[stage], self.made_by_training(stage)
        kind = Recipe if training else MergeRecipe
        begun = self.tree(own.like, choices) if own.like else self.recipe if training else {}
        begun, changes = (with_sources(each, self.texts.get) for each in (begun, own.recipe if training else own.merge))
        tree = copy.deepcopy(joined(begun, changes or {}))
        chosen = choices.get(stage) or {key: values[0] for key, values in own.grid.items()}
        for key, value in chosen.items():
            toml.override(tree, f"{key}={literal(value)}", kind)
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
            reference: from the name of an earlier stage to what a recipe keeps of its model, ``run`` at least; or, of
                one that writes a text, to that text's ``path``.
        """

        def written(name: str) -> Any:
            if name not in self.stages or self.kind_of(name) != "text":
                return None
            return {"name": "jsonl", "paths": [reference(name)["path"]], "deduplicate": "none"}

        tree = with_sources(self.tree(stage, choices), written)
        if (parent := started(tree)) in self.stages:
            given, facts = tree["start"], reference(parent)
            own = {key: facts[key] for key in ("run", "recipe", "digest", "vocab_size") if key in facts}
            tree["start"] = {**(given if isinstance(given, dict) else {}), **own}
            tree = {**{key: facts[key] for key in ("model", "tokenizer") if key in facts}, **tree}
        for name, other in dict(tree.get("models", {})).items():
            if other in self.stages:
                facts = reference(other)
                tree["models"][name] = {key: facts[key] for key in facts if key not in ("tokenizer", "path")}
        whole = {**tree, "name": f"{self.name}-{stage}"[:64], "seed": seed}
        return Recipe.from_json(whole, source=f"{self.name}: {stage}")

    def merge_of(self, stage: str, choices: Mapping[str, Choice], place: Callable[[str, bool], str]) -> MergeRecipe:
        """The merge of a merging stage; RecipeError if it is not legal.

        Args:
            stage: its name.
            choices: stage -> values of its grid.
            place: from the name of an earlier stage, and whether its last checkpoints are wanted, to the directory of
                its weights or run.
        """
        tree, source = self.tree(stage, choices), f"{self.name}: {stage}"
        for table, key in merged_in(tree):
            if table.get(key) in self.stages:
                table[key] = place(table[key], "checkpoints" in table)
        return checked(toml.validated(MergeRecipe, tree, source=source), source)

    def probe(self, text: str, start: str | None) -> Recipe:
        """The recipe that a text is measured by: that of the first stage on this text, with what ``start`` brings.

        Args:
            text: its name in the pipeline.
            start: the directory of a run, whose tokenizer and model are taken; None: it is not made yet.
        """
        tree = self.tree(self.first, {})
        tree = {key: value for key, value in tree.items() if key not in LEFT_OUT and (key != "model" or not start)}
        tree |= {"source": self.texts[text], "name": f"{self.name}-{text}"[:64]}
        return Recipe.from_json(tree | ({"start": start} if start else {}), source=f"{self.name}: texts.{text}")

    @property
    def first(self) -> str:
        """The first stage that trains."""
        return next(stage for stage in self.stages if self.made_by_training(stage))

    def parents(self, stage: str) -> list[str]:
        """The earlier stages that a stage takes models or texts of, itself."""
        if (of := self.stages[stage].compress or self.stages[stage].sample) is not None:
            return [of.model]
        tree = self.tree(stage, {})
        if self.made_by_training(stage):
            others = tree.get("models")
            named = [started(tree), *(others.values() if isinstance(others, dict) else ()), *sources_in(tree)]
        else:
            named = [table.get(key) for table, key in merged_in(tree)]
        return list(dict.fromkeys(name for name in named if isinstance(name, str) and name in self.stages))

    # ------------------------------------------------------------ checks

    def _structure(self) -> Iterator[str]:
        names = list(self.stages)
        for place, (name, stage) in enumerate(self.stages.items()):
            earlier = names[:place]
            if stage.like is not None and stage.like not in earlier:
                yield f"stages.{name}.like: no earlier stage is named {stage.like!r}; {nearest(stage.like, earlier)}"
                return
            given = [key for key in ("recipe", "merge", "compress", "sample") if getattr(stage, key) is not None]
            if len(given) > 1 or (not given and stage.like is None):
                yield f"stages.{name}: give one of recipe (it trains), merge, compress, and sample (it writes a text)"
                return
            if stage.search is not None and (self.kind_of(name) != "merge" or stage.grid):
                yield f"stages.{name}.search: is of a merge without a grid"
            for key in ("compress", "sample"):
                if (of := getattr(stage, key)) is None:
                    continue
                if stage.like is not None or stage.grid:
                    yield f"stages.{name}.{key}: has neither like nor grid"
                if of.model not in names:
                    yield f"stages.{name}.{key}.model: no stage is named {of.model!r}; {nearest(of.model, names)}"
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
            yield from self._unknown(f"bars.{number}.terms", bar.terms, self.models, "stage")
            yield from self._unknown(f"bars.{number}.texts", bar.texts, self.texts, "text")
            if len(self.seeds) < SEEDS:
                yield f"bars.{number}: {few_seeds(len(self.seeds))}"

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
                    self._try(name, choice)
                except RecipeError as error:
                    yield from (f"stages.{name}: {problem}" for problem in error.problems if problem not in known)
                    known |= set(error.problems)

    def _refuse_order(self, stage: str, place: int) -> None:
        later = set(self.parents(stage)) - set(list(self.stages)[:place])
        if later:
            raise RecipeError(
                [f"builds on {', '.join(sorted(later))}, but a stage builds on those above it"], source=self.name
            )
        wanted = {
            "training": ("training", "compression", "text"),
            "merge": ("training", "merge"),
            "compression": ("training",),
            "text": ("training",),
        }
        for parent in self.parents(stage):
            if self.kind_of(parent) not in wanted[self.kind_of(stage)]:
                what = f"builds on {parent}, which is a {self.kind_of(parent)}: name a stage that trains"
                raise RecipeError([what], source=self.name)

    def _try(self, stage: str, choice: Choice) -> None:
        """Make a stage's recipe or merge with stand-ins for the models of earlier stages."""
        own = self.stages[stage]
        if own.compress is not None:
            self.foreseen(stage)
        elif own.sample is not None:
            return
        elif self.made_by_training(stage):
            self.recipe_of(stage, self.seeds[0], {stage: choice}, self.foreseen)
        else:
            merge = self.merge_of(stage, {stage: choice}, lambda name, last: name)
            for knob in set(own.search.knobs) - merge.part.each if own.search is not None else ():
                what = f"search.knobs: {knob} is no knob of each model in {merge.method}"
                raise RecipeError([what], source=self.name)

    def foreseen(self, stage: str) -> dict[str, Any]:
        """What stands in a recipe for an earlier stage that is not made yet."""
        if self.kind_of(stage) == "text":
            return {"path": f"{stage}.jsonl"}
        if (compress := self.stages[stage].compress) is not None:
            return self._compressed(self.foreseen(compress.model), compress)
        own = self.recipe_of(stage, self.seeds[0], {}, self.foreseen)
        facts = own.to_json()
        kept: dict[str, Any] = {key: facts[key] for key in ("model", "tokenizer", "parametrization") if key in facts}
        return {"run": stage, "recipe": UNKNOWN, "digest": UNKNOWN, "vocab_size": own.vocab_size, **kept}

    def _compressed(self, facts: dict[str, Any], compress: CompressedModel) -> dict[str, Any]:
        """What stands for a compressed model, given what stands for the one that it is made from."""
        part = resolve("model", facts["model"])
        assert isinstance(part, ModelPart)
        nothing = {s.name: torch.empty(s.shape, device="meta") for s in part.shapes(facts["vocab_size"])}
        model = PlainModel(part, facts["vocab_size"], nothing).joined()
        try:
            for each in compress.transforms:
                model = each.shaped(model)
        except UsageError as error:
            raise RecipeError([f"compress.transforms: {error}"], source=self.name) from None
        return {**facts, "model": model.part.model_dump(mode="json"), "parametrization": None}

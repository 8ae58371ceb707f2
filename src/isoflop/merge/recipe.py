"""What a merge is: method, sources, knobs. One TOML file, or the documented part of mergekit's YAML."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PositiveInt, model_validator

from ..core import toml
from ..core.documents import Frozen
from ..core.errors import RecipeError, nearest
from ..core.registry import get, names
from .knobs import problems_of
from .method import MergePart

Dtype = Literal["float32", "float64", "bfloat16", "float16"]
VocabularyRule = Literal["same", "base", "union", "intersection"]
Layer = Annotated[int, Field(ge=0)]
Place = Annotated[str, AfterValidator(lambda path: os.path.normpath(os.path.expanduser(path)))]
"""A path in one spelling, so that the base is known among the models."""


class MergeSource(Frozen):
    """A model that takes part.

    Example:
        >>> MergeSource(path="runs/base", layers=(0, 12)).layers
        (0, 12)
    """

    path: Place
    """A directory of safetensors, a run, or one checkpoint of a run; relative to the working directory.
    ``model+adapter`` is the model with a LoRA adapter merged into it."""
    layers: tuple[Layer, Layer] | None = None
    """In slices: the first layer and the one after the last."""
    checkpoints: PositiveInt | None = None
    """Of a run: this many of its newest checkpoints, each a model with these parameters. None: the newest alone."""
    parameters: dict[str, Any] = {}
    """Knobs of this model."""


class Slice(Frozen):
    """Consecutive layers of the output, merged from as many layers of each source.

    Example:
        >>> upper = Slice(sources=({"path": "a", "layers": (8, 12)}, {"path": "b", "layers": (8, 12)}))
        >>> [source.path for source in upper.sources]
        ['a', 'b']
    """

    sources: tuple[MergeSource, ...]
    """The models, each with its ``layers``."""
    base: Place | None = None
    """Base of this slice, if it is another."""
    parameters: dict[str, Any] = {}
    """Knobs of this slice."""


class MergeRecipe(Frozen):
    """A merge. A knob is a number, a gradient over the layers as ``[0.1, 0.9]``, or a list of filters with values.

    A file of ours, or of mergekit's, becomes one (``load``); ``merge`` carries it out. The same recipe on the same
    sources gives the same bytes, whatever the number of workers.

    Example:
        >>> sources = ({"path": "a"}, {"path": "b"})
        >>> recipe = MergeRecipe(method="ties", base="base", models=sources, parameters={"density": 0.2})
        >>> recipe.base, [source.path for source in recipe.models]
        ('base', ['a', 'b'])
    """

    method: str
    """A part of slot merge."""
    base: Place | None = None
    """The model that task vectors start from; its configuration and tokenizer are the output's."""
    models: tuple[MergeSource, ...] = ()
    """The models, whole."""
    slices: tuple[Slice, ...] = ()
    """Instead of models: the output's layers from below."""
    parameters: dict[str, Any] = {}
    """Knobs of all models."""
    weights: Literal["trained", "evaluated"] = "trained"
    """Of runs: the weights that were trained, or those that they are evaluated with, averaged where a run averages, and
    with whatever it was trained with (LoRA, integers) baked in."""
    compute: Dtype = "float32"
    """Type in which the merge is computed; float64 tensors are never computed in less."""
    dtype: Dtype | None = None
    """Type of the output; None: each tensor as the base, or the first model, has it."""
    seed: int = 0
    """Of random masks."""
    tokenizer: VocabularyRule = "same"
    """Rule for different tokenizers; "same" refuses them."""
    chat_template: str | None = None
    """Written instead of the base's."""
    shard_bytes: PositiveInt = 5_000_000_000
    """Largest file of the output."""

    @model_validator(mode="after")
    def _one_form(self) -> MergeRecipe:
        if bool(self.models) == bool(self.slices):
            raise ValueError("exactly one of models and slices is needed")
        return self

    @property
    def part(self) -> type[MergePart]:
        """The method's class."""
        part = get("merge", self.method)
        assert issubclass(part, MergePart)
        return part

    def scopes(self) -> list[tuple[str, dict[str, Any]]]:
        """Every table of knobs with its key path."""
        found = [("parameters", self.parameters)]
        found += [(f"models.{i}.parameters", source.parameters) for i, source in enumerate(self.models)]
        for i, piece in enumerate(self.slices):
            found.append((f"slices.{i}.parameters", piece.parameters))
            found += [(f"slices.{i}.sources.{j}.parameters", s.parameters) for j, s in enumerate(piece.sources)]
        return found

    def paths(self) -> list[str]:
        """Every path that is named, each once."""
        bases = [self.base, *(piece.base for piece in self.slices)]
        return list(dict.fromkeys([*(base for base in bases if base), *(source.path for source in _sources(self))]))

    def moved(self, places: Mapping[str, str]) -> MergeRecipe:
        """The same merge of models that lie elsewhere, each by its path here, as they lie there."""

        def there(source: MergeSource) -> MergeSource:
            return source.model_copy(update={"path": places.get(source.path, source.path)})

        def base(path: str | None) -> str | None:
            return None if path is None else places.get(path, path)

        pieces = [
            piece.model_copy(update={"sources": tuple(map(there, piece.sources)), "base": base(piece.base)})
            for piece in self.slices
        ]
        models = tuple(map(there, self.models))
        changes = {"base": base(self.base), "models": models, "slices": tuple(pieces), "weights": "trained"}
        return self.model_copy(update=changes)


def load(path: Path) -> MergeRecipe:
    """The recipe in a TOML file of ours or a YAML file of mergekit's.

    Raises:
        RecipeError: every problem of it, in one report.
    """
    if path.suffix in (".yaml", ".yml"):
        from .mergekit import tree_of

        tree, text = tree_of(path), ""
    else:
        tree, text = toml.read(path)
    return checked(toml.validated(MergeRecipe, tree, source=str(path), text=text), str(path))


def checked(recipe: MergeRecipe, source: str) -> MergeRecipe:
    """The recipe, if its method and knobs are legal; else a RecipeError with every problem."""
    if recipe.method not in names("merge"):
        raise RecipeError(
            [f"method: no merge is named {recipe.method!r}; {nearest(recipe.method, names('merge'))}"], source=source
        )
    part, problems = recipe.part, []
    for path, knobs in recipe.scopes():
        own = "models." in path or "sources." in path
        for name, knob in knobs.items():
            legal = part.each if own else set(part.model_fields)
            if name not in legal:
                why = f"is no knob of a model alone in {recipe.method}" if name in part.model_fields else "no such knob"
                problems.append(f"{path}.{name}: {why}; {nearest(name, legal)}")
            problems += [f"{path}.{name}: {problem}" for problem in problems_of(knob)]
    problems += _of_sources(recipe, part)
    if problems:
        raise RecipeError(problems, source=source)
    return recipe


def _sources(recipe: MergeRecipe) -> list[MergeSource]:
    return [*recipe.models, *(source for piece in recipe.slices for source in piece.sources)]


def _of_sources(recipe: MergeRecipe, part: type[MergePart]) -> list[str]:
    problems = []
    if (
        part.base == "needed"
        and not recipe.base
        and not all(piece.base for piece in recipe.slices or (Slice(sources=()),))
    ):
        problems.append(f"base: {recipe.method} needs one; name the model that the others were made from")
    if part.base == "none" and recipe.base and recipe.base not in [source.path for source in _sources(recipe)]:
        problems.append(f"base: {recipe.method} takes none; leave it out, or list it among the models")
    least, most = part.models
    wanted = f"{least}" if most == least else f"at least {least}" if most is None else f"{least} to {most}"
    beside = "" if part.base == "none" else " beside the base"
    pieces = [(f"slices.{i}", piece.sources, piece.base or recipe.base) for i, piece in enumerate(recipe.slices)]
    for where, sources, base in pieces or [("models", recipe.models, recipe.base)]:
        others = [s for s in sources if part.base == "none" or s.path != base]
        many = any(source.checkpoints for source in others)  # how many will be seen in the run
        if (len(others) < least and not many) or (most is not None and len(others) > most):
            problems.append(f"{where}: {recipe.method} takes {wanted} models{beside}, not {len(others)}")
    for i, piece in enumerate(recipe.slices):
        ranges = [source.layers for source in piece.sources]
        lengths = {span[1] - span[0] for span in ranges if span is not None}
        if None in ranges or any(length < 1 for length in lengths):
            problems.append(f"slices.{i}: each source needs layers = [first, after the last]")
        elif len(lengths) > 1:
            problems.append(f"slices.{i}: its sources have different numbers of layers ({sorted(lengths)})")
        if any(source.checkpoints for source in piece.sources):
            problems.append(f"slices.{i}: checkpoints are of models; name one checkpoint's directory")
    if recipe.weights == "evaluated":
        several = [i for i, source in enumerate(recipe.models) if source.checkpoints]
        problems += [f"models.{i}.checkpoints: hold trained weights; only the last are evaluated" for i in several]
    problems += [f"models.{i}.layers: belongs into a slice" for i, source in enumerate(recipe.models) if source.layers]
    return problems

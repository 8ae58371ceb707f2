"""The tensors of a merge: each output tensor, the tensors that it comes from, and its knobs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from pydantic import ValidationError

from ..core.complaints import TELLING, form_of, words
from ..core.errors import RecipeError
from ..store.safetensors_dir import FLOATS, TensorInfo
from ..store.tensors import EMBEDDINGS, HEADS, NAMES, Checkpoint, layer_of
from .knobs import first_value
from .method import MergePart
from .recipe import MergeRecipe, MergeSource, Slice
from .vocabulary import MergedVocabulary

TORCH = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Task:
    """A tensor of the output.

    Attributes:
        name: in the output.
        shape: in the output.
        dtype: in the output, by the format's name.
        base: (number of the source, name there) of the base's tensor; None: the method takes none.
        models: the same of each model.
        part: the method with this tensor's knobs; None: all sources hold the same, which is copied.
        vocabulary: its rows belong to tokens.

    Example, with ``write(path, **tensors)`` a directory of weights:
        >>> from isoflop.merge.plan import make_plan
        >>> write("a", w=[1.0, 2.0]); write("b", w=[3.0, 4.0])
        >>> (task,) = make_plan(MergeRecipe(method="linear", models=({"path": "a"}, {"path": "b"}))).tasks
        >>> task.name, task.numel, task.models
        ('w', 2, ((0, 'w'), (1, 'w')))
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    base: tuple[int, str] | None
    models: tuple[tuple[int, str], ...]
    part: MergePart | None
    vocabulary: bool

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def inputs(self) -> tuple[tuple[int, str], ...]:
        """The base, if there is one, then the models."""
        return self.models if self.base is None else (self.base, *self.models)


def tasks_of(
    recipe: MergeRecipe,
    slices: Sequence[Slice],
    sources: Sequence[Checkpoint],
    places: Mapping[str, int],
    vocabulary: MergedVocabulary | None,
) -> Iterator[Task]:
    first = 0
    for number, piece in enumerate(slices):
        maker = _Maker(recipe, piece, sources, places, vocabulary)
        names = maker.names()
        count = maker.count
        for name in names:
            layer = layer_of(name)
            if layer is None:
                early = is_before_layers(name)
                if number == (0 if early else len(slices) - 1):
                    yield maker.task(name, name, None)
            else:
                start = maker.start
                if start <= layer < start + count:
                    yield maker.task(name, renumbered(name, first + layer - start), layer - start)
        first += count


def is_before_layers(name: str) -> bool:
    """Whether a tensor outside the layers acts before them: embeddings of tokens and places."""
    return name not in HEADS and any(
        piece.startswith(("embed", "wte", "wpe", "word_embed")) for piece in name.split(".")
    )


def renumbered(name: str, layer: int) -> str:
    """A tensor's name with another layer's number."""
    pieces = name.split(".")
    at = next(i for i, piece in enumerate(pieces) if piece.isascii() and piece.isdecimal())
    return ".".join([*pieces[:at], str(layer), *pieces[at + 1 :]])


class _Maker:
    """Makes the tasks of one slice."""

    def __init__(
        self,
        recipe: MergeRecipe,
        piece: Slice,
        sources: Sequence[Checkpoint],
        places: Mapping[str, int],
        vocabulary: MergedVocabulary | None,
    ) -> None:
        self.recipe, self.piece, self.sources, self.places, self.vocabulary = recipe, piece, sources, places, vocabulary
        self.kind = recipe.part
        entries = list(piece.sources)
        self.base: MergeSource | None = None
        if piece.base is not None and self.kind.base != "none":
            spans = [s.layers for s in entries if s.path == piece.base] or [entries[0].layers]
            self.base = MergeSource(path=piece.base, layers=spans[0])
            entries = [source for source in entries if source.path != piece.base]
        self.models = entries
        self.lead = self.base or entries[0]
        assert self.lead.layers is not None
        self.start, self.count = self.lead.layers[0], self.lead.layers[1] - self.lead.layers[0]

    def checkpoint(self, source: MergeSource) -> Checkpoint:
        return self.sources[self.places[source.path]]

    def names(self) -> list[str]:
        """Names of the tensors, as the leading source has them; RecipeError if another has fewer or more."""
        inputs = [self.lead, *(source for source in self.models if source is not self.lead)]
        checkpoints = [self.checkpoint(source) for source in inputs]
        listed = list(checkpoints[0].tensors)
        head = next((checkpoint.head for checkpoint in checkpoints if checkpoint.head and not checkpoint.tied), "")
        if head and head not in listed and checkpoints[0].tied:
            listed.append(head)  # a tied head beside an untied one becomes a head of its own
        for source, checkpoint in zip(inputs, checkpoints, strict=True):
            assert source.layers is not None
            shift = source.layers[0] - self.start
            wanted = {n if (at := layer_of(n)) is None else renumbered(n, at + shift): at for n in listed}
            within = range(*source.layers)
            for name, at in wanted.items():
                used = at is None or self.start <= at < self.start + self.count
                there = name in checkpoint.tensors or (name in HEADS and checkpoint.tied)
                if used and not there:
                    raise RecipeError(
                        [f"lacks tensor {name!r}, which {checkpoints[0].path} has"], source=str(checkpoint.path)
                    )
            for name in checkpoint.tensors:
                at = layer_of(name)
                if name not in wanted and (at is None or at in within):
                    raise RecipeError(
                        [f"tensor {name!r} is not in {checkpoints[0].path}"],
                        source=str(checkpoint.tensors[name].file),
                    )
        return listed

    def task(self, name: str, output: str, layer: int | None) -> Task:
        def at(source: MergeSource) -> tuple[int, str]:
            assert source.layers is not None
            own = name if layer is None else renumbered(name, source.layers[0] + layer)
            return self.places[source.path], own

        place = 0.0 if layer is None else layer / (self.count - 1) if self.count > 1 else 1.0
        base = None if self.base is None else at(self.base)
        models = tuple(at(source) for source in self.models)
        inputs = models if base is None else (base, *models)
        infos = [self.sources[number].find(own) for number, own in inputs]
        moves = self.vocabulary is not None and (output in HEADS or output.endswith(EMBEDDINGS))
        if moves and self.vocabulary is not None:
            for (number, _), info in zip(inputs, infos, strict=True):
                self.vocabulary.refuse_short(number, info)
            self.vocabulary.refuse_without_row([number for number, _ in inputs], output)
        shape = self._shape(infos, moves)
        floating = {info.dtype in FLOATS for info in infos}
        if floating == {False}:
            return Task(output, shape, infos[0].dtype, base, models, None, False)
        if floating != {True}:
            odd = next(info for info in infos if info.dtype not in FLOATS)
            problem = f"tensor {odd.name!r} is of type {odd.dtype}, elsewhere a float"
            raise RecipeError([problem], source=str(odd.file))
        dtype = infos[0].dtype if self.recipe.dtype is None else NAMES[TORCH[self.recipe.dtype]]
        return Task(output, shape, dtype, base, models, self._part(output, models, place), moves)

    def _shape(self, infos: Sequence[TensorInfo], moves: bool) -> tuple[int, ...]:
        first = infos[0]
        for info in infos[1:]:
            if info.shape != first.shape and not (moves and info.shape[1:] == first.shape[1:]):
                rows = info.shape[1:] == first.shape[1:] and (info.name.endswith(EMBEDDINGS) or info.name in HEADS)
                problem = f"tensor {info.name!r} has shape {list(info.shape)}, but {list(first.shape)} in {first.file}"
                if rows:
                    problem += (
                        "; with a tokenizer.json beside each model choose tokenizer = base, union or intersection"
                    )
                raise RecipeError([problem], source=str(info.file))
        if moves:
            assert self.vocabulary is not None
            return (len(self.vocabulary.tokens), *first.shape[1:])
        return first.shape

    def _part(self, output: str, models: Sequence[tuple[int, str]], place: float) -> MergePart:
        shared = [self.piece.parameters, self.recipe.parameters]
        knobs: dict[str, Any] = {}
        for knob, about in self.kind.model_fields.items():
            if knob in self.kind.each:
                values = [
                    first_value([source.parameters, *shared], knob, own, place)
                    for source, (_, own) in zip(self.models, models, strict=True)
                ]
                if any(value is not None for value in values):
                    knobs[knob] = [about.default if value is None else value for value in values]
            elif (value := first_value(shared, knob, output, place)) is not None:
                knobs[knob] = value
        return _built(self.kind, json.dumps(knobs), output)


def _built(kind: type[MergePart], knobs: str, tensor: str) -> MergePart:
    """The part with these knobs; RecipeError that names the tensor if they are not legal."""
    try:
        return _part(kind, knobs)
    except ValidationError as error:
        problems = dict.fromkeys(
            f"{'.'.join(str(piece) for piece in item['loc'][:1])}: {words(item)}{_given(item)} for tensor {tensor!r}"
            for item in error.errors(include_url=False)
        )
        raise RecipeError(list(problems), source=f"merge {kind.name}") from None


def _given(error: Any) -> str:
    return "" if error["type"] in TELLING else f", got {form_of(error.get('input'))}"


@cache  # most tensors have the knobs of another one
def _part(kind: type[MergePart], knobs: str) -> MergePart:
    return kind.model_validate_json(knobs)

"""From a recipe to a plan: every tensor of the output, what it comes from, and its knobs. Nothing is merged yet.

All that can be wrong with the sources is found here, before a byte is written: missing tensors, other shapes, other
architectures, other tokenizers, knobs that the method refuses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..core.digests import digest, digest_bytes
from ..core.errors import IsoflopError, RecipeError, UsageError
from ..core.rng import Rng
from ..store.tensor_writer import Layout, lay_out
from ..store.tensors import DTYPES, PIECE, Checkpoint
from .configuration import config_of, refuse_other_architectures
from .method import numbers, on_tensors
from .recipe import MergeRecipe, MergeSource, Slice
from .sources import last_checkpoints, open_source
from .tasks import TORCH, Task, tasks_of
from .vocabulary import MergedVocabulary, agree_on_vocabulary


@dataclass
class MergePlan:
    """A merge, ready to run.

    Attributes:
        recipe: what was asked for.
        paths: the sources as the recipe names them; the first is the base, or the model that takes its place.
        tasks: the output's tensors.
        config: the output's config.json; empty: it has none.

    Example, with ``write(path, **tensors)`` a directory of weights:
        >>> write("a", w=[1.0, 2.0]); write("b", w=[3.0, 4.0])
        >>> plan = make_plan(MergeRecipe(method="linear", models=({"path": "a"}, {"path": "b"})))
        >>> [task.name for task in plan.tasks], plan.layout.bytes
        (['w'], 104)
    """

    recipe: MergeRecipe
    paths: list[str]
    tasks: list[Task]
    config: dict[str, Any]
    vocabulary: MergedVocabulary | None = None
    sources: list[Checkpoint] = field(default_factory=list, repr=False)

    @cached_property
    def layout(self) -> Layout:
        """The output's files."""
        return lay_out([(task.name, task.dtype, task.shape) for task in self.tasks], self.recipe.shard_bytes)

    @cached_property
    def identity(self) -> str:
        """Digest of all that decides the bytes of the output: a merge that was killed continues under the same one."""
        files = [
            [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in source.files()]
            for source in self.sources
        ]
        paths = [str(source.path.resolve()) for source in self.sources]
        recipe = self.recipe.model_dump(mode="json")
        return digest([__version__, recipe, paths, files, self.config, sorted(self.layout.headers)])

    def dtype_of(self, task: Task) -> torch.dtype:
        """Type in which a tensor is merged."""
        stored = [DTYPES[self.sources[number].find(name).dtype] for number, name in task.inputs]
        return torch.float64 if torch.float64 in stored else TORCH[self.recipe.compute]

    @property
    def memory(self) -> int:
        """Bytes of tensors held at once at most, beside the program itself."""
        most = 0
        for task in self.tasks:
            numel = task.numel
            count, item = len(task.inputs) + 2, 8 if task.part else 1
            moves = task.vocabulary and self.vocabulary is not None
            whole = moves or (task.part is not None and task.part.whole)
            held = numel * 4 if task.part is not None and task.part.selects else 0
            most = max(most, held + (numel if whole else min(numel, PIECE)) * count * item)
        return most

    @property
    def reads(self) -> int:
        """Bytes of the sources."""
        return sum(info.bytes for source in self.sources for info in source.tensors.values())


def make_plan(recipe: MergeRecipe) -> MergePlan:
    """Look at every source and settle every tensor of the output.

    Raises:
        RecipeError: the sources do not fit the recipe or each other; names tensor and file.
        DataError: a source cannot be read.
    """
    if recipe.weights == "evaluated":
        what = "evaluated weights are no files of a run"
        raise UsageError(what, where="weights", fix="write them out: isoflop.pipelines.evaluated.evaluated_runs")
    recipe = _expanded(recipe)
    paths = list(dict.fromkeys(_listed(recipe)))
    places = {path: number for number, path in enumerate(paths)}
    sources = [open_source(path) for path in paths]
    refuse_other_architectures(sources)
    vocabulary = agree_on_vocabulary(sources, recipe.tokenizer)
    slices = _slices(recipe, sources, places)
    tasks = list(tasks_of(recipe, slices, sources, places, vocabulary))
    if not tasks:
        raise RecipeError(["holds no tensors"], source=str(sources[0].path))
    _rehearse(tasks, sources)
    _refuse_no_weight(tasks, paths)
    config = config_of(recipe, slices, sources, tasks)
    return MergePlan(recipe, paths, tasks, config, vocabulary, sources)


def _listed(recipe: MergeRecipe) -> Iterator[str]:
    """Paths as the recipe writes them; the first is the one whose configuration and tokenizer are the output's."""
    if recipe.base:
        yield recipe.base
    for piece in recipe.slices or (Slice(sources=recipe.models),):
        if piece.base:
            yield piece.base
        yield from (source.path for source in piece.sources)


def _expanded(recipe: MergeRecipe) -> MergeRecipe:
    """The recipe with each run's last checkpoints as models of their own."""
    models: list[MergeSource] = []
    for source in recipe.models:
        if source.checkpoints is None:
            models.append(source)
        else:
            found = last_checkpoints(Path(source.path), source.checkpoints)
            models += [source.model_copy(update={"path": str(path), "checkpoints": None}) for path in found]
    return recipe.model_copy(update={"models": tuple(models)})


def _slices(recipe: MergeRecipe, sources: Sequence[Checkpoint], places: Mapping[str, int]) -> list[Slice]:
    """The recipe as slices: whole models are one slice of all layers."""
    if not recipe.slices:
        whole = [s.model_copy(update={"layers": (0, sources[places[s.path]].layers)}) for s in recipe.models]
        return [Slice(sources=tuple(whole), base=recipe.base)]
    for number, piece in enumerate(recipe.slices):
        for source in piece.sources:
            assert source.layers is not None
            there = sources[places[source.path]].layers
            if source.layers[1] > there:
                raise RecipeError(
                    [f"slices.{number}: layers {list(source.layers)} of {source.path}, which has {there} layers"],
                    source="recipe",
                )
    return [piece.model_copy(update={"base": piece.base or recipe.base}) for piece in recipe.slices]


def _refuse_no_weight(tasks: Sequence[Task], paths: Sequence[str]) -> None:
    """RecipeError if every model weighs nothing in every tensor."""
    weights = [
        (task, getattr(task.part, "weight", None)) for task in tasks if "weight" in getattr(task.part, "each", ())
    ]
    if weights and not any(any(numbers(weight, len(task.models))) for task, weight in weights if weight is not None):
        what = f"weigh zero in tensor {weights[0][0].name!r} as in all others: nothing would be merged"
        raise RecipeError([what], source=", ".join(paths))


def _rehearse(tasks: Sequence[Task], sources: Sequence[Checkpoint]) -> None:
    """Merge two small random tensors with every kind of knobs, so that what they refuse is said before the start."""
    done = set()
    for task in tasks:
        if task.part is None or (task.part, len(task.models)) in done:
            continue
        done.add((task.part, len(task.models)))
        draw = torch.Generator().manual_seed(0)
        base, *models = torch.randn(len(task.models) + 1, 3, 4, generator=draw).unbind()
        try:
            on_tensors(task.part, None if task.base is None else base, models, Rng(0)("rehearsal"))
        except IsoflopError as error:
            files = dict.fromkeys(str(sources[number].find(name).file) for number, name in task.inputs)
            where = f"tensor {task.name!r} of {', '.join(files)}"
            raise UsageError(error.what, where=where, fix=error.fix) from error


def stream_of(recipe: MergeRecipe, name: str) -> Rng:
    """The random stream of an output tensor: a function of seed and name alone."""
    return Rng(recipe.seed)("merge")(digest_bytes(name.encode()))

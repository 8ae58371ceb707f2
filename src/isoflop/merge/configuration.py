"""The output's config.json: the first source's, with what the merge has changed."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from ..core.errors import RecipeError
from ..store.tensors import DTYPES, HEADS, Checkpoint
from .recipe import MergeRecipe, Slice
from .tasks import Task

_LAYER_KEYS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")


def config_of(
    recipe: MergeRecipe,
    slices: Sequence[Slice],
    sources: Sequence[Checkpoint],
    tasks: Sequence[Task],
) -> dict[str, Any]:
    """The first source's configuration with what the merge has changed: type, layers, vocabulary, tied weights."""
    lead = sources[0]
    if not lead.config:
        return {}
    config = copy.deepcopy(lead.config)
    inner = config["text_config"] if isinstance(config.get("text_config"), dict) else config
    stored = {name: str(dtype).removeprefix("torch.") for name, dtype in DTYPES.items()}
    counts: dict[str, int] = {}
    for task in tasks:
        counts[task.dtype] = counts.get(task.dtype, 0) + task.numel
    dtype = stored[max(counts, key=lambda name: counts[name])]
    for table in (config, inner):
        for key in ("dtype", "torch_dtype"):
            if key in table:
                table[key] = dtype
    if not any(key in table for table in (config, inner) for key in ("dtype", "torch_dtype")):
        config["dtype"] = dtype
    spans = [piece.sources[0].layers or (0, 0) for piece in slices]
    for key in _LAYER_KEYS:
        if key in inner:
            inner[key] = sum(stop - start for start, stop in spans)
    for key, value in inner.items():  # one entry a layer, as layer_types has
        if isinstance(value, list) and lead.layers > 1 and len(value) == lead.layers and recipe.slices:
            inner[key] = [value[min(layer, len(value) - 1)] for span in spans for layer in range(*span)]
    if any(task.name in HEADS for task in tasks) and (lead.tied or config.get("tie_word_embeddings")):
        for table in (config, inner):
            if "tie_word_embeddings" in table or table is config:  # many kinds of models tie where nothing is said
                table["tie_word_embeddings"] = False
    for task in tasks:
        if task.vocabulary and "vocab_size" in inner:
            inner["vocab_size"] = task.shape[0]
    return config


def refuse_other_architectures(sources: Sequence[Checkpoint]) -> None:
    """RecipeError if two configurations name different architectures."""
    for key in ("model_type", "architectures"):
        named = [(source, source.config[key]) for source in sources if source.config.get(key)]
        for source, value in named[1:]:
            if value != named[0][1]:
                raise RecipeError(
                    [f"{key} is {value!r}, but {named[0][1]!r} in {named[0][0].path}: different architectures"],
                    source=str(source.path / "config.json"),
                )


def shown(path: object) -> str:
    """A path on one line of a card, whatever bytes its name has."""
    return " ".join(str(path).encode(errors="replace").decode().split())

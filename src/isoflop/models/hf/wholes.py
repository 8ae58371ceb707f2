"""Models of several parts, for images and text: the text model in them is read, the rest is left aside.

The configuration has the text model's in ``text_config``, and often only what differs from the family's defaults. Their
libraries have named the text model's tensors in two ways, of which either is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from ...core.errors import DataError

WHOLES = ("gemma3", "mistral3", "llava")
"""By ``model_type``. Given text alone, each computes what its text model does."""
WHOLE = "text part of"
"""Where the table of a text model says of what it is a part."""
_SHARED = (
    *("architectures", "dtype", "torch_dtype", "quantization_config", "tie_word_embeddings"),
    *("bos_token_id", "eos_token_id", "pad_token_id"),
)
_PLACES = {
    "language_model.model.": "model.",
    "model.language_model.": "model.",
    "language_model.lm_head.": "lm_head.",
    "lm_head.": "lm_head.",
}
"""Beginnings of the text model's tensors' names: in the whole, and where it is alone."""

T = TypeVar("T")


def text_config(tree: Mapping[str, Any]) -> Mapping[str, Any]:
    """The table of the text model, with what the whole says for both; a table of one model stays as it is.

    Example:
        >>> inner = {"model_type": "gemma3_text", "hidden_size": 64}
        >>> text_config({"model_type": "gemma3", "eos_token_id": 1, "text_config": inner})["hidden_size"]
        64
    """
    inner = tree.get("text_config")
    if tree.get("model_type") not in WHOLES or not isinstance(inner, dict):
        return tree
    shared = {key: tree[key] for key in _SHARED if tree.get(key) is not None}
    own = {key: value for key, value in inner.items() if value is not None or key not in shared}
    return {**shared, **own, WHOLE: tree["model_type"]}


def text_tensors(tensors: Mapping[str, T], where: str = "") -> dict[str, T]:
    """The text model's tensors by the names that they have where it is alone.

    Args:
        tensors: those of the whole.
        where: the directory, for errors.

    Raises:
        DataError: two tensors have one name there.

    Example:
        >>> text_tensors({"model.language_model.norm.weight": 1, "vision_tower.weight": 2, "lm_head.weight": 3})
        {'model.norm.weight': 1, 'lm_head.weight': 3}
    """
    found, named = dict[str, T](), dict[str, str]()
    for name, tensor in tensors.items():
        for theirs, alone in _PLACES.items():
            if not name.startswith(theirs):
                continue
            short = alone + name.removeprefix(theirs)
            if short in named:
                what = f"holds {named[short]!r} and {name!r}: which one is the text model's?"
                raise DataError(what, where=where, fix="fetch the files of the model anew")
            found[short], named[short] = tensor, name
    return found


def said(whole: str) -> str:
    """What a user should know of a text model that was part of something."""
    return f"it is the text part of a {whole}: what reads images is left aside"

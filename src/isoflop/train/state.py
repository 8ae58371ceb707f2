"""A run's state as files: nested dicts of tensors and plain values <-> safetensors + JSON. No pickle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save_file

from ..core.contracts import Stateful
from ..core.errors import DataError
from ..core.files import disk_errors, write_json
from ..core.reading import opened, read_json

_TENSOR, _TUPLE, _ITEMS = "__tensor__", "__tuple__", "__items__"


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write tensors to a safetensors file; StorageError if the disk refuses."""
    with disk_errors(path):
        save_file(_apart(tensors), path)


def _apart(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors on the CPU, contiguous and without shared memory, which the format does not know; copied only where
    needed."""
    seen: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        own = tensor.detach().cpu().contiguous()
        if own.untyped_storage().data_ptr() in seen:
            own = own.clone()
        seen.add(own.untyped_storage().data_ptr())
        apart[name] = own
    return apart


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read a safetensors file to the CPU; DataError if it is not one."""
    try:
        with opened(path) as file:  # refuses what is no file, which the library would wait for
            return load_file(path) if str(path).isprintable() else load(file.read())  # it maps names in UTF-8 alone
    except (OSError, SafetensorError) as error:
        raise DataError(f"cannot be read as safetensors ({error})", where=str(path)) from error


def save_tree(directory: Path, name: str, tree: Any) -> None:
    """Write a tree to ``<name>.json`` and, for its tensors, ``<name>.safetensors`` in ``directory``.

    A tree is made of dicts (string or integer keys), lists, tuples, tensors and JSON values; all of it comes back.
    """
    tensors: dict[str, torch.Tensor] = {}
    write_json(directory / f"{name}.json", _encode(tree, tensors))
    if tensors:
        save_tensors(directory / f"{name}.safetensors", tensors)


def load_tree(directory: Path, name: str) -> Any:
    """Read what ``save_tree`` wrote; DataError if it is damaged."""
    path = directory / f"{name}.safetensors"
    tensors = load_tensors(path) if path.exists() else {}
    try:
        return _decode(read_json(directory / f"{name}.json"), tensors)
    except KeyError as error:
        raise DataError(f"lacks the tensor {error}", where=str(path)) from error


def tensors_of(tree: Any) -> Iterator[str]:
    """The names of the tensors that a tree holds, given as the JSON that ``save_tree`` wrote."""
    if isinstance(tree, Mapping) and set(tree) == {_TENSOR}:
        yield tree[_TENSOR]
    elif isinstance(tree, Mapping | list):
        for node in tree.values() if isinstance(tree, Mapping) else tree:
            yield from tensors_of(node)


class Held:
    """What a part held when this was made. Its tensors are not copied, so that holding it costs nothing.

    Args:
        part: its state may be replaced or written to from now on.

    Example:
        >>> import torch
        >>> Held(torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1)) is not None
        True
    """

    def __init__(self, part: Stateful) -> None:
        self._part, self._tensors = part, dict[str, torch.Tensor]()
        self._tree = _encode(part.state_dict(), self._tensors)
        self._versions = self._now()

    def _now(self) -> list[int]:
        """How often each tensor was written to."""
        return [tensor._version for tensor in self._tensors.values()]

    def give_back(self) -> bool:
        """Let the part hold it again; False, and nothing is done, if a tensor of it was written to since."""
        if self._now() != self._versions:
            return False
        self._part.load_state_dict(_decode(self._tree, self._tensors))
        return True


def _encode(node: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """The tree in JSON; its tensors go to ``tensors``, by number."""
    if isinstance(node, torch.Tensor):
        number = str(len(tensors))
        tensors[number] = node
        return {_TENSOR: number}
    if isinstance(node, Mapping):
        items = [[key, _encode(value, tensors)] for key, value in node.items()]
        if all(isinstance(key, str) and key not in (_TENSOR, _TUPLE, _ITEMS) for key, _ in items):
            return dict(items)
        return {_ITEMS: items}
    if isinstance(node, tuple):
        return {_TUPLE: [_encode(value, tensors) for value in node]}
    if isinstance(node, list):
        return [_encode(value, tensors) for value in node]
    return node


def _decode(node: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    if isinstance(node, list):
        return [_decode(value, tensors) for value in node]
    if not isinstance(node, dict):
        return node
    if set(node) == {_TENSOR}:
        return tensors[node[_TENSOR]]
    if set(node) == {_TUPLE}:
        return tuple(_decode(value, tensors) for value in node[_TUPLE])
    if set(node) == {_ITEMS}:
        return {key: _decode(value, tensors) for key, value in node[_ITEMS]}
    return {key: _decode(value, tensors) for key, value in node.items()}

"""Where the tensors of a safetensors directory lie, read from headers and index alone. No torch, no tensor is loaded.

A directory in Hugging Face's layout holds ``model.safetensors``, or an index and the shards that it names. What could
mislead a reader is refused by name: a shard outside the directory, a tensor that two shards hold or that none does,
duplicate keys, offsets that do not fit the file, pickled weights.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import DataError
from ..core.reading import opened, read_bytes

ITEM_BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U64": 8,
    "U32": 4,
    "U16": 2,
    "U8": 1,
    "BOOL": 1,
}
"""Bytes of one element by the format's name of its type."""
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
_LONGEST_HEADER = 100_000_000  # the format's own limit
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies: bytes ``begin`` to ``end`` of ``file``, row-major, little-endian.

    Example:
        >>> info = TensorInfo("a", "F32", (2, 3), Path("model.safetensors"), begin=80, end=104)
        >>> info.numel, info.bytes
        (6, 24)
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    begin: int
    end: int

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.end - self.begin


def read_directory(directory: Path, stem: str = "model") -> dict[str, TensorInfo]:
    """The tensors of a directory by name, in the order of the files.

    Torch is not needed: this is how a checkpoint is listed, checked and measured.

    Args:
        directory: holds ``<stem>.safetensors``, or ``<stem>.safetensors.index.json`` and its shards.
        stem: "model", or "adapter_model" for adapters.

    Raises:
        DataError: the directory or one of its files is not as the layout wants it; names file and tensor.

    Example:
        >>> from isoflop.store.tensor_writer import write_directory
        >>> write_directory(Path(), {"a": ("F32", (2,), bytes(8))}, "model")
        >>> read_directory(Path())["a"].shape
        (2,)
    """
    if not directory.is_dir():
        fix = "name one of safetensors, or a run's; `isoflop export RUN OUT` writes one of a run"
        raise DataError("is no directory", where=str(directory), fix=fix)
    whole = directory / f"{stem}.safetensors"
    index = directory / f"{stem}.safetensors.index.json"
    if index.exists():
        if whole.exists():
            raise DataError(f"lies beside {index.name}: which one counts?", where=str(whole), fix="remove one of them")
        return _read_shards(directory, index)
    if whole.exists():
        return read_header(whole)
    pickled = sorted(path.name for pattern in _PICKLED for path in directory.glob(pattern))
    if pickled:
        raise DataError(
            f"holds pickled weights only ({', '.join(pickled[:3])}), which can run code when they are loaded",
            where=str(directory),
            fix=f"convert them once: isoflop convert {directory} {directory}-safetensors",
        )
    raise DataError(f"holds neither {whole.name} nor {index.name}", where=str(directory))


def _read_shards(directory: Path, index: Path) -> dict[str, TensorInfo]:
    tree = strict_json(index)
    placed = tree.get("weight_map") if isinstance(tree, dict) else None
    if not isinstance(placed, dict) or not all(isinstance(file, str) for file in placed.values()):
        raise DataError("has no weight_map from tensors to files", where=str(index))
    for name, file in placed.items():
        if file != Path(file).name or "\\" in file or "\0" in file or not file.endswith(".safetensors"):
            raise DataError(
                f"places tensor {name!r} in {file!r}, which is no safetensors file of this directory", where=str(index)
            )
    tensors: dict[str, TensorInfo] = {}
    for file in dict.fromkeys(placed.values()):
        if not (directory / file).is_file():
            lost = next(name for name, where in placed.items() if where == file)
            raise DataError(f"names the shard {file} for tensor {lost!r}, which is missing", where=str(index))
        for name, info in read_header(directory / file).items():
            if name in tensors:
                raise DataError(f"tensor {name!r} lies in {tensors[name].file.name} too", where=str(info.file))
            if name not in placed:
                raise DataError(f"holds tensor {name!r}, which {index.name} does not name", where=str(info.file))
            tensors[name] = info
    for name, file in placed.items():
        if name not in tensors or tensors[name].file.name != file:
            raise DataError(f"lacks tensor {name!r}, which {index.name} places there", where=str(directory / file))
    return tensors


def read_header(path: Path) -> dict[str, TensorInfo]:
    """The tensors of one safetensors file by name, in the order of their bytes.

    Raises:
        DataError: the header does not describe the file exactly.
    """
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _LONGEST_HEADER):
            raise DataError("is no safetensors file, or is cut short", where=str(path))
        raw = file.read(length)
    tree = _parse(raw, path)
    if not isinstance(tree, dict):
        raise DataError("has a header that is no table of tensors", where=str(path))
    tree.pop("__metadata__", None)
    tensors = {name: _entry(path, name, entry, 8 + length) for name, entry in tree.items()}
    end = 8 + length
    ordered = sorted(tensors.values(), key=lambda info: (info.begin, info.end))
    for info in ordered:
        if info.begin != end:
            problem = "overlaps another tensor" if info.begin < end else "leaves a hole before it"
            raise DataError(f"tensor {info.name!r} {problem}", where=str(path))
        end = info.end
    if end != size:
        raise DataError(f"has {size} bytes, but its tensors end at byte {end}", where=str(path))
    return {info.name: info for info in ordered}


def _entry(path: Path, name: str, entry: Any, data: int) -> TensorInfo:
    try:
        dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        sound = all(isinstance(number, int) and number >= 0 for number in (*shape, begin, end))
    except (TypeError, KeyError, ValueError):
        sound = False
    if not sound:
        raise DataError(f"describes tensor {name!r} in a form that is not the format's", where=str(path))
    if dtype not in ITEM_BYTES:
        raise DataError(f"tensor {name!r} is of type {dtype}, which is not known here", where=str(path))
    if end - begin != math.prod(shape) * ITEM_BYTES[dtype]:
        raise DataError(
            f"tensor {name!r} has {end - begin} bytes, its shape {list(shape)} wants others", where=str(path)
        )
    return TensorInfo(name, dtype, shape, path, data + begin, data + end)


def strict_json(path: Path) -> Any:
    """JSON of a file in which a key that comes twice is a DataError, as is all that is not JSON."""
    return _parse(read_bytes(path), path)


def _parse(raw: bytes, path: Path) -> Any:
    def table(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise DataError(f"holds the key {key!r} twice", where=str(path))
            found[key] = value
        return found

    try:
        return json.loads(raw, object_pairs_hook=table)
    except (ValueError, RecursionError) as error:
        raise DataError(f"cannot be read as JSON ({error})", where=str(path)) from error

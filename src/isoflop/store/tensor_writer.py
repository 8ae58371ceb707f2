"""Writing a safetensors directory: planned before the first byte, filled in any order, there as a whole or not at all.

Names, types and shapes are known beforehand, so files get their headers and their full size at once (a full disk is
found before any work is done), and each tensor has its place. What is done is noted in a journal after it is safe on
the disk; a writer that is killed leaves a hidden directory, and the same work started again goes on from there.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..core.errors import StorageError, UsageError
from ..core.files import append_jsonl, clear_leftovers, disk_errors, fsync_directory, mend_jsonl, take_lock, write_json
from ..core.reading import read_jsonl
from .safetensors_dir import ITEM_BYTES, TensorInfo

JOURNAL = "journal.jsonl"
UNFINISHED = ".unfinished-"
"""Prefix of directories that are not whole yet. Not that of ``core.files``, whose leftovers are swept."""
# The size at which Hugging Face's writers split, so that files look as their readers expect.
SHARD_BYTES = 5_000_000_000
_SLACK = 1 << 20  # for cards, configuration and the journal
_SAFE_EVERY = 256 << 20  # bytes after which data are forced to the disk and noted


@dataclass(frozen=True)
class Layout:
    """The files of a checkpoint before it is written: tensors by name, headers by file.

    Example:
        >>> layout = lay_out([("a", "F32", (2, 2)), ("b", "F32", (3,))])
        >>> list(layout.headers), layout.bytes
        (['model.safetensors'], 180)
    """

    tensors: dict[str, TensorInfo]
    headers: dict[str, bytes]

    @property
    def bytes(self) -> int:
        """Size of all files together."""
        return sum(map(len, self.headers.values())) + sum(info.bytes for info in self.tensors.values())

    def index(self) -> dict[str, Any]:
        """Content of the index file of a sharded checkpoint."""
        size = sum(info.bytes for info in self.tensors.values())
        placed = {name: info.file.name for name, info in sorted(self.tensors.items())}
        return {"metadata": {"total_size": size}, "weight_map": placed}


def lay_out(
    tensors: Sequence[tuple[str, str, tuple[int, ...]]],
    shard_bytes: int = SHARD_BYTES,
    stem: str = "model",
    said: Mapping[str, str] | None = None,
) -> Layout:
    """Place tensors in as few shards as their order allows.

    Args:
        tensors: (name, the format's name of the type, shape), in the order in which they should lie.
        shard_bytes: largest shard; a tensor that is larger has a shard of its own.
        stem: file name without its ending.
        said: what each file's header says besides.

    Example:
        >>> layout = lay_out([("a", "F32", (100,)), ("b", "F32", (100,))], shard_bytes=400)
        >>> list(layout.headers)
        ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors']
    """
    shards: list[list[tuple[str, str, tuple[int, ...]]]] = [[]]
    room = shard_bytes
    for name, dtype, shape in tensors:
        size = math.prod(shape) * ITEM_BYTES[dtype]
        if shards[-1] and size > room:
            shards.append([])
            room = shard_bytes
        room -= size
        shards[-1].append((name, dtype, shape))
    placed: dict[str, TensorInfo] = {}
    headers = {}
    for number, shard in enumerate(shards, 1):
        file = f"{stem}.safetensors" if len(shards) == 1 else f"{stem}-{number:05}-of-{len(shards):05}.safetensors"
        infos, at = [], 0
        # wide types first, so that every tensor is aligned, as the format's own writer does
        for name, dtype, shape in sorted(shard, key=lambda entry: (-ITEM_BYTES[entry[1]], entry[0])):
            end = at + math.prod(shape) * ITEM_BYTES[dtype]
            infos.append(TensorInfo(name, dtype, shape, Path(file), at, end))
            at = end
        headers[file] = _header(infos, said or {})
        data = len(headers[file])
        placed |= {info.name: replace(info, begin=data + info.begin, end=data + info.end) for info in infos}
    return Layout(placed, headers)


def _header(infos: Sequence[TensorInfo], said: Mapping[str, str]) -> bytes:
    tree: dict[str, Any] = {"__metadata__": {"format": "pt", **said}}
    for info in infos:
        tree[info.name] = {"dtype": info.dtype, "shape": list(info.shape), "data_offsets": [info.begin, info.end]}
    text = json.dumps(tree, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


class Output:
    """A directory under way: see ``open_output``.

    Tensors are written in any order and in pieces; nothing is ever whole in memory, and what a kill leaves behind is
    taken up again.

    Attributes:
        path: the hidden directory that becomes the output.
        done: names of the tensors that are safe on the disk.

    Example:
        >>> layout = lay_out([("a", "F32", (2,))])
        >>> with open_output(Path("model"), layout, identity="0" * 64) as output:
        ...     output.write("a", 0, bytes(8))
        ...     output.finished("a")
        >>> sorted(path.name for path in Path("model").iterdir())
        ['model.safetensors']
    """

    def __init__(self, path: Path, layout: Layout) -> None:
        self.path, self.layout = path, layout
        self.done: set[str] = set()
        self.look()
        self._handles: dict[str, int] = {}
        self._pending: list[str] = []
        self._unsafe = 0

    def look(self) -> None:
        """Read the journal, to which other processes may have written."""
        self.done.update(name for record in read_jsonl(self.path / JOURNAL) for name in record["done"])

    def write(self, name: str, start: int, data: memoryview | bytes) -> None:
        """Put ``data`` at byte ``start`` of tensor ``name``."""
        info = self.layout.tensors[name]
        if start + len(data) > info.bytes:
            raise ValueError(f"{start + len(data)} bytes do not fit into tensor {name!r} of {info.bytes}")
        with disk_errors(self.path / info.file):
            handle, view = self._handle(info.file.name), memoryview(data)
            while len(view):
                count = os.pwrite(handle, view, info.begin + start)
                view, start = view[count:], start + count
        self._unsafe += len(data)

    def finished(self, name: str) -> None:
        """All bytes of tensor ``name`` have been written; it is noted when they are safe."""
        self._pending.append(name)
        if self._unsafe >= _SAFE_EVERY:
            self.flush()

    def flush(self) -> None:
        """Force everything to the disk, then note the finished tensors as done."""
        with disk_errors(self.path):
            for handle in self._handles.values():
                os.fdatasync(handle)
        if self._pending:
            append_jsonl(self.path / JOURNAL, {"done": self._pending})
            self.done.update(self._pending)
        self._pending, self._unsafe = [], 0

    def close(self) -> None:
        """Flush, and close the files."""
        self.flush()
        while self._handles:
            os.close(self._handles.popitem()[1])

    def _handle(self, file: str) -> int:
        if file not in self._handles:
            self._handles[file] = os.open(self.path / file, os.O_RDWR)
        return self._handles[file]


def partial_path(path: Path, identity: str) -> Path:
    """The hidden directory in which the work ``identity`` (a digest) fills the output ``path``."""
    return path.with_name(f"{UNFINISHED}{identity[:16]}-{path.name}")


def refuse_without_room(path: Path, layout: Layout, identity: str) -> None:
    """StorageError, before anything is done, if the output cannot be written: it exists, or the disk is too full."""
    if path.exists() or path.is_symlink():
        raise UsageError("exists already", where=str(path), fix="choose another output, or remove it")
    partial, parent = partial_path(path, identity), path.parent
    while not parent.exists() and parent != parent.parent:
        parent = parent.parent
    there = sum(file.stat().st_blocks * 512 for file in partial.glob("*.safetensors")) if partial.is_dir() else 0
    need, free = layout.bytes + _SLACK - there, shutil.disk_usage(parent).free
    if need > free:
        raise StorageError(
            f"not enough space: {need:,} bytes are needed, {free:,} are free", where=str(parent), fix="free some first"
        )


@contextlib.contextmanager
def open_output(path: Path, layout: Layout, identity: str) -> Iterator[Output]:
    """Yield an output to fill; when the block ends well it is synced and renamed to ``path``.

    An exception or a kill leaves the hidden directory, and the same call with the same ``identity`` continues it. What
    other work on the same ``path`` left behind is removed.

    Args:
        path: the output; must not exist.
        layout: what will be written.
        identity: digest of all that decides the bytes: recipe, sources, version.

    Raises:
        UsageError: ``path`` exists, or another process is filling it.
        StorageError: the disk has no room.

    Example:
        >>> layout = lay_out([("a", "F32", (2,))])
        >>> with open_output(Path("model"), layout, identity="0" * 64) as output:
        ...     output.write("a", 0, bytes(8))
        ...     output.finished("a")
        >>> Path("model/model.safetensors").is_file()
        True
    """
    refuse_without_room(path, layout, identity)
    partial = partial_path(path, identity)
    with disk_errors(path):
        partial.mkdir(parents=True, exist_ok=True)
    with _locked(partial, path):
        for other in path.parent.iterdir():
            if other != partial and other.name == partial_path(path, other.name.removeprefix(UNFINISHED)).name:
                _remove_unless_locked(other)
        _prepare(partial, layout)
        output = Output(partial, layout)
        try:
            yield output
        finally:
            output.close()
        output.look()
        missing = sorted(set(layout.tensors) - output.done)
        if missing:
            raise ValueError(f"tensor {missing[0]!r} was never finished")
        _publish(partial, path, layout)


def _prepare(partial: Path, layout: Layout) -> None:
    """Give every file its header and its full size, and the journal a whole last line; remove torn files."""
    clear_leftovers(partial)
    mend_jsonl(partial / JOURNAL)
    for file, header in layout.headers.items():
        size = max((info.end for info in layout.tensors.values() if info.file.name == file), default=len(header))
        with disk_errors(partial / file), open(partial / file, "a+b") as handle:
            os.posix_fallocate(handle.fileno(), 0, size)
        with disk_errors(partial / file), open(partial / file, "r+b") as handle:
            handle.write(header)


def _publish(partial: Path, path: Path, layout: Layout) -> None:
    if len(layout.headers) > 1:
        stem = next(iter(layout.headers)).rpartition("-00001-")[0]
        write_json(partial / f"{stem}.safetensors.index.json", layout.index())
    with disk_errors(path):
        for file in sorted(partial.iterdir()):
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        (partial / JOURNAL).unlink(missing_ok=True)
        fsync_directory(partial)
        partial.rename(path)
        fsync_directory(path.parent)


@contextlib.contextmanager
def _locked(partial: Path, path: Path) -> Iterator[None]:
    handle = os.open(partial, os.O_RDONLY)
    try:
        if not take_lock(handle):
            raise UsageError("is being written by another process", where=str(path), fix="wait for it")
        yield
    finally:
        os.close(handle)


def _remove_unless_locked(partial: Path) -> None:
    with contextlib.suppress(UsageError), _locked(partial, partial):
        shutil.rmtree(partial, ignore_errors=True)


def write_directory(path: Path, tensors: Mapping[str, tuple[str, tuple[int, ...], memoryview]], stem: str) -> None:
    """Write a few small tensors (an adapter's) into one file ``<stem>.safetensors`` of an existing directory.

    Args:
        path: the directory.
        tensors: name -> (the format's name of the type, shape, bytes).
        stem: the file's name without its ending.

    Example:
        >>> write_directory(Path(), {"a": ("F32", (2,), bytes(8))}, "adapter_model")
        >>> Path("adapter_model.safetensors").is_file()
        True
    """
    layout = lay_out([(name, dtype, shape) for name, (dtype, shape, _) in tensors.items()], 1 << 62, stem)
    with disk_errors(path), (path / f"{stem}.safetensors").open("wb") as file:
        file.write(next(iter(layout.headers.values())))
        for name in sorted(layout.tensors, key=lambda name: layout.tensors[name].begin):
            file.write(tensors[name][2])

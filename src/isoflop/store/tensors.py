"""Checkpoints as named tensors, read piece by piece: the one reader of safetensors directories.

Bytes are read where they lie, so that resident memory is what the caller holds, and not the pages of the files. Only a
model for use maps its weights (``Stored.mapped``). Tied weights are one tensor, as the configuration says.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.errors import DataError, NumericsError
from ..core.reading import opened, user_path
from .safetensors_dir import FLOATS, TensorInfo, read_directory, strict_json

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
NAMES: dict[torch.dtype, str] = {dtype: name for name, dtype in DTYPES.items()}
PIECE = 1 << 17
"""Elements read and combined at once: 512 KiB in fp32. Half as many cost calls, twice as many fresh pages of memory."""

HEADS = ("lm_head.weight", "embed_out.weight", "model.transformer.ff_out.weight")
_WITHIN = "language_model.lm_head.weight"  # the head of a text model that is part of another one
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight")
CARRIED = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
)
"""Files beside the weights that go with a checkpoint from which another one is made."""


class Checkpoint:
    """The tensors of a safetensors directory in Hugging Face's layout, read lazily.

    For weights that do not fit the memory, or of which a few are wanted: opening reads headers alone, ``read`` one
    tensor, ``flat`` pieces of one. Merging, compression and the doors to other libraries read through it.

    Args:
        directory: holds the weights and, mostly, ``config.json``.
        stem: the weights' file name without its ending.

    Attributes:
        tensors: name -> where it lies. Of tied weights only the embedding is listed.
        config: content of ``config.json``; empty where there is none.
        head: name that the output head has where it is stored apart; "" where the checkpoint has none.
        tied: the head is the embedding.

    Raises:
        DataError: the directory is not as the layout wants it; names file and tensor.

    Example, of two tensors of which one is read:
        >>> from isoflop.store.tensor_writer import write_directory
        >>> files = {"a": ("F32", (4,), as_bytes(torch.ones(4))), "b": ("F32", (2,), as_bytes(torch.zeros(2)))}
        >>> write_directory(Path(), files, "model")
        >>> checkpoint = Checkpoint(Path())
        >>> list(checkpoint.tensors), checkpoint.read("b").tolist()
        (['a', 'b'], [0.0, 0.0])
    """

    def __init__(self, directory: str | Path, stem: str = "model") -> None:
        self.path = user_path(directory)
        self._files: dict[Path, int] = {}
        self._maps: dict[Path, mmap.mmap] = {}
        self._hashes: dict[Path, _Hash] = {}
        self.tensors = read_directory(self.path, stem)
        config = self.path / "config.json"
        self.config: dict[str, Any] = strict_json(config) if config.exists() else {}
        if not isinstance(self.config, dict):
            raise DataError("is no table", where=str(config))
        self.embedding = next((name for name in self.tensors if name.endswith(EMBEDDINGS)), "")
        self.head = next((name for name in self.tensors if name in (*HEADS, _WITHIN)), "")
        self.tied = bool(self._text_config().get("tie_word_embeddings", not self.head)) and bool(self.embedding)
        if self.tied and self.head:
            self._forget_copy_of_head()

    def _text_config(self) -> dict[str, Any]:
        inner = self.config.get("text_config")
        return {**self.config, **inner} if isinstance(inner, dict) else self.config

    def _forget_copy_of_head(self) -> None:
        """Some writers store a tied head as well; a copy that says otherwise than the embedding is an error."""
        head, embedding = self.tensors[self.head], self.tensors[self.embedding]
        same = (head.shape, head.dtype) == (embedding.shape, embedding.dtype) and all(
            torch.equal(
                self._bytes(head, at, min(at + (1 << 22), head.bytes)), self._bytes(embedding, at, at + (1 << 22))
            )
            # 4 MiB at a time: neither tensor is ever whole in memory.
            for at in range(0, head.bytes, 1 << 22)
        )
        if not same:
            raise DataError(
                f"config.json ties the head to the embedding, but tensor {self.head!r} differs from {self.embedding!r}",
                where=str(head.file),
                fix="set tie_word_embeddings to false in config.json if the head is meant to be its own",
            )
        del self.tensors[self.head]

    @property
    def dtype(self) -> str:
        """The format's name of the type in which most elements are stored."""
        counts: dict[str, int] = {}
        for info in self.tensors.values():
            counts[info.dtype] = counts.get(info.dtype, 0) + info.numel
        return max(counts, key=lambda name: counts[name], default="F32")

    @property
    def layers(self) -> int:
        """Number of layers: one more than the highest number in a tensor's name; 0 without numbered layers."""
        numbers = [layer for name in self.tensors if (layer := layer_of(name)) is not None]
        return max(numbers, default=-1) + 1

    def files(self) -> list[Path]:
        """The files of the weights, sorted."""
        return sorted({info.file for info in self.tensors.values()})

    def hash_while_reading(self) -> None:
        """Hash the files as their bytes are read for the first time, so that ``digests`` need not read them again."""
        self._hashes = {file: _Hash() for file in self.files()}

    def digests(self) -> dict[str, str]:
        """SHA-256 of each file of the weights, by its name. What was not hashed while reading is read now."""
        return {file.name: self._hashes.pop(file, _Hash()).of(file) for file in self.files()}

    def carried(self) -> list[Path]:
        """Tokenizer, chat template and generation settings beside the weights."""
        return [self.path / name for name in CARRIED if (self.path / name).is_file()]

    def find(self, name: str) -> TensorInfo:
        """Where tensor ``name`` lies; a tied head is the embedding. DataError if there is none."""
        if name not in self.tensors and name in HEADS and self.tied:
            name = self.embedding
        if name not in self.tensors:
            raise DataError(f"has no tensor {name!r}", where=str(self.path))
        return self.tensors[name]

    def flat(self, name: str, dtype: torch.dtype | None = None) -> Stored:
        """Tensor ``name`` to be read piece by piece in ``dtype`` (None: as stored)."""
        return Stored(self, self.find(name), dtype)

    def read(self, name: str, dtype: torch.dtype | None = None) -> Tensor:
        """The whole tensor ``name`` in ``dtype`` (None: as stored)."""
        return self.flat(name, dtype).whole()

    def _bytes(self, info: TensorInfo, start: int, stop: int) -> Tensor:
        """Bytes ``start`` to ``stop`` of a tensor, as uint8."""
        return self._fill(torch.empty(min(stop, info.bytes) - start, dtype=torch.uint8), info, start)

    def _fill(self, buffer: Tensor, info: TensorInfo, start: int) -> Tensor:
        """As many bytes of a tensor as ``buffer`` (uint8) has room for, from byte ``start`` on."""
        if info.file not in self._files:
            self._files[info.file] = os.open(info.file, os.O_RDONLY)
        view, done = memoryview(buffer.numpy().data), 0
        while done < len(view):  # one call reads at most 2 GiB
            count = os.preadv(self._files[info.file], [view[done:]], info.begin + start + done)
            if count <= 0:
                raise DataError(f"ends within tensor {info.name!r}", where=str(info.file))
            done += count
        if info.file in self._hashes:
            self._hashes[info.file].see(info.file, info.begin + start, view)
        return buffer

    def _pages(self, info: TensorInfo) -> mmap.mmap:
        """The file of a tensor, mapped; what is written to the pages stays this process's."""
        if info.file not in self._maps:
            with opened(info.file) as handle:
                self._maps[info.file] = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_COPY)
        return self._maps[info.file]

    def close(self) -> None:
        """Close the files; reading opens them again."""
        while self._files:
            os.close(self._files.popitem()[1])

    def __del__(self) -> None:
        self.close()


class _Hash:
    """SHA-256 of a file of which pieces pass by: those that come next are taken, the rest is read at the end."""

    def __init__(self) -> None:
        self.sum, self.place = hashlib.sha256(), 0

    def see(self, file: Path, begin: int, data: memoryview) -> None:
        """Bytes of the file from ``begin`` on."""
        if not self.place:  # the header was read by another way
            with opened(file) as handle:
                length = int.from_bytes(handle.read(8), "little")
                handle.seek(0)
                self.sum.update(handle.read(8 + length))
                self.place = 8 + length
        if begin == self.place:
            self.sum.update(data)
            self.place += len(data)

    def of(self, file: Path) -> str:
        """The whole file's."""
        with opened(file) as handle:
            handle.seek(self.place)
            while data := handle.read(1 << 20):
                self.sum.update(data)
        return self.sum.hexdigest()


class Stored:
    """A tensor of a checkpoint, not loaded: see ``Checkpoint.flat``. It is a ``Flat``, as ``HeldTensor`` is.

    Example, of four numbers of which two are read:
        >>> from isoflop.store.tensor_writer import write_directory
        >>> write_directory(Path(), {"w": ("F32", (4,), as_bytes(torch.arange(4.0)))}, "model")
        >>> Checkpoint(Path()).flat("w").piece(1, 3).tolist()
        [1.0, 2.0]
    """

    def __init__(self, checkpoint: Checkpoint, info: TensorInfo, dtype: torch.dtype | None) -> None:
        self._checkpoint, self.info = checkpoint, info
        self.dtype = dtype or DTYPES[info.dtype]
        self.shape, self.numel = info.shape, info.numel

    def piece(self, start: int, stop: int) -> Tensor:
        """Elements [start, stop) of the flattened tensor, 1-D.

        Raises:
            NumericsError: one of them is not finite.
        """
        stored = DTYPES[self.info.dtype]
        raw = self._checkpoint._bytes(self.info, start * stored.itemsize, stop * stored.itemsize).view(stored)
        if self.info.dtype in FLOATS:
            refuse_not_finite(raw, self.info)
        return raw.to(self.dtype)

    def whole(self) -> Tensor:
        """The tensor in its shape."""
        return self.piece(0, self.numel).reshape(self.shape)

    def mapped(self) -> Tensor | None:
        """The tensor as it lies in its file, whose pages come as they are used and are copied when they are changed.

        None where it does not lie on a multiple of its elements' size. The file must stay as it is while it is used.

        Raises:
            NumericsError: an element is not finite.
        """
        stored = DTYPES[self.info.dtype]
        if self.info.begin % stored.itemsize or not self.numel:
            return None
        pages = self._checkpoint._pages(self.info)
        found = torch.frombuffer(pages, dtype=stored, count=self.numel, offset=self.info.begin)
        if self.info.dtype in FLOATS:
            for start, stop in pieces(self.numel):
                refuse_not_finite(found[start:stop], self.info)
        return found.view(self.shape)

    def into(self, target: Tensor) -> None:
        """Put the tensor into one of its shape; where the type is the stored one, without a copy on the way.

        Raises:
            NumericsError: an element is not finite.
        """
        flat, stored = target.detach().view(-1), DTYPES[self.info.dtype]
        direct = target.device.type == "cpu" and target.dtype == stored
        for start, stop in pieces(self.numel, PIECE << 3):
            if not direct:
                flat[start:stop] = self.piece(start, stop)
                continue
            place = flat[start:stop].view(torch.uint8)
            self._checkpoint._fill(place, self.info, start * stored.itemsize)
            if self.info.dtype in FLOATS:
                refuse_not_finite(flat[start:stop], self.info)


class HeldTensor:
    """A tensor in memory behind the same door as a stored one.

    Example:
        >>> HeldTensor(torch.arange(4.0)).piece(1, 3).tolist()
        [1.0, 2.0]
    """

    def __init__(self, tensor: Tensor) -> None:
        self._tensor, self.shape, self.numel, self.dtype = tensor, tuple(tensor.shape), tensor.numel(), tensor.dtype

    def piece(self, start: int, stop: int) -> Tensor:
        """Elements [start, stop) of the flattened tensor, 1-D; not to be changed."""
        return self._tensor.reshape(-1)[start:stop]

    def whole(self) -> Tensor:
        """The tensor in its shape; not to be changed."""
        return self._tensor


Flat = Stored | HeldTensor
"""A tensor that is read piece by piece: shape, numel, dtype, piece(start, stop), whole()."""


def pieces(numel: int, length: int = PIECE) -> Iterator[tuple[int, int]]:
    """(start, stop) of consecutive pieces that cover [0, numel).

    Example:
        >>> list(pieces(10, 4))
        [(0, 4), (4, 8), (8, 10)]
    """
    for start in range(0, numel, length):
        yield start, min(start + length, numel)


def refuse_not_finite(values: Tensor, info: TensorInfo) -> None:
    """NumericsError that names tensor and file if a value is NaN or infinite."""
    # A finite sum proves finite terms and reads memory once; only an overflow of the sum needs the second look. bf16
    # has the range of fp32, in which torch adds it up; a sum that is asked for in fp32 takes three times as long.
    wide = values.dtype if values.dtype == torch.bfloat16 else torch.promote_types(values.dtype, torch.float32)
    if bool(torch.isfinite(values.sum(dtype=wide))):
        return
    bad = int((~torch.isfinite(values)).sum())
    if bad:
        raise NumericsError(
            f"tensor {info.name!r} holds NaN or infinity ({bad} of the {values.numel()} values looked at)",
            where=str(info.file),
            fix="a broken checkpoint is of no use: leave it out, or restore it from a copy",
        )


def layer_of(name: str) -> int | None:
    """The number of the layer that a tensor belongs to: the first component of its name that is a number.

    Example:
        >>> layer_of("model.layers.3.mlp.up.weight"), layer_of("embed.weight")
        (3, None)
    """
    return next((int(piece) for piece in name.split(".") if piece.isascii() and piece.isdecimal()), None)


def as_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a tensor, row-major."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")


def convert_pickled(files: Sequence[Path]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of pickled checkpoints by name, loaded without running any code of theirs.

    Raises:
        DataError: a file holds more than tensors, or two files hold one name.
    """
    seen: dict[str, Path] = {}
    for file in files:
        try:
            tree = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:  # the unpickler's refusals are of many types
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DataError(f"cannot be read as tensors alone ({reason})", where=str(file)) from error
        tree = tree.get("state_dict", tree) if isinstance(tree, dict) else tree
        if not isinstance(tree, dict) or not all(isinstance(value, Tensor) for value in tree.values()):
            raise DataError("holds something else than named tensors", where=str(file))
        for name, tensor in tree.items():
            if name in seen:
                raise DataError(f"tensor {name!r} lies in {seen[name].name} too", where=str(file))
            seen[name] = file
            yield name, tensor

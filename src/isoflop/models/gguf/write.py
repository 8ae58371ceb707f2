"""Write a GGUF file: keys, vocabulary, tensors one at a time; there as a whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ...core.errors import DataError, NumericsError, UsageError, nearest
from ...core.files import publish_file
from ...core.reading import user_path
from ...store.safetensors_dir import TensorInfo
from ..hf.directory import Published
from .blocks import BITS, BLOCK, as_they_lie
from .families import GgufFamily, family_of, heads_of, keys, refuse_unlike, rope_factors
from .vocabulary import GgufVocabulary, read_vocabulary

TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0")
"""Types of matrices; vectors are always fp32. q8_0, q4_0: blocks of 32 integers of 8 or 4 bits with a scale in fp16."""


def write_gguf(directory: str | Path, out: str | Path, kind: str = "f16") -> list[str]:
    """Write a model in Hugging Face's layout as one GGUF file.

    Args:
        directory: configuration, safetensors and ``tokenizer.json``.
        out: the file, which must not exist.
        kind: type of the matrices, one of ``TYPES``. Of q8_0 and q4_0, a matrix whose rows are no multiple of 32 long
            is f16, and of q4_0 so are embeddings and head. A matrix that was rounded to such integers before keeps its
            numbers, but for scales that are none of fp16.

    Returns:
        What llama.cpp will do otherwise than the model, in sentences; mostly nothing.

    Raises:
        UsageError: ``out`` exists, the type is not known, or the package gguf is missing.
        DataError: llama.cpp has no such family, tokenizer or setting.
        NumericsError: a value is not finite, or too large for fp16.
        StorageError: the disk refused.

    Example:
        >>> write_gguf("no-model-here", "model.gguf", "q8")
        Traceback (most recent call last):
            ...
        isoflop.core.errors.UsageError: export: no GGUF type 'q8'; did you mean q8_0? (legal: bf16, f16, ...)
    """
    if kind not in TYPES:
        raise UsageError(f"no GGUF type {kind!r}", where="export", fix=nearest(kind, TYPES))
    package = _package()
    out = user_path(out)
    if out.exists():
        raise UsageError("exists already", where=str(out), fix="name another file")
    published = Published(directory)
    family, notes = family_of(published.config), list[str]()
    tensors = list(_tensors(package, family, published))
    refuse_unlike(family, published.config, published.part.tied)
    found = list(keys(family, published, notes.append))
    heads, kv_heads, _ = heads_of(published.part)
    vocabulary = read_vocabulary(published.path, published.vocab_size, notes.append)
    with publish_file(out) as partial, closing(package.GGUFWriter(partial, family.name)) as writer:
        writer.add_name(published.path.name.encode(errors="replace").decode())
        writer.add_file_type({"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 7, "bf16": 32}[kind])
        if kind in BITS:
            writer.add_quantization_version(package.GGML_QUANT_VERSION)
        for key, value in found:
            _add(writer, f"{family.name}.{key}", value)
        _add_vocabulary(writer, vocabulary)
        factors = rope_factors(published.part)
        if factors is not None:
            writer.add_tensor_info("rope_freqs.weight", factors.shape, np.dtype(np.float32), factors.numel() * 4)
        types = {name: _type(package, kind, name, info.shape) for name, info in tensors}
        for name, info in tensors:
            shape = tuple(family.tensor(info.name, torch.empty(info.shape, device="meta"), heads, kv_heads).shape)
            size = _bytes(package, shape, types[name])
            writer.add_tensor_info(name, shape, np.dtype(np.float32), size, raw_dtype=types[name])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        if factors is not None:
            writer.write_tensor_data(factors.numpy())
        for name, info in tensors:
            tensor = family.tensor(info.name, published.checkpoint.read(info.name, torch.float32), heads, kv_heads)
            writer.write_tensor_data(_encoded(package, tensor.numpy(), types[name], info))
    return notes


def _package() -> Any:
    try:
        import gguf
    except ImportError:
        raise UsageError(
            "GGUF files are written by the package gguf, which is not installed",
            where="export",
            fix="pip install 'isoflop[gguf]'",
        ) from None
    return gguf


def _add(writer: Any, key: str, value: Any) -> None:
    """One key with the kind that llama.cpp expects."""
    {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}[type(value)](
        key, value
    )


def _add_vocabulary(writer: Any, vocabulary: GgufVocabulary) -> None:
    writer.add_tokenizer_model(vocabulary.model)
    if vocabulary.rule:
        writer.add_tokenizer_pre(vocabulary.rule)
    elif vocabulary.model == "llama":
        writer.add_tokenizer_pre("default")
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    if vocabulary.merges:
        writer.add_token_merges(vocabulary.merges)
    if vocabulary.scores:
        writer.add_token_scores(vocabulary.scores)
    for key, value in vocabulary.extra.items():
        _add(writer, f"tokenizer.ggml.{key}", value)
    if vocabulary.chat_template:
        writer.add_chat_template(vocabulary.chat_template)


def _tensors(package: Any, family: GgufFamily, published: Published) -> Iterator[tuple[str, TensorInfo]]:
    """llama.cpp's name of each tensor and where it lies, in the order of the files."""
    architecture = {name: number for number, name in package.MODEL_ARCH_NAMES.items()}[family.name]
    names = package.get_tensor_name_map(architecture, published.part.layers)
    located = published.located()
    for name, info in sorted(located.items(), key=lambda item: (item[1].file.name, item[1].begin)):
        there = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if there is None:
            what = f"holds the tensor {info.name!r}, which llama.cpp's {family.name} has not"
            raise DataError(what, where=str(info.file), fix="export the model again, or another one")
        yield there, info
    if published.part.tied and family.separate_head:
        yield "output.weight", published.checkpoint.tensors[published.checkpoint.embedding]


def _type(package: Any, kind: str, name: str, shape: tuple[int, ...]) -> Any:
    """The format's type of a tensor, by llama.cpp's name."""
    types = package.GGMLQuantizationType
    if len(shape) < 2:
        return types.F32
    if kind in BITS and (shape[-1] % BLOCK or (kind == "q4_0" and not name.startswith("blk."))):
        return types.F16
    return types[kind.upper()]


def _bytes(package: Any, shape: tuple[int, ...], kind: Any) -> int:
    block, size = package.GGML_QUANT_SIZES[kind]
    count = int(np.prod(shape))
    return int(count // block * size)


def _encoded(package: Any, values: npt.NDArray[np.float32], kind: Any, info: TensorInfo) -> npt.NDArray[Any]:
    """A tensor's numbers in the format's type; NumericsError where they do not fit."""
    if kind == package.GGMLQuantizationType.F32:
        encoded: npt.NDArray[Any] = values
    else:
        with np.errstate(over="ignore"):
            kept = as_they_lie(values, kind.name.lower())
            encoded = package.quants.quantize(values, kind) if kept is None else kept
    fits = np.isfinite(values).all() and (encoded.dtype != np.float16 or np.isfinite(encoded).all())
    if not fits:
        what = f"tensor {info.name!r} holds values that are not finite in {kind.name.lower()}"
        raise NumericsError(what, where=str(info.file), fix="write f32 or bf16, or take another checkpoint")
    return encoded

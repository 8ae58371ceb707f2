"""Integers as torchao's tensors, written without it: what ``torchao.prototype.safetensors`` and transformers read.

torchao keeps each code in a byte. ``Int8Tensor`` is the one with a kernel of its own (a scale a row); integers of fewer
bits are ``IntxUnpackedToInt8Tensor``, which torchao dequantises, and which its exporters pack for the machines that
have kernels. Its MX tensors have products with rounded activations alone, so that weights in MX have no form there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .packing import integer_codes

TorchaoGrid = tuple[int, int | None]
"""Bits, and weights of a row that share a scale (None: the row)."""


def torchao_tensors(weight: Tensor, grid: TorchaoGrid, dtype: str) -> tuple[dict[str, Tensor], str]:
    """A matrix's tensors by the part that they play, and what the file's header says of it.

    Args:
        weight: (rows, columns), fp32, on a grid of integers.
        grid: that grid; its blocks divide the columns.
        dtype: "float32", "bfloat16" or "float16": what the weight is dequantised to.

    Raises:
        UsageError: the weight does not lie on the grid.

    Example:
        >>> made, said = torchao_tensors(torch.tensor([[7.0, -3.0, 0.0, 1.0]]), (4, None), "float32")
        >>> made["qdata"].tolist(), made["scale"].tolist(), json.loads(said)["_type"]
        ([[7, -3, 0, 1]], [[1.0]], 'IntxUnpackedToInt8Tensor')
    """
    bits, block = grid
    codes, scales = integer_codes(weight, bits, block)
    facts: dict[str, Any] = {"block_size": [1, block or weight.shape[1]], "dtype": _named(dtype)}
    tensors = {"qdata": codes, "scale": scales.float()}
    if bits == 8:
        return tensors, _said("Int8Tensor", {**facts, "act_quant_kwargs": None, "reduce_range": False}, tensors)
    tensors["scale"] = scales.to(getattr(torch, dtype))
    tensors["zero_point"] = torch.zeros_like(scales, dtype=torch.int8)
    facts |= {"target_dtype": _named(f"int{bits}"), "activation_quantization": None}
    return tensors, _said("IntxUnpackedToInt8Tensor", facts, tensors)


def torchao_names(name: str, part: str) -> str:
    """The name of a part of a matrix in the file."""
    module, _, parameter = name.rpartition(".")
    return f"{module}._{parameter}_{part}"


def torchao_header(said: Mapping[str, str], plain: list[str]) -> dict[str, str]:
    """What the file's header says of all tensors: ``said`` of each matrix by its name, and of the plain ones."""
    whole = {**said, **dict.fromkeys(plain, json.dumps({"_type": "Tensor"}))}
    return {**whole, "tensor_names": json.dumps(list(whole))}


def torchao_config(grids: Mapping[str, TorchaoGrid], plain: list[str]) -> dict[str, Any]:
    """``quantization_config`` of a directory, as transformers writes a ``TorchAoConfig``.

    Args:
        grids: by the modules' names.
        plain: names of linear modules that stay as they are.
    """
    kinds = {grid: _config(grid) for grid in grids.values()}
    if len(kinds) == 1:
        (config,) = kinds.values()
    else:
        config = {"_type": "FqnToConfig", "_version": 1}
        config["_data"] = {"fqn_to_config": {module: kinds[grid] for module, grid in grids.items()}}
    return {
        "quant_method": "torchao",
        "quant_type": {"default": config},
        "modules_to_not_convert": plain,
        "include_input_output_embeddings": False,
        "untie_embedding_weights": False,
    }


def _config(grid: TorchaoGrid) -> dict[str, Any]:
    bits, block = grid
    group = {"_type": "PerGroup", "_version": 1, "_data": {"group_size": block}}
    if bits == 8:
        rows = group if block else {"_type": "PerRow", "_version": 1, "_data": {"dim": -1}}
        return {"_type": "Int8WeightOnlyConfig", "_version": 2, "_data": {"granularity": rows}}
    rows = group if block else {"_type": "PerAxis", "_version": 1, "_data": {"axis": 0}}
    data = {"weight_dtype": _named(f"int{bits}"), "granularity": rows}
    return {"_type": "IntxWeightOnlyConfig", "_version": 2, "_data": data}


def _named(dtype: str) -> dict[str, str]:
    return {"_type": "torch.dtype", "_data": dtype}


def _said(kind: str, data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    return json.dumps({"_type": kind, "_data": data, "_tensor_data_names": list(tensors)})

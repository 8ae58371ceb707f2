"""Adapters as PEFT stores them: ``adapter_config.json`` beside ``adapter_model.safetensors``."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..core.errors import DataError
from ..core.files import publish_directory, write_json
from ..core.reading import read_json
from ..store.tensor_writer import write_directory
from ..store.tensors import NAMES, Checkpoint, as_bytes
from .lora import Adapter, Factor, scale_of

CONFIG, STEM = "adapter_config.json", "adapter_model"
_PREFIX = "base_model.model."
_PIECE = re.compile(r"(?P<module>.+)\.lora_(?P<kind>A|B|embedding_A|embedding_B|magnitude_vector)(\.weight)?")
_UNSUPPORTED = (
    "use_qalora",
    "use_bdlora",
    "kasa_config",
    "alora_invocation_tokens",
    "arrow_config",
    "layer_replication",
    "lora_bias",
    "megatron_config",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "velora_config",
)


def read_adapter(directory: str | Path) -> Adapter:
    """A LoRA adapter in PEFT's layout: rsLoRA, DoRA, rank and alpha patterns, embeddings, modules trained whole.

    Raises:
        DataError: the files are damaged, or are of a kind that is not LoRA as it is known here.
    """
    path = Path(directory)
    config = read_json(path / CONFIG)
    if not isinstance(config, dict):
        raise DataError("is no table", where=str(path / CONFIG))
    if config.get("peft_type") != "LORA":
        raise DataError(f"peft_type is {config.get('peft_type')!r}, only LORA is known", where=str(path / CONFIG))
    odd = [key for key in _UNSUPPORTED if config.get(key)]
    if odd:
        raise DataError(f"uses {', '.join(odd)}, which is not known here", where=str(path / CONFIG))
    checkpoint = Checkpoint(path, STEM)
    pieces: dict[str, dict[str, Tensor]] = {}
    saved: dict[str, Tensor] = {}
    for name in checkpoint.tensors:
        tensor, inner = checkpoint.read(name), name.removeprefix(_PREFIX)
        found = _PIECE.fullmatch(inner)
        if found is None:
            saved[inner.replace(".base_layer.", ".")] = tensor
        else:
            pieces.setdefault(found["module"], {})[found["kind"]] = tensor
    modules = {name: _factor(config, name, held, path) for name, held in pieces.items()}
    return Adapter(modules, saved, bool(config.get("fan_in_fan_out")), config)


def _factor(config: Mapping[str, Any], module: str, held: Mapping[str, Tensor], path: Path) -> Factor:
    where = str(path / f"{STEM}.safetensors")
    prefix = "embedding_" if "embedding_A" in held else ""
    a, b = held.get(f"{prefix}A"), held.get(f"{prefix}B")
    if a is None or b is None:
        raise DataError(f"module {module!r} has only one of its two factors", where=where)
    if a.dim() != 2 or b.dim() != 2 or a.shape[0] != b.shape[1]:
        shapes = f"{list(a.shape)} and {list(b.shape)}"
        raise DataError(f"the factors of module {module!r} do not fit each other: {shapes}", where=where)
    rank = _by_pattern(config.get("rank_pattern"), module, config.get("r"), path)
    if rank != a.shape[0]:
        raise DataError(f"module {module!r} has rank {a.shape[0]}, {CONFIG} says {rank}", where=where)
    alpha = _by_pattern(config.get("alpha_pattern"), module, config.get("lora_alpha"), path)
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or abs(alpha) > sys.float_info.max:
        raise DataError(f"lora_alpha is {alpha!r}", where=str(path / CONFIG))
    scale = scale_of(alpha, a.shape[0], rslora=bool(config.get("use_rslora")))
    return Factor(a, b, scale, "embedding" if prefix else "linear", held.get("magnitude_vector"))


def _by_pattern(patterns: Any, module: str, default: Any, path: Path) -> Any:
    """The value of the first pattern that matches the end of a module's path, as PEFT chooses it."""
    if not isinstance(patterns or {}, dict):
        raise DataError("rank_pattern or alpha_pattern is no table", where=str(path / CONFIG))
    for pattern, value in (patterns or {}).items():
        try:
            if re.match(rf"(.*\.)?({pattern})$", module):
                return value
        except re.error as error:
            raise DataError(f"{pattern!r} is no pattern ({error})", where=str(path / CONFIG)) from error
    return default


def write_adapter(adapter: Adapter, out: str | Path) -> None:
    """Write an adapter that any PEFT user loads; ``out`` must not exist. Scales are folded into A.

    Ranks that differ go to ``rank_pattern`` and ``alpha_pattern`` by the modules' full paths.
    """
    folded = {name: _folded(factor) for name, factor in adapter.modules.items()}
    with publish_directory(Path(out)) as partial:
        write_json(partial / CONFIG, _config(adapter, folded))
        tensors: dict[str, Tensor] = {}
        for name, factor in folded.items():
            middle, end = ("lora_embedding_", "") if factor.kind == "embedding" else ("lora_", ".weight")
            tensors[f"{_PREFIX}{name}.{middle}A{end}"] = factor.a
            tensors[f"{_PREFIX}{name}.{middle}B{end}"] = factor.b
            if factor.magnitude is not None:
                tensors[f"{_PREFIX}{name}.lora_magnitude_vector"] = factor.magnitude
        for name, tensor in adapter.saved.items():
            module, _, end = name.rpartition(".")
            tensors[_PREFIX + (f"{module}.base_layer.{end}" if module in folded else name)] = tensor
        described = {n: (NAMES[t.dtype], tuple(t.shape), as_bytes(t)) for n, t in sorted(tensors.items())}
        write_directory(partial, described, STEM)


def _folded(factor: Factor) -> Factor:
    a = factor.a if factor.scale == 1 else (factor.a.double() * factor.scale).to(factor.a.dtype)
    return Factor(a.contiguous(), factor.b.contiguous(), 1.0, factor.kind, factor.magnitude)


def _config(adapter: Adapter, folded: Mapping[str, Factor]) -> dict[str, Any]:
    ranks = Counter(factor.rank for factor in folded.values())
    rank = ranks.most_common(1)[0][0] if ranks else 1
    others = {rf"{re.escape(name)}": factor.rank for name, factor in folded.items() if factor.rank != rank}
    ends: dict[str, set[str]] = {}
    for name in folded:
        ends.setdefault(name.rpartition(".")[2], set()).add(name)
    whole = {name.rpartition(".")[0] for name in adapter.saved if not name.endswith(".bias")} - set(folded)
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "bias": "none",
        "lora_dropout": 0.0,
        "inference_mode": True,
        **adapter.config,
        "fan_in_fan_out": adapter.fan_in_fan_out,
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": others,
        "alpha_pattern": dict(others),
        "use_rslora": False,
        "use_dora": any(factor.magnitude is not None for factor in folded.values()),
        "target_modules": sorted(folded),
        "exclude_modules": None,
        "layers_to_transform": None,
        "layers_pattern": None,
        "modules_to_save": sorted(name for name in whole if name) or None,
        "init_lora_weights": True,
    }

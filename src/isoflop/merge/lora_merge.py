"""Adapters and whole checkpoints: folding an adapter into its base, and extracting one from a fine-tuned model."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from .. import __version__
from ..core.digests import digest
from ..core.errors import DataError, RecipeError, UsageError
from ..core.files import write_atomic, write_json
from ..store.safetensors_dir import FLOATS, TensorInfo
from ..store.tensor_writer import lay_out, open_output
from ..store.tensors import HEADS, PIECE, Checkpoint, as_bytes, pieces
from .configuration import refuse_other_architectures, shown
from .lora import Adapter, Factor, extracted, merged_weight
from .lora_files import read_adapter
from .tasks import is_before_layers

_CONV1D = frozenset({"gpt2", "gpt_bigcode", "openai-gpt", "imagegpt"})
"""Kinds of models whose matrices are stored (in, out)."""


@dataclass(frozen=True)
class Extraction:
    """An adapter taken out of a fine-tuned model, and what it does not carry.

    Attributes:
        adapter: the low-rank updates, and whole tensors where they were asked for.
        errors: module -> relative error of its update at the rank.
        left: tensors that differ and are in neither.

    Example:
        >>> made = Extraction(Adapter({}), errors={"layers.0.q": 0.02}, left=["norm.weight"])
        >>> max(made.errors.values())
        0.02
    """

    adapter: Adapter
    errors: dict[str, float]
    left: list[str]


def fold(base: str | Path, adapter: str | Path, out: str | Path, *, sign: float = 1.0) -> None:
    """Write the base with the adapter merged into it, tensor by tensor; ``out`` appears as a whole.

    Args:
        base: directory of the checkpoint that the adapter was trained on.
        adapter: directory in PEFT's layout.
        out: must not exist.
        sign: -1 takes a merged adapter off again.

    Raises:
        RecipeError: the adapter belongs to another base; names module and file.
    """
    checkpoint, lora, target = Checkpoint(base), read_adapter(adapter), Path(out)
    updates, untied = fitted(checkpoint, lora, Path(adapter))
    names = [*checkpoint.tensors, *([untied] if untied else [])]
    infos = {name: checkpoint.find(name) for name in names}
    layout = lay_out([(name, info.dtype, info.shape) for name, info in infos.items()])
    sources = [
        (str(file.resolve()), file.stat().st_mtime_ns)
        for file in (*checkpoint.files(), *Checkpoint(adapter, "adapter_model").files())
    ]
    with open_output(target, layout, digest([__version__, "fold", sign, sources])) as output:
        for name, info in infos.items():
            if name in output.done:
                continue
            if name in updates or name in lora.saved:
                tensor = lora.saved[name] if name in lora.saved else checkpoint.read(name)
                if name in updates:
                    turned = lora.fan_in_fan_out and name not in HEADS
                    tensor = merged_weight(tensor, updates[name], transposed=turned, sign=sign)
                output.write(name, 0, as_bytes(tensor.to(checkpoint.flat(name).dtype)))
            else:
                item = info.bytes // max(info.numel, 1)
                for start, stop in pieces(info.numel, PIECE):
                    output.write(name, start * item, as_bytes(checkpoint.flat(name).piece(start, stop)))
            output.finished(name)
        output.close()
        for file in checkpoint.carried():
            write_atomic(output.path / file.name, file.read_bytes())
        if checkpoint.config:
            write_json(output.path / "config.json", _config(checkpoint, bool(untied)))
        write_atomic(output.path / "README.md", _card(checkpoint, Path(adapter), sign))


def _config(checkpoint: Checkpoint, untied: bool) -> dict[str, object]:
    config = copy.deepcopy(checkpoint.config)
    if untied and config.get("tie_word_embeddings", True):
        config["tie_word_embeddings"] = False
    return config


def _card(checkpoint: Checkpoint, adapter: Path, sign: float) -> str:
    files = {str(checkpoint.path): checkpoint.digests(), str(adapter): Checkpoint(adapter, "adapter_model").digests()}
    verb = "with the adapter merged into it" if sign > 0 else "with the adapter taken off"
    rows = [f"| `{shown(path)}` | {file} | {sha} |" for path, found in files.items() for file, sha in found.items()]
    head = ["---", f"base_model: {json.dumps([str(checkpoint.path)])}", "tags: [merge, isoflop]", "---", ""]
    return "\n".join(
        [
            *head,
            f"The base {verb} by isoflop {__version__}.",
            "",
            "| source | file | SHA-256 |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )


def fitted(checkpoint: Checkpoint, lora: Adapter, path: Path) -> tuple[dict[str, Factor], str]:
    """Name of a tensor -> its update; and the head's name, if it is tied and the adapter makes it a tensor of its own.

    Raises:
        RecipeError: the adapter belongs to another base; names module and file.
    """
    updates = {_weight_name(checkpoint, name, path): factor for name, factor in lora.modules.items()}
    return updates, _refuse_misfits(checkpoint, lora, updates, path)


def _weight_name(checkpoint: Checkpoint, module: str, adapter: str | Path) -> str:
    name = f"{module}.weight"
    if name in checkpoint.tensors or (name in HEADS and checkpoint.tied):
        return name
    bare = name.partition(".")[2]  # the base was saved without its head, whose model has a name before all others
    if bare in checkpoint.tensors:
        return bare
    raise RecipeError(
        [f"adapts module {module!r}, which {checkpoint.path} does not have: an adapter for another base"],
        source=str(adapter),
    )


def _refuse_misfits(checkpoint: Checkpoint, lora: Adapter, updates: dict[str, Factor], path: Path) -> str:
    """RecipeError if a shape does not fit; the head's name if it is tied and needs a tensor of its own."""
    for name, factor in updates.items():
        shape = tuple(checkpoint.find(name).shape)
        wanted = (factor.b.shape[0], factor.a.shape[1])
        if factor.kind == "embedding" or (lora.fan_in_fan_out and name not in HEADS):
            wanted = wanted[::-1]
        if shape != wanted:
            turned = (
                "; is fan_in_fan_out set as it should be?" if shape == wanted[::-1] else ": an adapter for another base"
            )
            raise RecipeError(
                [f"updates {name!r} by {list(wanted)}, but it has shape {list(shape)} in {checkpoint.path}{turned}"],
                source=str(path),
            )
    for name, tensor in lora.saved.items():
        there = name in checkpoint.tensors or (name in HEADS and checkpoint.tied)
        if not there or tuple(checkpoint.find(name).shape) != tuple(tensor.shape):
            raise RecipeError(
                [f"replaces tensor {name!r}, which {checkpoint.path} does not have in that shape"], source=str(path)
            )
    return next((name for name in (*updates, *lora.saved) if name not in checkpoint.tensors), "")


def extract(
    base: str | Path, tuned: str | Path, rank: int, *, rest: bool = False, targets: Sequence[str] = ()
) -> Extraction:
    """A LoRA of ``rank`` from the difference of two checkpoints, by truncated SVD of each matrix.

    Args:
        base: directory of the model before fine-tuning.
        tuned: directory of the model after it.
        rank: at most; a matrix with fewer rows or columns has less.
        rest: carry other modules that differ (embeddings, norms) whole; biases of adapted modules cannot be carried.
        targets: ends of module names; none: every matrix but embeddings.

    Raises:
        RecipeError: the checkpoints do not have the same tensors.
    """
    if rank < 1:
        raise UsageError(f"rank is {rank}, at least 1 is needed")
    one, two = Checkpoint(base), Checkpoint(tuned)
    refuse_other_architectures([one, two])
    modules: dict[str, Factor] = {}
    errors: dict[str, float] = {}
    left: list[str] = []
    turned = one.config.get("model_type") in _CONV1D
    for name in dict.fromkeys([*one.tensors, *two.tensors]):
        info = _common(one, two, name)
        if info.dtype not in FLOATS:
            continue
        difference = two.read(name, torch.float64) - one.read(name, torch.float64)
        if not bool(difference.any()):
            continue
        module = name.removesuffix(".weight")
        matrix = difference.dim() == 2 and name.endswith(".weight") and not is_before_layers(name) and name not in HEADS
        wanted = not targets or any(module == end or module.endswith(f".{end}") for end in targets)
        if matrix and wanted:
            update = difference.T if turned else difference
            modules[module], errors[module] = extracted(update.float(), rank)
        else:
            left.append(name)
    if not modules:
        raise DataError("no matrix differs from the base's: there is nothing to extract", where=str(tuned))
    whole = {name.rpartition(".")[0] for name in left} - set(modules) if rest else set()
    saved = {name: two.read(name) for name in two.tensors if name.rpartition(".")[0] in whole}
    left = [name for name in left if name not in saved]
    adapter = Adapter(modules, saved, turned, {"base_model_name_or_path": str(base)})
    return Extraction(adapter, errors, left)


def _common(one: Checkpoint, two: Checkpoint, name: str) -> TensorInfo:
    infos = []
    for checkpoint, other in ((one, two), (two, one)):
        if name not in checkpoint.tensors and not (name in HEADS and checkpoint.tied):
            raise RecipeError([f"lacks tensor {name!r}, which {other.path} has"], source=str(checkpoint.path))
        infos.append(checkpoint.find(name))
    if infos[0].shape != infos[1].shape:
        raise RecipeError(
            [f"tensor {name!r} has shape {list(infos[1].shape)}, but {list(infos[0].shape)} in {infos[0].file}"],
            source=str(infos[1].file),
        )
    return infos[0]

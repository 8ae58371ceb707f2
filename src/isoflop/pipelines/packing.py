"""A model's directory with its rounded or sparse matrices stored in as few bits as they need, and back."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..compress.packing import (
    METHOD,
    WeightPacking,
    described,
    fitting,
    integer_grid,
    is_packed,
    packed_integers,
    read_packed,
)
from ..compress.torchao import TorchaoGrid, torchao_config, torchao_header, torchao_names, torchao_tensors
from ..core.digests import digest
from ..core.errors import UsageError
from ..core.files import write_json
from ..models.hf.config import Config
from ..models.hf.export import DTYPES
from ..models.hf.families import Form
from ..store.published import CONFIG
from ..store.tensor_writer import lay_out, open_output
from ..store.tensors import CARRIED, EMBEDDINGS, HEADS, NAMES, Checkpoint, as_bytes
from .publishing import CARD, COMPRESSION, on_the_way

FORMATS = ("packed", "compressed-tensors", "torchao")
"""In which matrices are stored small: our own, which is exact; and what vLLM and torchao load, which are integers."""
_NOT_LINEAR = ("gpt2",)  # families whose matrices are no torch.nn.Linear, which the other two ask for


@dataclass
class PackedTensors:
    """What becomes of a directory's tensors.

    Args:
        tensors: those that are written instead, by name.
        packed: packing and shape of each packed matrix, by its name.
        plain: names of the matrices that stay as they are.
        said: what the files' headers say besides.

    Example:
        >>> PackedTensors(packed={"w": (WeightPacking("int4", 32), (64, 64))}).bits
        4.5
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    packed: dict[str, tuple[WeightPacking, tuple[int, ...]]] = field(default_factory=dict)
    plain: list[str] = field(default_factory=list)
    said: dict[str, str] = field(default_factory=dict)

    @property
    def bits(self) -> float:
        """Of a packed weight, its share of scales and places included."""
        weights = sum(shape[0] * shape[1] for _, shape in self.packed.values())
        if self.said:  # torchao's: whole bytes
            return sum(8 * tensor.nbytes for tensor in self.tensors.values()) / max(1, weights)
        return sum(packing.bits(shape) for packing, shape in self.packed.values()) / max(1, weights)


def publish_packed(
    write: Callable[[Path], Form], out: Path, format: str, dtype: str = "float32"
) -> tuple[Form, PackedTensors]:
    """Write a model with its matrices stored small: a plain directory is kept only meanwhile, beside it.

    Args:
        write: ``publish_run`` or ``publish_directory`` of a model in fp32, given a directory that does not exist.
        out: the directory; must not exist.
        format: one of ``FORMATS``.
        dtype: of what is not packed, and in torchao's of the weights as they are multiplied.

    Raises:
        UsageError: no matrix of the model is rounded or sparse, or the format cannot hold how.
    """
    with on_the_way(out, out.name, "choose another directory") as directory:
        form = write(directory)
        return form, pack_directory(directory, out, format, dtype)


def pack_directory(source: Path, out: Path, format: str, dtype: str = "float32") -> PackedTensors:
    """Write a directory in Hugging Face's layout anew, its matrices stored small. Arguments as ``publish_packed``'s."""
    checkpoint, config = Checkpoint(source), dict(Config.read(source).tree)
    stored = _packed(checkpoint) if format == "packed" else _integers(checkpoint, config, format)
    if not stored.packed:
        raise _nothing_small(checkpoint, format)
    config["torch_dtype"] = dtype
    if format == "packed":  # of no type that others know: transformers would draw what it does not find at random
        own = {**described(stored.packed), "model_type": config["model_type"]}
        config |= {"quantization_config": own, "model_type": f"{METHOD}_packed"}
    else:
        words = format == "compressed-tensors"
        said = _fill_words(stored, checkpoint) if words else _fill_torchao(stored, checkpoint, dtype)
        config["quantization_config"] = said
    plain = {name: checkpoint.flat(name, DTYPES[dtype]) for name in checkpoint.tensors if name not in stored.packed}
    named = [(name, NAMES[flat.dtype], tuple(flat.shape)) for name, flat in plain.items()]
    named += [(name, NAMES[tensor.dtype], tuple(tensor.shape)) for name, tensor in stored.tensors.items()]

    def tensor(name: str) -> Tensor:
        return plain[name].whole() if name in plain else stored.tensors[name]

    _write(source, out, named, tensor, config, stored.said)
    return stored


def unpack_directory(source: Path, out: Path) -> None:
    """Write a packed directory as plain safetensors in fp32.

    Args:
        source: as ``pack_directory`` wrote it with the format "packed".
        out: the directory; must not exist.
    """
    tensors = {name: tensor.float() for name, tensor in read_packed(source)}
    config = dict(Config.read(source).tree)
    config["model_type"] = config.pop("quantization_config")["model_type"]
    named = [(name, NAMES[tensor.dtype], tuple(tensor.shape)) for name, tensor in tensors.items()]
    _write(source, out, named, tensors.__getitem__, {**config, "torch_dtype": "float32"})


@contextmanager
def unpacked(directory: Path) -> Iterator[Path]:
    """The directory itself, or, where its matrices are packed, a plain one that is kept meanwhile."""
    if not is_packed(directory):
        yield directory
        return
    with tempfile.TemporaryDirectory() as meanwhile:
        plain = Path(meanwhile) / directory.name
        unpack_directory(directory, plain)
        yield plain


def _write(
    source: Path,
    out: Path,
    named: list[tuple[str, str, tuple[int, ...]]],
    tensor: Callable[[str], Tensor],
    config: Mapping[str, Any],
    said: Mapping[str, str] | None = None,
) -> None:
    """A directory of tensors with what lies beside those of another one: there as a whole, or not at all."""
    whole = digest({"source": sorted(Checkpoint(source).digests().items()), "config": dict(config), "tensors": named})
    with open_output(out, lay_out(named, said=said), whole) as output:
        for name, _, _ in named:
            if name not in output.done:
                output.write(name, 0, as_bytes(tensor(name).contiguous()))
                output.finished(name)
        output.close()
        write_json(output.path / CONFIG, config)
        for beside in (*CARRIED, CARD, COMPRESSION):
            if (source / beside).is_file():
                shutil.copyfile(source / beside, output.path / beside)


def _matrices(checkpoint: Checkpoint) -> Iterator[tuple[str, Tensor]]:
    for name, info in checkpoint.tensors.items():
        if len(info.shape) == 2 and info.numel:
            yield name, checkpoint.read(name, torch.float32)


def _packed(checkpoint: Checkpoint) -> PackedTensors:
    stored = PackedTensors()
    for name, weight in _matrices(checkpoint):
        packing = fitting(weight)
        if packing is None:
            stored.plain.append(name)
            continue
        stored.packed[name] = packing, tuple(weight.shape)
        stored.tensors |= {f"{name}.{part}": tensor for part, tensor in packing.encode(weight).items()}
    return stored


def _integers(checkpoint: Checkpoint, config: Mapping[str, Any], format: str) -> PackedTensors:
    """Integers of symmetric grids, all in one form where that can be, as kernels for several matrices at once want it.

    Their tensors are still to be made. Embeddings stay as they are.
    """
    if config.get("model_type") in _NOT_LINEAR:
        what = f"the model is a {config['model_type']}, whose matrices are not of the kind that {format} knows"
        raise UsageError(what, where=format, fix="use --as packed, or another family")
    stored, found = PackedTensors(), dict[str, tuple[int, int | None]]()
    for name, weight in _matrices(checkpoint):
        grid = None if name.endswith(EMBEDDINGS) else integer_grid(weight)
        if grid is None:
            stored.plain.append(name)
        else:
            found[name] = grid
    bits = max((bits for bits, _ in found.values()), default=0)
    block = min((block for _, block in found.values() if block is not None), default=None)
    for name, (_, own) in found.items():
        shape = tuple(checkpoint.tensors[name].shape)
        whole = block is None or shape[1] % block == 0
        if not whole and own is not None:
            stored.plain.append(name)  # its last group would be short, which the format does not know
            continue
        stored.packed[name] = WeightPacking(f"int{bits}", block if whole else None), shape
    return stored


def _fill_words(stored: PackedTensors, checkpoint: Checkpoint) -> dict[str, Any]:
    """Make the tensors of compressed-tensors; returns what its reader asks for: one group of modules a grid.

    Scales stay in fp32 whatever the model's type: readers multiply codes in the scales' type, and cast then.
    """
    grids: dict[WeightPacking, list[str]] = {}
    for name, (packing, _) in stored.packed.items():
        module = name.removesuffix(".weight")
        made = packed_integers(checkpoint.read(name, torch.float32), int(packing.element[3:]), packing.block)
        made["weight_scale"] = made["weight_scale"].float()
        stored.tensors |= {f"{module}.{part}": tensor for part, tensor in made.items()}
        grids.setdefault(packing, []).append(module)
    groups = {}
    for number, (packing, modules) in enumerate(grids.items()):
        weights = {
            "num_bits": int(packing.element[3:]),
            "type": "int",
            "symmetric": True,
            "strategy": "channel" if packing.block is None else "group",
            "group_size": packing.block,
            "dynamic": False,
        }
        groups[f"group_{number}"] = {"targets": ["Linear"] if len(grids) == 1 else modules, "weights": weights}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": _plain_modules(stored),
    }


def _fill_torchao(stored: PackedTensors, checkpoint: Checkpoint, dtype: str) -> dict[str, Any]:
    """Make torchao's tensors, and what the files' headers say of all; returns what transformers' reader asks for."""
    grids, said = dict[str, TorchaoGrid](), dict[str, str]()
    for name, (packing, _) in stored.packed.items():
        grid = int(packing.element[3:]), packing.block
        made, said[name] = torchao_tensors(checkpoint.read(name, torch.float32), grid, dtype)
        stored.tensors |= {torchao_names(name, part): tensor for part, tensor in made.items()}
        grids[name.removesuffix(".weight")] = grid
    stored.said = torchao_header(said, [name for name in checkpoint.tensors if name not in stored.packed])
    return torchao_config(grids, _plain_modules(stored))


def _plain_modules(stored: PackedTensors) -> list[str]:
    """Linear modules whose matrices stay as they are."""
    plain = {name.removesuffix(".weight") for name in stored.plain if not name.endswith(EMBEDDINGS)}
    return sorted(plain | {name.removesuffix(".weight") for name in HEADS if name not in stored.packed})


def _nothing_small(checkpoint: Checkpoint, format: str) -> UsageError:
    """Why nothing of a directory can be stored in a format."""
    what = "the model has no matrix that is rounded or sparse, so that nothing of it could be stored in fewer bits"
    fix = """round it first: isoflop compress MODEL --with '{name="round", format="int4"}' --out DIRECTORY"""
    for name, weight in _matrices(checkpoint) if format != "packed" else ():
        packing = fitting(weight)
        if packing is not None:
            found = packing.element + (", sparse" if packing.n is not None else "")
            what = f"{name} is {found}; {format} holds integers alone"
            return UsageError(what, where=format, fix="use --as packed, or round it to integers")
    return UsageError(what, where=format, fix=fix)

"""From a model that was trained with adapters to an adapter that travels apart from its base."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..core.contracts import PLACE, HasLowRank
from ..core.errors import UsageError
from ..core.files import publish_directory
from ..store.tensor_writer import write_directory
from ..store.tensors import NAMES, as_bytes
from .lora import Adapter, Factor


def adapter_of(model: torch.nn.Module) -> Adapter:
    """The updates that a model's parametrizations hold, by the paths of its modules.

    Raises:
        UsageError: no module has an update of low rank.
    """
    modules = {}
    for name, module in model.named_modules():
        parametrization = getattr(module, PLACE, None)
        if isinstance(parametrization, HasLowRank):
            update = parametrization.low_rank()
            length = None if update.magnitude is None else update.magnitude.detach()
            modules[name] = Factor(update.a.detach(), update.b.detach(), update.scale, magnitude=length)
    if not modules:
        raise UsageError("the model was not trained with adapters", fix="write it whole")
    return Adapter(modules)


def write_weights(weights: dict[str, Tensor], out: str | Path) -> None:
    """Write tensors as a directory that merges read; ``out`` must not exist."""
    with publish_directory(Path(out)) as partial:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
        described = {n: (NAMES[t.dtype], tuple(t.shape), as_bytes(t)) for n, t in sorted(tensors.items())}
        write_directory(partial, described, "model")

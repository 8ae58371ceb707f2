"""The slot of transforms: one model in, one out, tensor by tensor."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from ..core.errors import NumericsError, UsageError
from ..core.registry import Part

KEPT_BITS = 16.0
"""Bits of a weight that no transform stores in fewer: it can be written as bf16."""


class TransformPart(Part):
    """Changes the weights of a trained model.

    Class attributes:
        stores: whether it says in how many bits its weights are stored; it is the last one then.
    """

    slot: ClassVar[str] = "transform"
    stores: ClassVar[bool] = False

    targets: tuple[str, ...] = ("blocks.*",)
    """Which matrices: patterns of their names. Gains and biases stay as they are."""

    def takes(self, name: str, shape: Sequence[int]) -> bool:
        """Whether it changes a tensor."""
        module = name.removesuffix(".weight")
        return module != name and len(shape) == 2 and any(fnmatchcase(module, target) for target in self.targets)

    @abstractmethod
    def apply(self, name: str, weight: Tensor) -> Tensor:
        """A matrix (rows, columns), fp32, as it becomes."""

    @abstractmethod
    def bits(self, weight: Tensor) -> float:
        """Bits that the changed matrix takes in all."""


@dataclass(frozen=True)
class Transformed:
    """What transforms made of a model.

    Args:
        tensors: all tensors by name.
        bits: a weight of those that were changed.
        bytes: of the whole model, what was not changed in bf16.
        changed: names of those that were.

    Example:
        >>> Transformed({}, bits=4.5, bytes=100, changed=()).bits
        4.5
    """

    tensors: Mapping[str, Tensor]
    bits: float
    bytes: int
    changed: tuple[str, ...]


@torch.no_grad()
def transformed(tensors: Mapping[str, Tensor], parts: Sequence[TransformPart]) -> Transformed:
    """What transforms make of a model's tensors, one after the other; none of the tensors given is changed.

    Args:
        tensors: by our names.
        parts: in order.

    Raises:
        UsageError: none of them changes anything, or one follows a part that has said how weights are stored.
        NumericsError: a tensor is not finite.
    """
    for before, after in pairwise(parts):
        if before.stores:
            what = f"{after.name} would change what {before.name} has rounded"
            raise UsageError(what, where="--with", fix=f"put {before.name} last")
    made, total, changed = {}, 0.0, []
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise NumericsError(
                f"tensor {name!r} holds NaN or infinity", where="compress", fix="use another checkpoint"
            )
        using = [part for part in parts if part.takes(name, tensor.shape)]
        weight, bits = tensor, KEPT_BITS * tensor.numel()
        for part in using:
            weight = part.apply(name, weight.float()).to(tensor.dtype)
            bits = part.bits(weight)
        made[name] = weight
        total += bits
        if using:
            changed.append((name, bits, tensor.numel()))
    if not changed:
        targets = sorted({target for part in parts for target in part.targets})
        raise UsageError(f"{', '.join(targets)} matches no matrix (e.g. {_example(tensors)})", where="--with")
    bits = sum(bits for _, bits, _ in changed) / sum(numel for *_, numel in changed)
    return Transformed(made, bits, round(total / 8), tuple(name for name, *_ in changed))


def _example(names: Iterable[str]) -> str:
    return next((name for name in names if name.startswith("blocks.")), next(iter(names), "none"))

"""What transforms of trained models share: matrix by matrix, and one after the other."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import pairwise

import torch
from torch import Tensor

from ..core.contracts import Calibration, PlainModel, TransformPart
from ..core.errors import NumericsError, UsageError

KEPT_BITS = 16.0
"""Bits of a weight that no transform stores in fewer: it can be written as bf16."""


class WeightTransformPart(TransformPart):
    """Base of the parts that change matrices, each by itself."""

    targets: tuple[str, ...] = ("blocks.*",)
    """Which matrices: patterns of their names. Gains and biases stay as they are."""

    def takes(self, name: str, shape: Sequence[int]) -> bool:
        """Whether it changes a tensor."""
        module = name.removesuffix(".weight")
        return module != name and len(shape) == 2 and any(fnmatchcase(module, target) for target in self.targets)

    def taken(self, model: PlainModel) -> list[str]:
        """Names of the matrices that it changes; UsageError if there are none."""
        found = [name for name, tensor in model.tensors.items() if self.takes(name, tensor.shape)]
        if not found:
            example = _example(model.tensors)
            raise UsageError(f"{', '.join(self.targets)} matches no matrix (e.g. {example})", where="--with")
        return found

    def transform(self, model: PlainModel, text: Calibration | None) -> PlainModel:
        made = {name: self.apply(name, model.tensors[name].float()) for name in self.taken(model)}
        return self.storing(model, made)

    def storing(self, model: PlainModel, made: dict[str, Tensor]) -> PlainModel:
        """The model with changed matrices, in the type that they had."""
        return model.having(
            {name: weight.to(model.tensors[name].dtype) for name, weight in made.items()},
            {name: self.bits(weight) for name, weight in made.items()},
        )

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
        model: as it became.
        bits: a weight of those that were changed; of those that are left where none was.
        bytes: of the whole model, what was not changed in bf16.

    Example:
        >>> Transformed(model=None, bits=4.5, bytes=100).bits
        4.5
    """

    model: PlainModel
    bits: float
    bytes: int


@torch.no_grad()
def transformed(model: PlainModel, parts: Sequence[TransformPart], text: Calibration | None = None) -> Transformed:
    """What transforms make of a model, one after the other; none of the tensors given is changed.

    Args:
        model: without parametrizations.
        parts: in order.
        text: what to watch it on, for those that do.

    Raises:
        UsageError: one of them changes nothing, watches where there is no text, or follows a part that has said how
            weights are stored.
        NumericsError: a tensor is not finite.
    """
    for before, after in pairwise(parts):
        if before.stores:
            what = f"{after.name} would change what {before.name} has rounded"
            raise UsageError(what, where="--with", fix=f"put {before.name} last")
    for part in parts:
        if part.watches and text is None:
            what = f"{part.name} watches the model on text, of which a directory has none"
            raise UsageError(what, where="--with", fix="compress the run that the model came from")
    _refuse_infinite(model)
    for part in parts:
        model = part.transform(model, text)
    _refuse_infinite(model)
    sizes = {name: tensor.numel() for name, tensor in model.tensors.items()}
    total = sum(model.bits.get(name, KEPT_BITS * size) for name, size in sizes.items())
    changed = sum(sizes[name] for name in model.bits)
    return Transformed(model, sum(model.bits.values()) / changed if changed else KEPT_BITS, round(total / 8))


def _refuse_infinite(model: PlainModel) -> None:
    for name, tensor in model.tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise NumericsError(
                f"tensor {name!r} holds NaN or infinity", where="compress", fix="use another checkpoint"
            )


def _example(names: Iterable[str]) -> str:
    return next((name for name in names if name.startswith("blocks.")), next(iter(names), "none"))

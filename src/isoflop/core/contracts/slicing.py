"""The contract of a model that can be cut: smaller along its axes, and otherwise the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol, Self, runtime_checkable

from ..errors import UsageError, nearest
from ..roles import WIDTH, Axis, Shape
from .layers import Kept
from .model import ModelPart

if TYPE_CHECKING:
    from torch import Tensor

LAYER = "layer"
"""The axis along which whole layers are kept."""


@runtime_checkable
class Sliceable(Protocol):
    """An architecture that can be cut along the axes that its shapes name, and along ``layer``.

    Attributes:
        stack: the module whose children, by number, are the layers.
    """

    stack: str

    def sliced(self, kept: Kept) -> Self:
        """The architecture of what is left.

        Args:
            kept: by axis the units that stay, ascending; axes within layers are called as in the whole model. Axes that
                are not given stay whole.

        Raises:
            UsageError: what is left would be no model, e.g. key-value heads with different numbers of heads.
        """


@dataclass(frozen=True)
class PlainModel:
    """A model without parametrizations: what it is like, and its weights.

    Args:
        part: the architecture.
        vocab_size: token ids that it knows.
        tensors: all weights by name; none where its shape alone is asked for.
        bits: what those that were changed take in all, by name.

    Example:
        >>> from isoflop.core.registry import get
        >>> part = get("model", "transformer")(d_model=32, layers=2)
        >>> PlainModel(part, vocab_size=257, tensors={}).units()["blocks.1.mixer.heads"]
        4
    """

    part: ModelPart
    vocab_size: int
    tensors: Mapping[str, Tensor]
    bits: Mapping[str, float] = field(default_factory=dict)

    def shapes(self) -> list[Shape]:
        """Names, roles, shapes and axes of its parameters."""
        return self.part.shapes(self.vocab_size)

    def units(self) -> dict[str, int]:
        """How many units each axis has, of the layers' and of the model's own."""
        found = {
            axis.name: size // axis.each
            for shape in self.shapes()
            for axis, size in zip(shape.axes, shape.shape, strict=False)
        }
        stack = self.part.stack if isinstance(self.part, Sliceable) else ""
        layers = {s.name.split(".")[1] for s in self.shapes() if stack and s.name.startswith(f"{stack}.")}
        return {**found, LAYER: len(layers)} if layers else found

    def joined(self) -> PlainModel:
        """The same model, and what was trained in pieces is one (``ModelPart.joined``)."""
        part, tensors = self.part.joined(self.tensors)
        return replace(self, part=part, tensors=tensors)

    def having(self, tensors: Mapping[str, Tensor], bits: Mapping[str, float]) -> PlainModel:
        """The same model with some weights changed, and what those take in bits."""
        return replace(self, tensors={**self.tensors, **tensors}, bits={**self.bits, **bits})

    def cut(self, kept: Kept) -> PlainModel:
        """What is left of it; nothing is copied but what is cut.

        Args:
            kept: by axis the units that stay, ascending.

        Raises:
            UsageError: no such axis or unit, nothing is left of one, or the architecture cannot be cut there.
        """
        if not isinstance(self.part, Sliceable):
            raise UsageError(f"a {self.part.name} cannot be cut", where="model", fix="use a transformer")
        _refuse_unknown(self.units(), kept)
        axes = {shape.name: shape.axes for shape in self.shapes()}
        made = {
            _moved(name, self.part.stack, kept.get(LAYER)): _cut(tensor, axes.get(name, ()), kept)
            for name, tensor in self.tensors.items()
        }
        made.pop("", None)
        left = replace(self, part=self.part.sliced(kept), tensors=made, bits={})
        wanted = {shape.name: shape.shape for shape in left.shapes()}
        foreign = [name for name in made.keys() - wanted.keys() if WIDTH.name in kept]  # an objective's own, as wide
        lost = wanted.keys() - made.keys() if self.tensors else ()
        off = [name for name in made.keys() & wanted.keys() if tuple(made[name].shape) != wanted[name]]
        off += [*foreign, *lost]
        if off:
            what = f"{off[0]!r} would not fit what is left: its axes are not named, or cannot be cut"
            raise UsageError(what, where=", ".join(kept), fix="cut other axes")
        return left


def _refuse_unknown(units: Mapping[str, int], kept: Kept) -> None:
    for axis, chosen in kept.items():
        if axis not in units:
            raise UsageError(f"no axis is named {axis!r}", where="model", fix=nearest(axis, list(units)))
        if not chosen:
            raise UsageError(f"nothing is left of {axis}", where="model", fix="keep one unit at least")
        if list(chosen) != sorted(set(chosen)) or not 0 <= chosen[0] <= chosen[-1] < units[axis]:
            raise UsageError(f"{axis} has the units 0 to {units[axis] - 1}, to be kept in order", where="model")


def _moved(name: str, stack: str, layers: Sequence[int] | None) -> str:
    """A parameter's name after layers have gone; "" if its own has."""
    pieces = name.split(".")
    if layers is None or pieces[0] != stack:
        return name
    number = int(pieces[1])
    return ".".join([stack, str(layers.index(number)), *pieces[2:]]) if number in layers else ""


def _cut(tensor: Tensor, axes: Sequence[Axis], kept: Kept) -> Tensor:
    for dim, axis in enumerate(axes):
        if axis.name in kept:
            tensor = tensor.index_select(dim, _places(tensor, axis, kept[axis.name]))
    return tensor


def _places(tensor: Tensor, axis: Axis, units: Sequence[int]) -> Tensor:
    """The numbers that belong to some units of an axis."""
    places = [unit * axis.each + i for unit in units for i in range(axis.each)]
    return tensor.new_tensor(places).long()

"""What every merge method shares: the slot's base class, knobs a model, random masks that depend on names alone."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from ..core.errors import UsageError
from ..core.registry import Part
from ..core.rng import Rng
from ..store.tensors import Flat, HeldTensor, pieces

Unit = Annotated[float, Field(ge=0, le=1)]
Each = float | tuple[float, ...]
"""A knob that each model has for itself: one number for all, or one a model."""
Share = Unit | tuple[Unit, ...]
Bases = Literal["needed", "optional", "none"]
Group = tuple[Flat | None, Sequence[Flat]]
"""A tensor of the base, if there is one, and the same tensor of each model."""

_BLOCK = 1 << 16


class MergePart(Part):
    """A method that makes one tensor of the base's and the models' tensors of one name.

    A tensor passes in pieces. What depends on all of it (a threshold, a norm, an angle) is surveyed first; then each
    piece of the result follows from the same piece of the inputs. Methods whose result has no such form are ``whole``.

    Class attributes:
        base: whether the method wants a base beside the models.
        models: least and greatest number of models; None: no limit.
        each: knobs that each model has for itself; all others are the tensor's.
        selects: its survey holds 4 bytes an element of the tensor, to select the largest.
    """

    slot: ClassVar[str] = "merge"
    base: ClassVar[Bases] = "needed"
    models: ClassVar[tuple[int, int | None]] = (1, None)
    each: ClassVar[frozenset[str]] = frozenset()
    selects: ClassVar[bool] = False

    @property
    def whole(self) -> bool:
        """Tensors must come whole and in their shape, not in flat pieces."""
        return False

    def overview(self, groups: Iterable[Group]) -> Any:
        """What must be known of all tensors together before the first is merged; None by default."""
        return None

    def survey(self, base: Flat | None, models: Sequence[Flat], rng: Rng, overview: Any) -> Any:
        """What must be known of a whole tensor before its first piece is merged; None by default."""
        return None

    @abstractmethod
    def merge(self, base: Tensor | None, models: Sequence[Tensor], survey: Any, start: int) -> Tensor:
        """A piece of the result; ``start`` is its first element's place in the flattened tensor."""


def on_tensors(part: MergePart, base: Tensor | None, models: Sequence[Tensor], rng: Rng | None = None) -> Tensor:
    """What a part makes of tensors in memory, all of one shape; none of them is changed."""
    flat = None if base is None else HeldTensor(base)
    others: list[Flat] = [HeldTensor(model) for model in models]
    rng = rng or Rng(0)
    survey = part.survey(flat, others, rng, part.overview([(flat, others)]))
    if part.whole:
        return part.merge(base, models, survey, 0)
    pieces_ = [model.reshape(-1) for model in models]
    return part.merge(None if base is None else base.reshape(-1), pieces_, survey, 0).reshape(models[0].shape)


def per_model(value: float | Sequence[float]) -> Each:
    """A knob as a part holds it."""
    return value if isinstance(value, int | float) else tuple(value)


def held(base: Tensor, models: Sequence[Tensor]) -> tuple[HeldTensor, list[HeldTensor]]:
    """Tensors in memory as a survey takes them."""
    return HeldTensor(base), [HeldTensor(model) for model in models]


def numbers(value: Each, count: int, name: str = "weight") -> list[float]:
    """A knob's value for each of ``count`` models. UsageError if it has another number of values."""
    if not isinstance(value, tuple | list):
        return [float(value)] * count
    if len(value) != count:
        raise UsageError(f"{name} has {len(value)} values, but there are {count} models")
    return [float(number) for number in value]


def deltas(base: Flat, model: Flat) -> Iterable[tuple[int, Tensor]]:
    """(start, model - base) piece by piece."""
    for start, stop in pieces(base.numel):
        yield start, model.piece(start, stop) - base.piece(start, stop)


def gram(models: Sequence[Flat], base: Flat | None = None) -> Tensor:
    """Inner products (k, k), in float64, of the models' flattened tensors, the base taken off."""
    total = torch.zeros(len(models), len(models), dtype=torch.float64)
    for start, stop in pieces(models[0].numel):
        rows = torch.stack([model.piece(start, stop) for model in models])
        if base is not None:
            rows -= base.piece(start, stop)
        rows = rows.double()
        total += rows @ rows.T
    return total


def combination(models: Sequence[Tensor], coefficients: Sequence[float], divisor: float = 1.0) -> Tensor:
    """sum c_i x_i / divisor, computed in at least fp32 and rounded once."""
    dtype = torch.promote_types(models[0].dtype, torch.float32)
    total = models[0].to(dtype) * coefficients[0]
    for model, coefficient in zip(models[1:], coefficients[1:], strict=True):
        total.add_(model.to(dtype), alpha=coefficient)
    return (total if divisor == 1 else total.div_(divisor)).to(models[0].dtype)


def uniform(rng: Rng, model: int, start: int, stop: int) -> Tensor:
    """Numbers in [0, 1) for elements [start, stop) of a tensor of model number ``model``: functions of their place.

    So a mask does not depend on the order of the tensors, on the pieces, on shards or on the number of processes.
    """
    blocks = range(start // _BLOCK, (stop + _BLOCK - 1) // _BLOCK)
    drawn = [torch.from_numpy(rng.at(block, model).random(_BLOCK, dtype="float32")) for block in blocks]
    first = start - (start // _BLOCK) * _BLOCK
    return torch.cat(drawn)[first : first + stop - start] if drawn else torch.empty(0)

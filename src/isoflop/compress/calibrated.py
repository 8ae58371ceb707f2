"""What transforms share that look at what each matrix is multiplied with, one layer of the model after the other."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn

from ..core.contracts import Calibration, PlainModel, Sliceable
from ..core.cost import Cost
from ..core.errors import UsageError
from ..core.roles import Axis
from ..ledger import formulas
from .grids import Grid, integers
from .packing import WeightPacking
from .transform import WeightTransformPart
from .watching import LayerStream, overhearing, pass_cost


class Grams:
    """Sums over positions of x x', for the vectors x that come to each of several matrices.

    Matrices that are given the same vectors share one sum.

    Attributes:
        leaders: by matrix, the first one that is given the same vectors.

    Example:
        >>> grams, x = Grams(), torch.ones(1, 3, 2)
        >>> grams.hear("q", x), grams.hear("k", x)
        (None, None)
        >>> grams.of("k").tolist(), grams.leaders["k"]
        ([[3.0, 3.0], [3.0, 3.0]], 'q')
    """

    def __init__(self) -> None:
        self.leaders: dict[str, str] = {}
        self.spent = Cost()
        self._sums: dict[str, Tensor] = {}
        self._sizes: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._last: tuple[str, Tensor] | None = None

    def hear(self, name: str, x: Tensor) -> None:
        """Enter vectors (batch, length, columns) of a matrix."""
        if name not in self.leaders:
            same = self._last is not None and self._last[1] is x
            self.leaders[name] = self.leaders[self._last[0]] if same and self._last is not None else name
        self._last = (name, x)
        if self.leaders[name] != name:
            return
        rows = x.flatten(0, -2).double()
        self._sums[name] = self._sums[name].addmm_(rows.t(), rows) if name in self._sums else rows.t() @ rows
        self._sizes[name] = self._sizes.get(name, 0) + rows.abs().sum(0)
        self._counts[name] = self._counts.get(name, 0) + len(rows)
        self.spent += formulas.matmul(rows.shape[1], len(rows), rows.shape[1])

    def of(self, name: str) -> Tensor:
        """float64 (columns, columns); UsageError if nothing came to the matrix."""
        if name not in self.leaders:
            what = f"{name} is multiplied with nothing that can be looked at"
            raise UsageError(what, where="--with", fix="choose other targets")
        return self._sums[self.leaders[name]]

    def size(self, name: str) -> Tensor:
        """float64 (columns,): the mean of |x|."""
        return self._sizes[self.leaders[name]] / self._counts[self.leaders[name]]


class WatchedLayer(NamedTuple):
    """A layer of a live model whose inputs are known.

    Example:
        >>> WatchedLayer(torch.nn.Identity(), {}, {}, Grams(), None).matrices
        {}
    """

    module: nn.Module
    matrices: dict[str, Any]
    """Those that are changed, by the names of their weights."""
    named: dict[str, tuple[Any, tuple[Axis, ...]]]
    """All modules with a weight whose axes are named, by its name, with those."""
    grams: Grams
    stream: LayerStream
    """The vectors that come to the layer."""


class CalibratedPart(WeightTransformPart):
    """Base of the parts that watch what each matrix is multiplied with; of one layer at a time anything is held."""

    windows: PositiveInt = 128
    """Windows of the run's training text that are looked at."""
    seed: NonNegativeInt = 0
    """Of those."""

    @property
    def watches(self) -> bool:
        return True

    def transform(self, model: PlainModel, text: Calibration | None) -> PlainModel:
        assert text is not None
        live: Any = text.live(model)
        layers = layers_of(model, live)
        wanted = self.taken(model)
        tokens = text.tokens(self.windows, self.seed)
        stream = LayerStream(live, list(layers.values()), tokens, text.pattern)
        text.charge(2 * pass_cost(model, tokens, text.pattern))
        for path, layer in layers.items():
            named = {
                shape.name: (live.get_submodule(_module(shape.name)), shape.axes)
                for shape in model.shapes()
                if shape.name.startswith(f"{path}.") and shape.name.endswith(".weight") and shape.axes
            }
            own = {name: live.get_submodule(_module(name)) for name in wanted if name.startswith(f"{path}.")}
            watched = WatchedLayer(layer, own, named, Grams(), stream)
            with overhearing(own, watched.grams.hear):
                for _ in stream.through(layer):
                    pass
            self.change(watched)
            text.charge(watched.grams.spent)
            for module in own.values():
                text.charge(self.cost(*module.weight.shape))
            stream.advance(layer)
        if lost := [name for name in wanted if not name.startswith(tuple(f"{path}." for path in layers))]:
            what = f"{lost[0]} lies in no layer, so that nothing is known of what it is multiplied with"
            raise UsageError(what, where=f"{self.name}.targets", fix="leave it out")
        state = live.state_dict()
        made = self.storing(model, {name: state[name] for name in wanted})
        others = [name for name in model.tensors if name in state and name not in wanted]  # a norm may have been scaled
        return made.having({name: state[name].to(model.tensors[name].dtype) for name in others}, {})

    def change(self, layer: WatchedLayer) -> None:
        """Change the matrices of one layer of the live model in place."""
        for name, module in layer.matrices.items():
            module.weight.copy_(self.solved(module.weight, layer.grams.of(name)))

    @abstractmethod
    def solved(self, weight: Tensor, gram: Tensor) -> Tensor:
        """A matrix (rows, columns), fp32, as it becomes, given the sum of x x' over its inputs x."""

    def cost(self, rows: int, columns: int) -> Cost:
        """Of ``solved``; by default nothing of note."""
        return Cost()

    def apply(self, name: str, weight: Tensor) -> Tensor:
        return self.solved(weight, torch.eye(weight.shape[1], dtype=torch.float64))


class RoundingPart(CalibratedPart):
    """Base of the parts that round to integers with a scale by block, as ``round`` does without looking."""

    version: ClassVar[int] = 2
    stores = True

    format: Literal["int2", "int3", "int4", "int5", "int6", "int7", "int8"] = "int4"
    """Bits of a weight; a block's scale is a number of fp16."""
    block: PositiveInt = 32
    """Weights of a row that share a scale; 128 in the authors' code."""

    @property
    def grid(self) -> Grid:
        """Points and scales."""
        return Grid(integers(int(self.format[3:])), self.block, half=True)

    def bits(self, weight: Tensor) -> float:
        return WeightPacking(self.format, self.block).bits(weight.shape)


def layers_of(model: PlainModel, live: nn.Module) -> dict[str, nn.Module]:
    """The layers of a live model by name, in order; UsageError if it has none that are known."""
    if not isinstance(model.part, Sliceable):
        raise UsageError(f"a {model.part.name} has no layers that could be watched", where="model")
    stack = model.part.stack
    return {f"{stack}.{name}": layer for name, layer in live.get_submodule(stack).named_children()}


def _module(name: str) -> str:
    return name.removesuffix(".weight")

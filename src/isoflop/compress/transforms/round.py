"""Rounding to nearest: integers, small floats and MX formats, without data."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import PositiveInt
from torch import Tensor

from ...core.registry import Card, part
from ..elements import FORMATS, Format
from ..grids import Float, Grid, floats, integers
from ..mx import Scale, quantise
from ..packing import WeightPacking
from ..transform import WeightTransformPart

Kind = Literal["int2", "int3", "int4", "int5", "int6", "int7", "int8", Float, Format]


@part
class RoundPart(WeightTransformPart):
    """Rounds weights to the nearest point of a grid: the baseline that every method of quantisation is held against.

    Example:
        >>> import torch
        >>> RoundPart(format="int4", block=2).apply("w", torch.tensor([[7.0, 3.2]])).tolist()
        [[7.0, 3.0]]
    """

    version: ClassVar[int] = 2
    stores = True

    format: Kind = "int4"
    """int2 to int8 and fp...: scales in fp16; mx...: scales that are powers of two, 8 bits."""
    block: PositiveInt = 32
    """Weights of a row that share a scale."""
    scale: Scale = "floor"
    """Of MX formats: the rule of a block's scale."""
    card = Card(
        summary="Rounds each weight to the nearest point of its format, scales by block",
        equation="W' = s round(W / s), s = max |W_block| / largest element; in MX s is a power of two",
        paper="OCP MX v1.0 for mx formats",
        cost="one pass over the weights; no data",
    )

    @property
    def grid(self) -> Grid:
        """Points and scales, but of MX formats."""
        element = integers(int(self.format[3:])) if self.format.startswith("int") else floats(self.format)  # type: ignore[arg-type]
        return Grid(element, self.block, half=True)

    def apply(self, name: str, weight: Tensor) -> Tensor:
        if self.format in FORMATS:
            return quantise(weight, self.format, block=self.block, scale=self.scale)
        return self.grid.rounded(weight)

    def bits(self, weight: Tensor) -> float:
        return WeightPacking(self.format, self.block).bits(weight.shape)

"""Grids that weights are rounded to, with scales by row or by block: integers, and small floats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from .elements import Element, element_of, round_

Float = Literal["fp4_e2m1", "fp6_e2m3", "fp6_e3m2", "fp8_e4m3", "fp8_e5m2"]
"""Formats of small floats by the names of their fields."""


def integers(bits: int) -> Element:
    """Symmetric integers of ``bits`` bits: -(2^(bits-1) - 1) .. 2^(bits-1) - 1."""
    return Element(f"int{bits}", bits, 0, 0, bits - 2, float(2 ** (bits - 1) - 1))


def floats(format: Float) -> Element:
    """The small floats of a format."""
    return element_of(f"mx{format}")


def split(weight: Tensor, block: int | None) -> Tensor:
    """(rows, blocks, block) of a weight (rows, columns), None: whole rows; the last block is filled up with zeros."""
    size = min(block or weight.shape[1], weight.shape[1])
    return F.pad(weight, [0, -weight.shape[1] % size]).view(len(weight), -1, size)


@dataclass(frozen=True)
class Grid:
    """Multiples of a scale; the largest magnitude of a row, or of a block of it, is the largest element.

    Attributes:
        element: what multiples there are.
        block: weights of a row that share a scale; None: the whole row.
        half: scales are numbers of fp16, as files of packed weights hold them; the largest weight may then be cut by
            2^-12 of itself.

    Example:
        >>> Grid(integers(4)).rounded(torch.tensor([[7.0, 3.2]])).tolist()
        [[7.0, 3.0]]
    """

    element: Element
    block: int | None = None
    half: bool = False

    def split(self, weight: Tensor) -> Tensor:
        """See ``split``."""
        return split(weight, self.block)

    def scales(self, blocks: Tensor) -> Tensor:
        """The scale of each block, (rows, blocks, 1); differentiable, but where it is rounded to fp16."""
        found = blocks.abs().amax(2, keepdim=True) / self.element.largest
        if not self.half:
            return found
        bounds = torch.finfo(torch.float16)
        near = found.clamp(max=bounds.max).half().to(found.dtype)
        return torch.where((near == 0) & (found > 0), bounds.smallest_normal * bounds.eps, near)

    def rounded(self, weight: Tensor) -> Tensor:
        """Each weight at its nearest point of the grid, halves to even; a block of zeros stays zero."""
        with torch.no_grad():
            blocks = self.split(weight.detach())
            scale = self.scales(blocks)
            made = torch.where(scale > 0, blocks / scale, 0.0)
            made = made.round_() if not self.element.exponent else round_(made, self.element)
            made = made.clamp_(-self.element.largest, self.element.largest) if self.half else made
            return made.mul_(scale).flatten(1)[:, : weight.shape[1]].contiguous()

    def neighbours(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(blocks, lower, upper) as (rows, blocks, block): each weight and the grid's points around it.

        Both are the weight where it lies on the grid. Differentiable in the weights and their scales; which multiples
        the neighbours are is constant.
        """
        blocks = self.split(weight)
        scale = self.scales(blocks)
        unit = torch.where(scale > 0, blocks / scale, 0.0).detach()
        if self.element.exponent:
            size = round_(unit.abs(), self.element, "floor")
            power = torch.frexp(unit.abs()).exponent - 1
            step = torch.ldexp(torch.ones_like(unit), power.clamp(min=self.element.emin) - self.element.mantissa)
            far = torch.where(size == unit.abs(), size, size + step).clamp(max=self.element.largest)
            inner, outer = size * unit.sign(), far * unit.sign()
            lower, upper = torch.minimum(inner, outer), torch.maximum(inner, outer)
        else:
            lower, upper = unit.floor(), unit.ceil()
        return blocks, lower * scale, upper * scale


def variance(weight: Tensor, grid: Grid) -> Tensor:
    """Variance of each weight under unbiased rounding to one of its neighbours: (u - w)(w - l), (rows, columns).

    It is 0 on the grid, concave between its points, and differentiable but at them.
    """
    blocks, lower, upper = grid.neighbours(weight)
    return ((upper - blocks) * (blocks - lower)).flatten(1)[:, : weight.shape[1]]

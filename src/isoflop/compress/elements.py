"""What one number of a block can be: small floats and integers; numbers rounded to them, and their codes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.errors import UsageError, nearest

Format = Literal["mxfp8_e4m3", "mxfp8_e5m2", "mxfp6_e3m2", "mxfp6_e2m3", "mxfp4_e2m1", "mxint8", "mxint4"]
"""Names of microscaling formats."""
Rounding = Literal["even", "nearest", "floor"]
"""Of elements: halves to even, halves away from zero, or everything toward zero."""

_BITS = {torch.float32: (torch.int32, 0x7F800000, 23), torch.float64: (torch.int64, 0x7FF0 << 48, 52)}
"""Of the types in which elements are rounded: integers of their size, mask of the exponent, bits of the mantissa."""


@dataclass(frozen=True)
class Element:
    """What one element of a block can be.

    Attributes:
        name: as in ``FORMATS``.
        bits: of a code.
        exponent: bits of the exponent; 0: an integer.
        mantissa: bits behind the binary point.
        emax: exponent of the largest binade, which the scale is chosen for.
        largest: magnitude.

    Example:
        >>> element_of("mxfp4_e2m1").values()[:8].tolist()
        [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
    """

    name: str
    bits: int
    exponent: int
    mantissa: int
    emax: int
    largest: float

    @property
    def emin(self) -> int:
        """Exponent of the smallest binade: below it numbers lie as far apart as within it."""
        return 2 - (1 << (self.exponent - 1)) if self.exponent else 0

    def values(self) -> Tensor:
        """The value of every code, fp32."""
        codes = torch.arange(1 << self.bits)
        if not self.exponent:
            signed = torch.where(codes < 1 << (self.bits - 1), codes, codes - (1 << self.bits))
            return signed * 2.0**-self.mantissa
        sign = 1 - 2.0 * (codes >> (self.bits - 1))
        fraction, power = codes & ((1 << self.mantissa) - 1), codes >> self.mantissa & ((1 << self.exponent) - 1)
        whole = (power > 0) * (1 << self.mantissa) + fraction
        found = sign * whole * 2.0 ** (power.clamp(min=1) - 1 + self.emin - self.mantissa).float()
        if self.bits == 8:  # only the two wide ones spend codes on what is no number
            top = power == (1 << self.exponent) - 1
            infinite = top & (fraction == 0) & (self.mantissa == 2)
            found[top & (found.abs() > self.largest)] = math.nan
            found[infinite] = sign[infinite] * math.inf
        return found

    def codes(self, rounded: Tensor, sign: Tensor) -> Tensor:
        """Codes, uint8, of numbers that are elements already; ``sign`` (bool: negative) also tells -0 from 0."""
        if not self.exponent:
            return (rounded * 2.0**self.mantissa).long().bitwise_and((1 << self.bits) - 1).to(torch.uint8)
        magnitude = rounded.abs().double()
        power = (magnitude.view(torch.int64) >> 52) - 1023
        low = magnitude * 2.0 ** (self.mantissa - self.emin)
        high = (magnitude.view(torch.int64) >> (52 - self.mantissa)) - ((1023 + self.emin - 1) << self.mantissa)
        code = torch.where(power < self.emin, low.long(), high)
        return (code + (sign.long() << (self.bits - 1))).to(torch.uint8)


FORMATS: dict[str, Element] = {
    element.name: element
    for element in (
        Element("mxfp8_e4m3", 8, 4, 3, 8, 448.0),
        Element("mxfp8_e5m2", 8, 5, 2, 15, 57344.0),
        Element("mxfp6_e3m2", 6, 3, 2, 4, 28.0),
        Element("mxfp6_e2m3", 6, 2, 3, 2, 7.5),
        Element("mxfp4_e2m1", 4, 2, 1, 2, 6.0),
        Element("mxint8", 8, 0, 6, 0, 127 / 64),
        Element("mxint4", 4, 0, 2, 0, 1.75),
    )
}
"""Elements by the format's name. ``mxint4`` is no format of the standard: 4 bits of a sign and 3 of a magnitude."""


def element_of(format: str) -> Element:
    """The element of a format.

    Args:
        format: a name in ``FORMATS``.

    Raises:
        UsageError: there is no such format.
    """
    if format not in FORMATS:
        raise UsageError(f"no format is named {format!r}", where="mx", fix=nearest(format, FORMATS))
    return FORMATS[format]


def round_(x: Tensor, element: Element, rounding: Rounding = "even", scratch: Tensor | None = None) -> Tensor:
    """Round numbers to elements, in place; what lies beyond the largest one saturates.

    A number's neighbours are a power of two apart. Adding and taking off 3 * 2^22 of such steps (fp32) leaves the
    number rounded to even, as every sum is.

    Args:
        x: fp32 or fp64, already divided by its scale.
        element: of the format.
        rounding: of what lies between two elements.
        scratch: memory of ``x``'s shape and type.
    """
    if rounding not in get_args(Rounding):
        raise UsageError(f"no rounding is named {rounding!r}", where="mx", fix=nearest(rounding, get_args(Rounding)))
    integers, mask, digits = _BITS[x.dtype]
    magic = 1.5 * 2.0 ** (digits - element.mantissa)
    step: Tensor | float
    if element.exponent:
        step = torch.empty_like(x) if scratch is None else scratch
        torch.bitwise_and(x.view(integers), mask, out=step.view(integers))
        step.clamp_(min=2.0**element.emin).mul_(magic if rounding == "even" else 2.0**-element.mantissa)
    else:
        step = magic if rounding == "even" else 2.0**-element.mantissa
    if rounding == "even":
        x.add_(step).sub_(step)
    elif rounding == "floor":
        x.div_(step).trunc_().mul_(step)
    else:
        x.div_(step)
        x.copy_(x.abs().add_(0.5).floor_().copysign_(x)).mul_(step)
    return x.clamp_(-element.largest, element.largest)


def pack(codes: Tensor, bits: int) -> Tensor:
    """Codes of ``bits`` bits each side by side, the first in the lowest bits: uint8, 1-D, the last byte filled up.

    Args:
        codes: uint8, any shape.
        bits: 4, 6 or 8.

    Example:
        >>> pack(torch.tensor([1, 2, 3], dtype=torch.uint8), 4).tolist()
        [33, 3]
    """
    per = math.lcm(bits, 8) // bits
    flat = F.pad(codes.reshape(-1).long(), [0, -codes.numel() % per]).view(-1, per)
    word = (flat << torch.arange(per, device=codes.device) * bits).sum(1, keepdim=True)
    found = (word >> torch.arange(per * bits // 8, device=codes.device) * 8 & 0xFF).to(torch.uint8).reshape(-1)
    return found[: -(-codes.numel() * bits // 8)]


def unpack(data: Tensor, bits: int, count: int) -> Tensor:
    """The first ``count`` codes of what ``pack`` made: uint8, 1-D."""
    per, size = math.lcm(bits, 8) // bits, math.lcm(bits, 8) // 8
    flat = F.pad(data.reshape(-1).long(), [0, -data.numel() % size]).view(-1, size)
    word = (flat << torch.arange(size, device=data.device) * 8).sum(1, keepdim=True)
    found = word >> torch.arange(per, device=data.device) * bits & ((1 << bits) - 1)
    return found.to(torch.uint8).reshape(-1)[:count]

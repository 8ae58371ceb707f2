"""Microscaling formats (OCP MX v1.0): blocks of small floats or integers that share a power of two as their scale.

It stands alone: ``from isoflop.compress import mx`` works in anybody's code.

>>> import torch
>>> quantise(torch.tensor([1.0, 0.3, -2.5, 100.0]), "mxfp4_e2m1").tolist()
[0.0, 0.0, 0.0, 96.0]

Scales are taken from a float's bits, since log2 in fp32 rounds a number just below a power of two up to it. What the
standard leaves open is defined so: a block with a NaN or an infinity is NaN as a whole (scale byte 255), and a block of
zeros has scale byte 0. Values beyond the largest element saturate; integers are symmetric, so that -2.0 is not used.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.errors import UsageError, nearest
from .elements import FORMATS, Element, Rounding, element_of, pack, round_, unpack

__all__ = [
    "BIAS",
    "BLOCK",
    "FORMATS",
    "LARGEST_BYTE",
    "NAN_BYTE",
    "Blocks",
    "Damage",
    "Element",
    "MxTensor",
    "Rounding",
    "Scale",
    "damage",
    "element_of",
    "encode",
    "pack",
    "powers",
    "quantise",
    "round_",
    "scale_bytes",
    "unpack",
]

Scale = Literal["floor", "rceil", "ceil", "even"]
"""How a block's scale follows from its largest magnitude: see ``scale_bytes``."""

BLOCK = 32
NAN_BYTE, BIAS, LARGEST_BYTE = 255, 127, 254
_CHUNK = 1 << 16
"""Elements that are rounded at a time, so that scratch memory stays in the second-level cache (benchmarks/mx.py)."""

# ---------------------------------------------------------------- scales


def scale_bytes(largest: Tensor, element: Element, scale: Scale = "floor") -> Tensor:
    """Scale bytes, int64, of blocks with these largest magnitudes; a byte b stands for 2^(b - 127), 255 for NaN.

    The scale is 2^(e - emax). Under ``floor`` (the standard's rule) e is the exponent of the largest magnitude, which
    may then lie beyond the largest element; under ``rceil`` it is one more if it does, so that nothing saturates;
    under ``ceil`` it is one more unless the magnitude is a power of two; under ``even`` it is that of the magnitude
    rounded to the element's mantissa. So each rule is a carry into the exponent from some mantissa on.

    Args:
        largest: magnitudes, any shape; fp32 or fp64.
        element: of the format.
        scale: the rule.
    """
    bits = largest.double().view(torch.int64)
    power = (bits + _carry(element, scale) >> 52) - 1023
    found = (power - element.emax + BIAS).clamp_(0, LARGEST_BYTE)
    return torch.where(torch.isfinite(largest), found, NAN_BYTE)


@functools.cache
def _carry(element: Element, scale: Scale) -> int:
    """What is added to a magnitude's bits (fp64) so that its exponent grows by one from the rule's mantissa on."""
    if scale not in get_args(Scale):
        raise UsageError(f"no rule for scales is named {scale!r}", where="mx", fix=nearest(scale, get_args(Scale)))
    one = 1 << 52
    if scale == "rceil":
        return one - round((element.largest / 2.0**element.emax - 1) * one) - 1
    return {"floor": 0, "ceil": one - 1, "even": one >> (element.mantissa + 1)}[scale]


def powers(bytes_: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """What scale bytes stand for, 2^(b - 127), in ``dtype``; 255 is NaN."""
    exact = ((bytes_.long() - BIAS + 1023) << 52).view(torch.float64)
    return torch.where(bytes_ == NAN_BYTE, math.nan, exact).to(dtype)


# ---------------------------------------------------------------- blocks


@dataclass(frozen=True)
class Blocks:
    """How a tensor lies in blocks: as (rows, block, inner), the last block of an axis filled up with zeros.

    Attributes:
        shape: of the tensor.
        axis: along which its blocks lie, not negative.
        block: elements of one.

    Example:
        >>> blocks = Blocks.of(torch.ones(2, 40), axis=-1, block=32)
        >>> blocks.split(torch.ones(2, 40)).shape, blocks.scales
        (torch.Size([4, 32, 1]), (2, 2))
    """

    shape: tuple[int, ...]
    axis: int
    block: int

    @classmethod
    def of(cls, x: Tensor, axis: int, block: int) -> Blocks:
        """Those of a tensor. UsageError: it is not of real floating point, or has no such axis."""
        if not x.is_floating_point():
            raise UsageError(f"wants real floating point numbers, not {x.dtype}", where="mx", fix="convert them first")
        if block < 1:
            raise UsageError(f"a block has at least one element, not {block}", where="mx", fix="32 is the standard's")
        shape = tuple(x.shape) or (1,)
        if not -len(shape) <= axis < len(shape):
            raise UsageError(f"a tensor of shape {list(x.shape)} has no axis {axis}", where="mx")
        return cls(shape, axis % len(shape), block)

    @property
    def count(self) -> int:
        """Blocks along the axis."""
        return -(-self.shape[self.axis] // self.block)

    @property
    def inner(self) -> int:
        """Numbers behind each other along the axes behind that of the blocks."""
        return math.prod(self.shape[self.axis + 1 :])

    @property
    def scales(self) -> tuple[int, ...]:
        """Shape of the scales: one a block."""
        return (*self.shape[: self.axis], self.count, *self.shape[self.axis + 1 :])

    def split(self, x: Tensor) -> Tensor:
        """(rows, block, inner) of a tensor; a view where that can be."""
        x = x.reshape(self.shape)
        missing = self.count * self.block - self.shape[self.axis]
        if missing:
            x = F.pad(x, [0, 0] * (len(self.shape) - 1 - self.axis) + [0, missing])
        return x.reshape(-1, self.block, self.inner) if x.numel() else x.new_empty(0, self.block, max(self.inner, 1))

    def join(self, blocks: Tensor) -> Tensor:
        """The tensor of its blocks, what filled the last ones up cut off."""
        whole = (*self.shape[: self.axis], self.count * self.block, *self.shape[self.axis + 1 :])
        return blocks.reshape(whole).narrow(self.axis, 0, self.shape[self.axis])


def _pieces(blocks: Tensor) -> list[slice]:
    """Slices of rows that are worked on one after the other: few on a CPU, so that they stay in its cache."""
    if blocks.device.type != "cpu":
        return [slice(None)] if len(blocks) else []
    rows = max(1, _CHUNK // max(1, blocks.shape[1] * blocks.shape[2]))
    return [slice(start, start + rows) for start in range(0, len(blocks), rows)]


def _magnitude(blocks: Tensor) -> Tensor:
    """Largest magnitude of each block, (rows, 1, inner); NaN where one element is."""
    found = blocks.new_empty(len(blocks), 1, blocks.shape[2])
    for piece in _pieces(blocks):
        torch.amax(blocks[piece].abs(), 1, keepdim=True, out=found[piece])
    return found


# ---------------------------------------------------------------- numbers


def quantise(
    x: Tensor,
    format: str = "mxfp8_e4m3",
    *,
    axis: int = -1,
    block: int = BLOCK,
    scale: Scale = "floor",
    rounding: Rounding = "even",
    out: torch.dtype | None = None,
) -> Tensor:
    """The numbers that a tensor becomes in a format: quantised and dequantised. No gradient is recorded.

    Args:
        x: any shape, floating point; it may be a view.
        format: a name in ``FORMATS``.
        axis: along which blocks lie; for a product, the axis that is summed over.
        block: elements of one; the last block of an axis may have fewer.
        scale: how a block's scale follows from its largest magnitude.
        rounding: of elements.
        out: type of the result; None: that of ``x``. All formats but the widest scales are exact in bf16.

    Returns:
        A tensor of ``x``'s shape.

    Raises:
        UsageError: no format, rule or axis of that name.

    Example:
        >>> gains = torch.full((32,), 0.92)
        >>> quantise(gains)[0].item(), quantise(gains, scale="rceil")[0].item()
        (0.875, 0.9375)
    """
    element, layout = element_of(format), Blocks.of(x, axis, block)
    with torch.no_grad():
        blocks = layout.split(x.detach())
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        bytes_ = scale_bytes(_magnitude(blocks), element, scale)
        inverse, power = powers(_inverse(bytes_), wide), powers(bytes_, wide)
        made = torch.empty(blocks.shape, dtype=out or x.dtype, device=x.device)
        pieces = _pieces(blocks)
        work, scratch = torch.empty(2, *blocks[pieces[0] if pieces else slice(0)].shape, dtype=wide, device=x.device)
        for piece in pieces:
            count = len(inverse[piece])
            scaled = torch.mul(blocks[piece], inverse[piece], out=work[:count])
            torch.mul(round_(scaled, element, rounding, scratch[:count]), power[piece], out=made[piece])
        return layout.join(made).reshape(x.shape).contiguous()


def _inverse(bytes_: Tensor) -> Tensor:
    """Bytes of the scales' inverses."""
    return torch.where(bytes_ == NAN_BYTE, NAN_BYTE, 2 * BIAS - bytes_)


# ---------------------------------------------------------------- codes


@dataclass(frozen=True)
class MxTensor:
    """A tensor as codes and scales.

    Attributes:
        codes: one uint8 an element, in the tensor's shape; ``pack`` puts the narrow ones side by side.
        scales: one uint8 a block (E8M0), in the tensor's shape but for the axis.
        format: a name in ``FORMATS``.
        axis: along which blocks lie.
        block: elements of one.

    Example:
        >>> packed = encode(torch.tensor([1.0, -6.0]), "mxfp4_e2m1")
        >>> packed.codes.tolist(), packed.scales.tolist(), packed.decode().tolist()
        ([2, 15], [127], [1.0, -6.0])
    """

    codes: Tensor
    scales: Tensor
    format: str
    axis: int = -1
    block: int = BLOCK

    def decode(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The numbers that the codes stand for; exact in fp32."""
        values = element_of(self.format).values().to(self.codes.device)[self.codes.long()]
        layout = Blocks.of(values, self.axis, self.block)
        power = powers(self.scales).reshape(-1, 1, layout.inner)
        return layout.join(layout.split(values) * power).reshape(self.codes.shape).to(dtype)

    @property
    def bits(self) -> float:
        """Bits that an element takes, its part of the scale included."""
        element = element_of(self.format)
        return element.bits + 8 * self.scales.numel() / max(1, self.codes.numel())


def encode(
    x: Tensor,
    format: str = "mxfp8_e4m3",
    *,
    axis: int = -1,
    block: int = BLOCK,
    scale: Scale = "floor",
    rounding: Rounding = "even",
) -> MxTensor:
    """A tensor's codes and scales; ``decode`` of them is ``quantise`` of it. Arguments are ``quantise``'s.

    The codes of a block that holds a NaN or an infinity are 0, and its scale is NaN.
    """
    element, layout = element_of(format), Blocks.of(x, axis, block)
    with torch.no_grad():
        blocks = layout.split(x.detach().to(torch.float64 if x.dtype == torch.float64 else torch.float32))
        bytes_ = scale_bytes(_magnitude(blocks), element, scale)
        scaled = (blocks * powers(_inverse(bytes_), blocks.dtype)).nan_to_num_(0.0)
        sign = scaled.signbit()
        codes = element.codes(round_(scaled, element, rounding), sign)
    shaped = layout.join(codes).reshape(x.shape).contiguous()
    return MxTensor(shaped, bytes_.to(torch.uint8).reshape(layout.scales), format, axis, block)


# ---------------------------------------------------------------- damage


@dataclass(frozen=True)
class Damage:
    """What a format does to a tensor.

    Attributes:
        saturated: share of blocks whose largest magnitude lies beyond the largest element.
        collapsed: share of blocks whose elements differ before and are all alike after.
        bias: mean of (after - before) / before over what is not 0: what all numbers are shifted by together.
        error: root of the mean squared error over that of the mean square.

    Example:
        >>> gains = torch.normal(0.92, 0.02, (4096,), generator=torch.Generator().manual_seed(0))
        >>> found = damage(gains)
        >>> round(found.bias, 2), found.collapsed > 0.9
        (-0.05, True)
    """

    saturated: float
    collapsed: float
    bias: float
    error: float


def damage(
    x: Tensor,
    format: str = "mxfp8_e4m3",
    *,
    axis: int = -1,
    block: int = BLOCK,
    scale: Scale = "floor",
    rounding: Rounding = "even",
) -> Damage:
    """How much a tensor loses in a format; arguments are ``quantise``'s. A tensor of zeros loses nothing."""
    element, layout = element_of(format), Blocks.of(x, axis, block)
    before = layout.split(x.detach().double())
    after = layout.split(quantise(x.double(), format, axis=axis, block=block, scale=scale, rounding=rounding))
    magnitude = _magnitude(before)
    limit = powers(scale_bytes(magnitude, element, scale), torch.float64) * element.largest
    real = layout.split(torch.ones(layout.shape, device=x.device)) > 0  # what fills the last block up is not

    def alike(blocks: Tensor) -> Tensor:
        low, high = blocks.masked_fill(~real, math.inf).amin(1), blocks.masked_fill(~real, -math.inf).amax(1)
        return low == high

    some = before != 0
    power = float(before.square().sum())
    return Damage(
        saturated=float((magnitude > limit).double().mean()) if magnitude.numel() else 0.0,
        collapsed=float((alike(after) & ~alike(before)).double().mean()) if magnitude.numel() else 0.0,
        bias=float(((after - before)[some] / before[some]).mean()) if bool(some.any()) else 0.0,
        error=math.sqrt(float((after - before).square().sum()) / power) if power else 0.0,
    )

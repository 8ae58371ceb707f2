"""Hyena of order 2 (Poli et al. 2023, arXiv 2302.10866): a long convolution between two gates."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from ...core.context import Context
from ...core.contracts import Cacheable, Documents, Gains, MixerPart, Pattern, Products, Seen, Step
from ...core.errors import UsageError
from ...core.registry import Card, part
from ...core.roles import Shape
from ..cache import Padding
from ..convolution import causal_convolution, convolution_work
from ..convolution_state import ConvolutionState
from ..cost import pointwise
from ..filters import FreeFilter, ImplicitFilter, Taps
from ..layers import Matrix, Product, exact, joined, matrix_shapes
from ..short_convolution import ShortConvolution, shapes, work

Operands = tuple[Product, Taps, Product]
"""Joined product, the long filter's taps, output's product."""


class LongConvolution(nn.Module):
    """q * (filter * (k * v)) of (batch, length, width) vectors, with q, k, v behind short convolutions.

    Projections are in the products' dtype, all between them is fp32.

    Args:
        width: of the vectors.
        taps: of the short convolutions.
        filter: the long one's.

    Example, with ``ctx`` a context:
        >>> layer = LongConvolutionPart().build(32, ctx)
        >>> layer(torch.zeros(2, 5, 32), layer.products(torch.float32)).shape
        torch.Size([2, 5, 32])
    """

    def __init__(self, width: int, taps: int, filter: FreeFilter | ImplicitFilter) -> None:
        super().__init__()
        self.width = width
        self.q, self.k, self.v = (Matrix(width, width) for _ in range(3))
        self.short = ShortConvolution(3 * width, taps)
        self.filter = filter
        self.out = Matrix(width, width, residual=True)

    def products(self, dtype: torch.dtype) -> Operands:
        """What ``forward`` multiplies by: joined query-key-value, the filter as it is now, and output."""
        return joined((self.q, self.k, self.v), dtype), self.filter.taps(), self.out.product(dtype)

    def forward(
        self, x: Tensor, products: Operands, seen: Seen | Padding = None, cache: ConvolutionState | None = None
    ) -> Tensor:
        """(batch, length, width) -> same. With a cache, ``x`` continues what the cache holds and is added to it."""
        to_qkv, taps, to_out = products
        qkv = exact(to_qkv(x))
        if cache is None:
            _refuse(seen)
            q, k, v = self.short(qkv).transpose(1, 2).chunk(3, 1)
            mixed = (q * causal_convolution(k * v, taps(x.shape[1]).t())).transpose(1, 2)
        else:
            q, k, v = cache.short(qkv, self.short, seen if isinstance(seen, Padding) else None).chunk(3, -1)
            mixed = (q * cache.long(k * v, taps)).transpose(0, 1)
        return to_out(mixed.to(x.dtype))

    def make_cache(self, batch: int, capacity: int, dtype: torch.dtype) -> ConvolutionState:
        """Room for ``capacity`` tokens at first; it grows as they come."""
        return ConvolutionState(batch, capacity, self.short)


def _refuse(seen: Any) -> None:
    named = seen.name if isinstance(seen, Pattern) else "a mask"
    if seen is None or named == "causal":
        return
    what = "documents of one row" if isinstance(seen, Documents) else named
    raise UsageError(
        f"a long convolution sees all earlier positions and no others; it cannot obey {what}",
        where="model.mixer",
        fix="give no mask, or use the mixer attention",
    )


@part
class LongConvolutionPart(MixerPart):
    """Long convolution between gates: cost grows as length log length, where attention's grows as its square.

    For long texts, and where many tokens are written one by one: a step costs the same at any position, but for a
    logarithm (``models.online_convolution``). What attention looks up exactly, a filter only knows by its distance.

    Example:
        >>> part = LongConvolutionPart(filter="free", length=100)
        >>> [(shape.name, shape.shape) for shape in part.shapes(32)][-2:]
        [('filter.free.weight', (100, 32)), ('out.weight', (32, 32))]
    """

    filter: Literal["implicit", "free"] = "implicit"
    """A small network says what each tap is, at any lag; or each tap is a parameter."""
    length: PositiveInt = 1024
    """Taps of a free filter, beyond which nothing can be read; the scale of an implicit one, which goes on."""
    taps: PositiveInt = 3
    """Of the short convolutions of queries, keys and values; 1: a gain alone."""
    hidden: PositiveInt = 64
    """Width of the network of an implicit filter."""
    waves: PositiveInt = 16
    """Wavelengths in which that network reads a lag."""
    provides = frozenset({Cacheable})
    isolates: ClassVar[bool] = False
    card = Card(
        summary="Hyena of order 2: a long convolution between two gates",
        paper="Poli et al. 2023, arXiv 2302.10866; decoding: Oncescu et al. 2024, arXiv 2410.12982",
        equation="W_out (q * (h conv (k * v))), with q, k, v = short_conv(W x)",
        differs="windows decay by rates and lags are read in wavelengths that grow by equal factors, from 1 or 2 "
        "positions to the filter's length; tap 0 takes the place of a weight on the input",
        cost="4 projections; transforms of about 15 length log2(length) FLOPs a channel and row; the implicit filter's "
        "network once a step, whatever the batch",
    )

    def build(self, width: int, ctx: Context) -> LongConvolution:
        made: FreeFilter | ImplicitFilter
        if self.filter == "free":
            made = FreeFilter(width, self.length)
        else:
            made = ImplicitFilter(width, self.length, self.hidden, self.waves)
        return LongConvolution(width, self.taps, made)

    @property
    def longest(self) -> int | None:
        return self.length if self.filter == "free" else None

    def problems(self, width: int) -> list[str]:
        return ["length: is 1, but a filter needs a scale; use 2 at least"] if self.length == 1 else []

    def shapes(self, width: int) -> list[Shape]:
        if self.filter == "free":
            own = FreeFilter.shapes(width, self.length)
        else:
            own = ImplicitFilter.shapes(width, self.hidden, self.waves)
        return [
            *(shape for name in "qkv" for shape in matrix_shapes(name, width, width)),
            *shapes("short", 3 * width, self.taps),
            *(shape.within("filter") for shape in own),
            *matrix_shapes("out", width, width),
        ]

    def steps(self, batch: int, length: int, width: int, pattern: Pattern | None = None) -> list[Step]:
        numbers, mixed = batch * length * width, convolution_work(batch, width, length)
        filtered: list[Step] = [Gains(("filter.free.weight",), pointwise(length * width, operations=3)), mixed]
        if self.filter == "implicit":
            filtered = [ImplicitFilter.step("filter.", width, length, self.hidden, self.waves), mixed]
        return [
            Products(("q.weight", "k.weight", "v.weight")),
            Gains(("short.weight",), *work(batch, length, 3 * width, self.taps)),
            pointwise(numbers, operations=2),
            *filtered,
            Products(("out.weight",)),
        ]

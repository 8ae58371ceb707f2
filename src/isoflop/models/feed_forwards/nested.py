"""Nested widths: a feed-forward whose first units are feed-forwards themselves (Devvrit et al. 2023, MatFormer)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from pydantic import PositiveInt, PrivateAttr
from torch import Tensor, nn

from ...core.context import Context
from ...core.contracts import VARIANT, FeedForwardPart, Pattern, Products, Step
from ...core.cost import Work
from ...core.registry import Card, part
from ...core.roles import Shape
from ...core.slots import FeedForwardSlot
from ...core.turns import Turns
from ..gated import GatedPart
from ..layers import Product
from ..plain import PlainPart


class Nested(nn.Module):
    """The sum of some feed-forwards over the same vectors, the first ones of which can stand alone.

    A feed-forward's hidden units add up in its output, so that one of width 64 and one of the next 64 units side by
    side are one of width 128. Each segment has parameters of its own: those that a step did not use get no gradient,
    and an optimizer leaves them and their state as they are, to the last bit.

    Args:
        segments: feed-forwards, in the order in which they join.
        turns: which variant a training step computes; variant i has the first i + 1 segments.

    Attributes:
        variants: how many there are.
        taken: the one that it was told to take; None: none.

    Example:
        >>> from isoflop.core.rng import Rng
        >>> from isoflop.models.feed_forwards.swiglu import SwiGlu
        >>> layer = Nested([SwiGlu(32, 16), SwiGlu(32, 48)], Turns(Rng(0), 2))
        >>> layer.take(0)  # 16 units wide
        >>> layer(torch.zeros(2, 5, 32), layer.products(torch.float32)).shape, len(layer.products(torch.float32))
        (torch.Size([2, 5, 32]), 1)
    """

    def __init__(self, segments: Sequence[nn.Module], turns: Turns) -> None:
        super().__init__()
        self.segments = nn.ModuleList(segments)
        self.turns, self.variants = turns, len(segments)
        self.taken: int | None = None
        self._drawn = self.variants - 1

    def at(self, step: int, horizon: int) -> None:
        """Draw the step's variant."""
        self._drawn = self.turns.at(step)

    def take(self, variant: int | None) -> None:
        """Compute in this variant from now on; None: as the step says."""
        self.taken = variant

    @property
    def variant(self) -> int:
        """The present one."""
        if self.taken is not None:
            return self.taken
        return self._drawn if self.training else self.variants - 1

    def products(self, dtype: torch.dtype) -> tuple[tuple[Product, Product], ...]:
        """What ``forward`` computes with, operands in ``dtype``: those of each segment that is used."""
        return tuple(segment.products(dtype) for segment in list(self.segments)[: self.variant + 1])  # type: ignore[operator]

    def forward(self, x: Tensor, products: tuple[tuple[Product, Product], ...]) -> Tensor:
        """(batch, length, width) -> same, with as many segments as there are products."""
        segments: list[Any] = list(self.segments)[: len(products)]
        out: Tensor = segments[0](x, products[0])
        for segment, own in zip(segments[1:], products[1:], strict=True):
            out = out + segment(x, own)
        return out


@part
class NestedPart(FeedForwardPart):
    """MatFormer: one training for several widths, each of which is the beginning of the next.

    A training step computes one of the widths, drawn for it, in every layer alike, and pays for that one; with the
    objective ``nested`` it computes all of them. In use the layer has its full width. A trained run is cut to a width,
    or to one a layer, by ``isoflop compress RUN --with '{name = "slice", hidden_widths = [64, 128]}' --name SMALL``.

    Example:
        >>> part = NestedPart(widths=(16, 64))
        >>> [shape.name for shape in part.shapes(32) if "down" in shape.name]
        ['segments.0.down.weight', 'segments.1.down.weight']
    """

    widths: tuple[PositiveInt, ...] | None = None
    """Ascending; by default an eighth, a quarter, a half and the whole of the unit's own width."""
    unit: FeedForwardSlot = "swiglu"  # type: ignore[assignment]
    """What is nested: a gated feed-forward or a plain one, without biases."""
    card = Card(
        summary="Several widths trained at once, each the beginning of the next",
        paper="Devvrit et al. 2023, MatFormer, arXiv 2310.07707",
        equation="sum_{s <= i} W_down,s f(W_gate,s x) * W_up,s x, i drawn each step",
        defaults="an eighth, a quarter, a half and the whole, one drawn uniformly for each batch",
        differs="in each round of as many steps as there are widths every width comes once, in a drawn order; what a "
        "wider one adds to a narrower one is a parameter of its own, which optimizers of matrices treat by itself",
        cost="that of the width that a step computes",
    )
    _variant: int | None = PrivateAttr(None)

    def sizes(self, width: int) -> tuple[int, ...]:
        """The nested widths, ascending."""
        if self.widths is not None:
            return self.widths
        full: int = self.unit.inner(width)  # type: ignore[attr-defined]
        return tuple(sorted({max(1, full * eighths // 8) for eighths in (1, 2, 4, 8)}))

    def inner(self, width: int) -> int:
        """Inner width, all of it."""
        return self.sizes(width)[-1]

    def _units(self, width: int) -> list[FeedForwardPart]:
        """The part of each segment."""
        sizes = self.sizes(width)
        pairs = zip(sizes, (0, *sizes), strict=False)
        return [self.unit.model_copy(update={"hidden": size - before}) for size, before in pairs]

    def build(self, width: int, ctx: Context) -> Nested:
        segments: list[Any] = [unit.build(width, ctx) for unit in self._units(width)]
        for segment in segments:
            segment.down.std = self.inner(width) ** -0.5  # so that the whole starts as a plain one does
        return Nested(segments, Turns(ctx.rng(VARIANT), len(segments)))

    def shapes(self, width: int) -> list[Shape]:
        return [shape for index in range(len(self.sizes(width))) for shape in self._segment(index, width)]

    def _segment(self, index: int, width: int) -> list[Shape]:
        return [shape.within(f"segments.{index}") for shape in self._units(width)[index].shapes(width)]

    @property
    def variants(self) -> int:
        return 4 if self.widths is None else len(self.widths)

    def varied(self, variant: int) -> Self:
        copy = self.model_copy()
        copy._variant = variant
        return copy

    def idle(self, width: int) -> frozenset[str]:
        used = self.variants if self._variant is None else self._variant + 1
        return frozenset(s.name for index in range(used, self.variants) for s in self._segment(index, width))

    def steps(self, batch: int, length: int, width: int, pattern: Pattern | None = None) -> list[Step]:
        used = self.variants if self._variant is None else self._variant + 1
        each = [unit.steps(batch, length, width, pattern) for unit in self._units(width)[:used]]
        found: list[Step] = []
        for alike in zip(*each, strict=True):  # all segments read the same vectors
            if isinstance(alike[0], Products):
                names = [f"segments.{i}.{name}" for i, one in enumerate(alike) for name in one.names]
                found.append(Products(tuple(names)))
            else:
                found.append(sum(alike, Work()))
        return found

    def problems(self, width: int) -> list[str]:
        if not isinstance(self.unit, GatedPart | PlainPart):
            return [f"unit: {self.unit.name} has no hidden units that could be nested; use swiglu, geglu or gelu"]
        found = []
        if self.unit.hidden is not None:
            found.append(f"unit.hidden: the widths say it; leave it out, and put {self.unit.hidden} last in widths")
        if self.unit.bias:
            found.append("unit.bias: each segment would add its own to the sum; leave it out")
        sizes = self.sizes(width)
        if list(sizes) != sorted(set(sizes)):
            legal = sorted(set(sizes))
            found.append(f"widths: {list(sizes)} do not nest, as each must be larger than the one before; use {legal}")
        if len(sizes) < self.variants:
            found.append(f"widths: a width of {sizes[-1]} has no eighth; say them, e.g. {list(sizes)}")
        return found

    def joined(self, tensors: Mapping[str, Tensor], width: int) -> tuple[FeedForwardPart, Mapping[str, Tensor]]:
        found: dict[str, Tensor] = {}
        for shape in self._units(width)[0].shapes(width):
            pieces = [tensors[f"segments.{index}.{shape.name}"] for index in range(len(self.sizes(width)))]
            found[shape.name] = torch.cat(pieces, dim=1 if shape.name.startswith("down.") else 0)
        return self.unit.model_copy(update={"hidden": self.inner(width)}), found

"""Several parametrizations, one after the other: sparsify, then quantise what is left."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from fnmatch import fnmatchcase
from fractions import Fraction
from typing import Annotated, Any, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from ...core.contracts import AddsGradient, Operands, ParametrizationPart, TakesCurvature
from ...core.cost import Work
from ...core.registry import Card, part
from ...core.rng import Rng
from ...core.roles import Shape
from ...core.slots import ParametrizationSlot
from ..weights import WeightForm, WeightPart, masked_product


class Composed(WeightForm):
    """Each form takes up what the one before it gives.

    Args:
        forms: (name, form) in order.

    Example:
        >>> from isoflop.compress.parametrizations.integer import IntegerPart
        >>> from isoflop.compress.parametrizations.nm import NMPart
        >>> both = ComposedPart(parts=(NMPart(n=1, m=2), IntegerPart(bits=2))).build(1, 2, Rng(0))
        >>> both.finalize(torch.tensor([[1.0, -3.0]])).tolist()
        [[0.0, -3.0]]
    """

    def __init__(self, forms: Iterable[tuple[str, nn.Module]]) -> None:
        super().__init__()
        self.forms: Any = nn.ModuleDict(dict(forms))

    @property
    def operands(self) -> Operands | None:  # type: ignore[override]
        """The last form's, which alone may have any."""
        found: Operands | None = list(self.forms.values())[-1].operands
        return found

    def trained(self, weight: Tensor) -> Tensor:
        for form in self.forms.values():
            weight = form.effective(weight)
        return weight

    def finalize(self, weight: Tensor) -> Tensor:
        for form in self.forms.values():
            weight = form.finalize(weight)
        return weight

    def take_curvature(self, curvature: Callable[[], Tensor | None]) -> None:
        for form in self.forms.values():
            if isinstance(form, TakesCurvature):
                form.take_curvature(curvature)

    @torch.no_grad()
    def told(self, weight: Tensor) -> dict[str, float]:
        """What each form says of the weight that it takes up; of the share that is not zero, the last one's word."""
        found: dict[str, float] = {}
        for form in self.forms.values():
            found |= form.told(weight)
            weight = form.finalize(weight)
        return found

    @torch.no_grad()
    def own_gradient(self, weight: Tensor) -> Tensor | None:
        """Each form's own at the weight that it takes up, straight through those before it."""
        found: Tensor | None = None
        for form in self.forms.values():
            own = form.own_gradient(weight) if isinstance(form, AddsGradient) else None
            if own is not None:
                found = own if found is None else found + own
            weight = form.effective(weight)
        return found


@part
class ComposedPart(ParametrizationPart):
    """Several parametrizations of the same weights, in order. A recipe says it by a list.

    Sparsify first and quantise then: scales are those of the weights that are left. Each part has targets of its own.

    Example:
        >>> part = ComposedPart(parts=("nm", "integer"))
        >>> [inner.name for inner in part.parts]
        ['nm', 'integer']
    """

    parts: Annotated[tuple[ParametrizationSlot, ...], Field(min_length=1)]
    """The parametrizations, the first one acting on the weight itself."""
    card = Card(
        summary="Several parametrizations in order, each on what the one before gives",
        equation="W' = f_k(... f_1(W))",
        cost="theirs",
    )

    @property
    def bits_in_use(self) -> float | None:
        found = [inner.bits_in_use for inner in self.parts if inner.bits_in_use is not None]
        return found[-1] if found else None

    @property
    def everywhere(self) -> bool:
        return self.targets == ("*",) and all(inner.everywhere for inner in self.parts)

    def matches(self, shapes: Sequence[Shape]) -> list[str]:
        return [problem for inner in self.parts for problem in inner.matches(shapes)] or super().matches(shapes)

    def of(self, shape: Shape) -> ParametrizationPart | None:
        if not any(fnmatchcase(shape.name.removesuffix(".weight"), target) for target in self.targets):
            return None
        found = tuple(own for inner in self.parts if (own := inner.of(shape)) is not None)
        return self.model_copy(update={"parts": found}) if found else None

    def stages(self, horizon: int) -> tuple[tuple[int, Hashable], ...]:
        each = [inner.stages(horizon) for inner in self.parts]
        starts = sorted({start for stages in each for start, _ in stages})
        return tuple(
            (start, tuple([stage for at, stage in stages if at <= start][-1] for stages in each)) for start in starts
        )

    def priced(self, stage: Hashable) -> Self:
        assert isinstance(stage, tuple)
        priced = tuple(inner.priced(own) for inner, own in zip(self.parts, stage, strict=True))
        return self.model_copy(update={"parts": priced})

    def check(self, recipe: Any) -> list[str]:
        problems = []
        for i, inner in enumerate(self.parts):
            if not isinstance(inner, WeightPart):
                problems.append(
                    f"parametrization.{i}: {inner.name} takes a product's place, not a weight's; use it alone"
                )
            elif inner.last and i < len(self.parts) - 1:
                problems.append(f"parametrization.{i}: {inner.name} rounds the operands of products; put it last")
        names = [inner.name for inner in self.parts]
        problems += [f"parametrization: names {name} twice" for name in sorted(set(names)) if names.count(name) > 1]
        return problems

    def build(self, rows: int, columns: int, rng: Rng) -> Composed:
        return Composed((inner.name, inner.build(rows, columns, rng(inner.name))) for inner in self.parts)

    def shapes(self, rows: int, columns: int) -> list[Shape]:
        return [
            Shape(f"forms.{inner.name}.{own.name}", own.role, own.shape)
            for inner in self.parts
            for own in inner.shapes(rows, columns)
        ]

    def join(self, members: Sequence[tuple[nn.Module, nn.Module]]) -> None:
        for inner in self.parts:
            held = [(own.forms, module) for own, module in members if isinstance(own, Composed)]
            inner.join([(forms[inner.name], module) for forms, module in held if inner.name in forms])

    def work(self, tokens: int, rows: int, columns: int, *, trained: bool, live: bool, own: frozenset[str]) -> Work:
        weights = [inner for inner in self.parts if isinstance(inner, WeightPart)]
        kept = min((inner.kept(rows, columns) for inner in weights), default=Fraction(1))
        masked = min((inner.kept(rows, columns) for inner in weights if not inner.dense), default=Fraction(1))
        needed = trained or bool(own)
        product = masked_product(tokens, rows, columns, live=live, trained=needed, kept=kept, masked=masked)
        return product + sum((inner.made(tokens, rows, columns) for inner in weights), Work())

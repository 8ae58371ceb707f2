"""Mean of the latest k weights, taken every few steps (LAWA; Kaddour 2022, arXiv 2209.14981)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import PositiveInt
from torch import Tensor

from ...core.context import Context
from ...core.contracts import AveragingPart, Stateful
from ...core.cost import Cost
from ...core.registry import Card, part
from ...core.roles import Shape
from ..averages import Average
from ..groups import elementwise


class LatestK(Average):
    """The mean of the ``k`` latest of the weights seen every ``every`` updates (fewer at the beginning).

    What averaging stored checkpoints gives, without storing them on disk: LAWA. Old weights drop out at once.

    Args:
        params: the live parameters.
        k: how many are kept; memory is k floats a parameter.
        every: updates between two that count; the first counts.

    Example:
        >>> average = LatestK(list(model.parameters()), k=5, every=10)
        >>> average.update(0)  # after each step, with its number
        >>> with average.evaluation_weights(): loss = model(x).square().mean()
    """

    def __init__(self, params: Sequence[Tensor], k: int = 5, every: int = 1) -> None:
        if k < 1 or every < 1:
            raise ValueError(f"k and every must be >= 1, got {k} and {every}")
        super().__init__(params)
        self.every = every
        self.ring = [self.zeros() for _ in range(k)]

    @torch.no_grad()
    def update(self, t: int) -> None:
        """Take in the weights as they are after step ``t``, if it is their turn."""
        if self.updates % self.every == 0:
            slot = self.ring[self.updates // self.every % len(self.ring)]
            for kept, p in zip(slot, self.params, strict=True):
                kept.copy_(p)
        self.updates += 1

    def averages(self) -> list[Tensor]:
        taken = min((self.updates - 1) // self.every + 1, len(self.ring))
        return [torch.stack([slot[j] for slot in self.ring[:taken]]).mean(0) for j in range(len(self.params))]

    def buffers(self) -> dict[str, list[Tensor]]:
        return {f"ring{i}": slot for i, slot in enumerate(self.ring)}


@part
class LatestKPart(AveragingPart):
    """Mean of the latest k weights."""

    card = Card(
        summary="mean of the k latest weights, taken every few steps",
        paper="Kaddour 2022, arXiv 2209.14981",
        equation="mean of w_t, w_(t - every), ..., w_(t - (k - 1) every)",
        defaults="k 5 to 10, once an epoch or every thousand steps",
        cost="k floats of state a parameter",
    )
    provides = frozenset({Stateful})

    k: PositiveInt = 5
    """Weights that are averaged."""
    every: PositiveInt = 10
    """Steps between two of them."""

    def build(self, ctx: Context) -> LatestK:
        return LatestK([p for group in ctx.groups for p in group.params], self.k, self.every)

    def cost(self, shapes: Sequence[Shape]) -> Cost:
        return elementwise(shapes, operations=1, floats=2)

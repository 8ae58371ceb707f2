"""N:M sparsity in training, with pruned weights that fade out (Bambhaniya et al. 2024, arXiv 2402.04744)."""

from __future__ import annotations

import math
from collections.abc import Hashable
from fractions import Fraction
from typing import Any, ClassVar, Literal

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from ...core.registry import Card, part
from ...core.rng import Rng
from ..sparsity import Axis, Structure, decay, decayed, group_mask, patterns, timetable
from ..weights import Share, WeightForm, WeightPart, needs_horizon, straight_through

Rule = Literal["ste", "sr_ste", "linear", "exponential"]


class GroupSparse(WeightForm):
    """The N largest of each M weights; masks follow the weights, step by step, to the end.

    Args:
        part: its settings.

    Example:
        >>> sparse = GroupSparse(NMPart(n=1, m=2))
        >>> sparse.finalize(torch.tensor([[1.0, -3.0, 2.0, 2.0]])).tolist()
        [[0.0, -3.0, 2.0, 0.0]]
    """

    def __init__(self, part: NMPart) -> None:
        super().__init__()
        self.part = part
        self.now: tuple[int, int] | None = None if part.dense_share else part.first
        self.factor = 1.0 if part.fades else 0.0

    def at(self, step: int, horizon: int) -> None:
        """Take up the pattern of a step, and how far pruned weights have faded."""
        self.now, self.factor = self.part.state(step, horizon)

    def trained(self, weight: Tensor) -> Tensor:
        if self.now is None:
            return weight
        mask = group_mask(weight, *self.now, self.part.axis)
        if self.part.gradient == "product":
            return decayed(weight, mask, self.factor)
        made = decayed(weight.detach(), mask, self.factor)
        return straight_through(weight, made)

    def own_gradient(self, weight: Tensor) -> Tensor | None:
        """SR-STE: pruned weights are pulled to zero, pull (1 - mask) w."""
        if self.part.rule != "sr_ste" or self.now is None:
            return None
        return self.part.pull * torch.where(group_mask(weight, *self.now, self.part.axis), 0.0, weight)

    def finalize(self, weight: Tensor) -> Tensor:
        return weight.detach() * group_mask(weight, self.part.n, self.part.m, self.part.axis)


@part
class NMPart(WeightPart):
    """N:M sparsity: of each M weights of a row the N largest are kept, in the end.

    Use it for hardware that multiplies such matrices (2:4), or to compare at equal inference FLOPs. The fading rules
    let a gradient flow through pruned weights for a while; at high sparsity that is what helps.

    Example:
        >>> NMPart(n=1, m=16, rule="exponential", rate=1e-2).state(100, 1000)[1] < 0.4
        True
    """

    n: PositiveInt = 2
    """Weights kept of each group."""
    m: PositiveInt = 4
    """Weights of a group; it divides the columns."""
    rule: Rule = "ste"
    """What becomes of pruned weights: ste, nothing; sr_ste, they are pulled to zero; linear and exponential: they fade
    out, max(0, 1 - rate t) or exp(-rate t) times as large after t steps."""
    structure: Structure = "fixed"
    """How the pattern comes about: fixed; stepwise (M-1, M/2, M/4 ... of M); geometric (8N:8M, 4N:4M, 2N:2M, N:M);
    densify (N of 8M, 4M, 2M, M)."""
    rate: NonNegativeFloat = 1e-3
    """Of fading, a step."""
    pull: NonNegativeFloat = 2e-4
    """Of sr_ste: added to the gradient times the pruned weight."""
    gradient: Literal["straight", "product"] = "straight"
    """Of a faded weight: as if it were whole, or multiplied by what is left of it."""
    dense_share: Share = 0.0
    """Share of the run before the first pattern."""
    tune: Share = 0.0
    """Share at the end in which the mask is hard."""
    axis: Axis = "row"
    """Whether groups lie along rows (what a product sums over) or down columns."""
    card = Card(
        summary="Keeps the N largest of each M weights; pruned ones may fade out over the run",
        paper="Bambhaniya et al. 2024, arXiv 2402.04744; SR-STE: Zhou et al. 2021, arXiv 2102.04010",
        equation="W' = W (mask + (1 - mask) max(0, 1 - c t)), or exp(-c t); dL/dW = dL/dW' (+ pull (1 - mask) W)",
        defaults="feed-forwards 1:32, attention 1:8, c = 1e-4, 350 epochs",
        differs="t counts from the first masked step; of equal magnitudes the first stay; evaluations see hard masks",
        cost="sorting each group once a micro-batch; what the hard mask skips is not counted as needed",
    )
    operations: ClassVar[int] = 20

    @property
    def fades(self) -> bool:
        """Whether pruned weights fade instead of being cut."""
        return self.rule in ("linear", "exponential")

    @property
    def first(self) -> tuple[int, int]:
        """The first pattern."""
        return patterns(self.structure, self.n, self.m)[0]

    def _phases(self, horizon: int) -> tuple[int, int, dict[int, tuple[int, int]]]:
        """Steps before the first pattern, steps at the end with a hard mask, and the first step of each pattern."""
        dense, tune = math.ceil(self.dense_share * horizon), math.floor(self.tune * horizon)
        return dense, tune, timetable(self.structure, self.n, self.m, horizon, dense, tune)

    def state(self, step: int, horizon: int) -> tuple[tuple[int, int] | None, float]:
        """The pattern of a step (None: no mask yet), and what is left of pruned weights."""
        dense, tune, table = self._phases(horizon)
        if step < dense:
            return None, 1.0
        pattern = [pattern for start, pattern in table.items() if start <= step][-1]
        if not self.fades or (horizon and step >= horizon - tune):
            return pattern, 0.0
        return pattern, decay("linear" if self.rule == "linear" else "exponential", self.rate, step - dense)

    def stages(self, horizon: int) -> tuple[tuple[int, Hashable], ...]:
        dense, tune, table = self._phases(horizon)
        hard = horizon - tune
        if self.rule == "linear" and self.rate:
            hard = min(hard, dense + math.ceil(1 / self.rate))
        starts = {max(start, hard) if self.fades else start: Fraction(*pattern) for start, pattern in table.items()}
        found = sorted(({0: Fraction(1)} | starts).items())
        return tuple((start, kept) for start, kept in found if start < horizon or not start)

    def check(self, recipe: Any) -> list[str]:
        shares = {"dense_share": self.dense_share, "tune": self.tune}
        problems = needs_horizon(recipe, shares)
        if self.structure != "fixed" and recipe.budget.seconds is not None:
            problems.append("parametrization.structure: needs a run of known length; use fixed or another budget")
        if self.n > self.m:
            return [f"parametrization.n: {self.n} of {self.m} weights cannot be kept; use n <= m"]
        if self.dense_share + self.tune >= 1:
            problems.append("parametrization.tune: leaves nothing between it and dense_share; lower one")
        for shape in recipe.model.shapes(recipe.vocab_size):
            if self.of(shape) is None:
                continue
            length = shape.shape[-1] if self.axis == "row" else shape.shape[0]
            odd = [m for _, m in patterns(self.structure, self.n, self.m) if length % m]
            if odd:
                what = f"groups of {odd[0]} do not divide the {length} weights of a {self.axis} of {shape.name}"
                return [*problems, f"parametrization.m: {what}; use another m, or other targets"]
        return problems

    def build(self, rows: int, columns: int, rng: Rng) -> GroupSparse:
        return GroupSparse(self)

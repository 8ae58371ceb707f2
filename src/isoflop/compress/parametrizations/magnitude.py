"""Magnitude pruning along a run: dense, pruned step by step, recovered (Zhu and Gupta 2017, arXiv 1710.01878)."""

from __future__ import annotations

import math
from collections.abc import Hashable
from fnmatch import fnmatchcase
from fractions import Fraction
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field, PositiveInt, PrivateAttr
from torch import Tensor

from ...core.contracts import ParametrizationPart
from ...core.registry import Card, part
from ...core.rng import Rng
from ...core.roles import Shape
from ..sparsity import budget_masks, kept_of
from ..weights import JointForm, Share, WeightPart, needs_horizon

Density = Annotated[float, Field(ge=0, le=1)]


class Pruned(JointForm):
    """A weight under a mask that shrinks by levels; what is pruned stays zero and gets no gradient.

    Args:
        rows: of the weight.
        columns: of the weight.
        part: the schedule.

    Example:
        >>> pruned = Pruned(1, 2, MagnitudePart(sparsity=0.5))
        >>> pruned.mask[0, 0] = False
        >>> pruned.effective(torch.ones(1, 2)).tolist()
        [[0.0, 1.0]]
    """

    mask: Tensor
    level: Tensor

    def __init__(self, rows: int, columns: int, part: MagnitudePart) -> None:
        super().__init__()
        self.part = part
        self.register_buffer("mask", torch.ones(rows, columns, dtype=torch.bool))
        self.register_buffer("level", torch.tensor(0))  # a level is not pruned twice when a run is taken up

    def at(self, step: int, horizon: int) -> None:
        """Prune to the level of a step, if that is not done yet."""
        if not self.leads:
            return
        level = self.part.level(step, horizon)
        if level > int(self.level):
            self.level.fill_(level)
            self._prune(level)

    @torch.no_grad()
    def _prune(self, level: int) -> None:
        """The largest of what is left, of each matrix or of all together."""
        own = [member for member, _ in self.members]
        sizes = [
            torch.where(member.mask, module.weight.detach().view(member.mask.shape).abs(), -1.0)
            for member, module in self.members
        ]
        if self.part.budget == "global":
            masks = budget_masks(sizes, self.part.kept_at(level))
        else:
            masks = budget_masks(sizes, [member.part.kept_at(level) for member in own])
        for member, mask in zip(own, masks, strict=True):
            member.mask.copy_(mask)

    def trained(self, weight: Tensor) -> Tensor:
        return weight * self.mask


@part
class MagnitudePart(WeightPart):
    """Pruning by magnitude in three phases: dense, pruned level by level, recovered under the last mask.

    The baseline of every sparse method. ``budget`` says who decides how sparse each matrix is: all alike, the
    magnitudes of all together, or numbers that another run found.

    Example:
        >>> part = MagnitudePart(sparsity=0.8)
        >>> part.level(0, 1000), part.level(999, 1000) == part.levels
        (0, True)
    """

    sparsity: float = Field(0.8, gt=0, lt=1)
    """Share of zeros in the end."""
    begin: Share = 0.25
    """Share of the run's steps before the first weight is pruned."""
    recover: Share = 0.25
    """Share at the end in which the mask stays."""
    levels: PositiveInt = 20
    """Times that weights are pruned, as many each time."""
    budget: Literal["uniform", "global", "borrowed"] = "uniform"
    """How sparse each matrix becomes: all alike; the smallest of all together; as ``densities`` say."""
    densities: dict[str, Density] = {}
    """With budget borrowed: share of weights that is kept, by pattern of a matrix's name; the first match counts."""
    _density: float | None = PrivateAttr(None)
    _level: int = PrivateAttr(0)
    card = Card(
        summary="Prunes the smallest weights in steps between a dense phase and a phase of recovery",
        paper="Zhu and Gupta 2017, arXiv 1710.01878; the shares: Jin et al. 2025, arXiv 2501.12486",
        equation="W' = W mask; each level keeps the largest |W| of what the one before kept",
        defaults="dense 25 %, pruning 50 %, recovery 25 % of training",
        differs="levels are equal steps in the share of zeros; shares are of steps, which execute alike",
        cost="one product by the mask a micro-batch, a sort a level; products that the mask skips are not needed",
    )
    search: ClassVar[dict[str, tuple[float, ...]]] = {"begin": (0.0, 0.125, 0.25, 0.5)}
    operations: ClassVar[int] = 1
    dense: ClassVar[bool] = False

    @property
    def density(self) -> float:
        """Share of a matrix's weights that is kept in the end."""
        return 1 - self.sparsity if self._density is None else self._density

    def of(self, shape: Shape) -> ParametrizationPart | None:
        if super().of(shape) is None or self.budget != "borrowed":
            return super().of(shape)
        name = shape.name.removesuffix(".weight")
        found = next((kept for pattern, kept in self.densities.items() if fnmatchcase(name, pattern)), None)
        if found is None:
            return None
        copy = self.model_copy()
        copy._density = found
        return copy

    def level(self, step: int, horizon: int) -> int:
        """Levels that are pruned by a step: the first at ``begin``, the last where recovery begins."""
        begin, end = self._span(horizon)
        if step < begin:
            return 0
        return min(self.levels, 1 + (step - begin) * (self.levels - 1) // max(1, end - begin))

    def _span(self, horizon: int) -> tuple[int, int]:
        return math.ceil(self.begin * horizon), math.ceil((1 - self.recover) * horizon)

    def kept_at(self, level: int) -> float:
        """Share of a matrix's weights that a level leaves."""
        return 1 - level / self.levels * (1 - self.density)

    def stages(self, horizon: int) -> tuple[tuple[int, Hashable], ...]:
        if self.budget == "global":  # how sparse each matrix becomes is found, not known
            return super().stages(horizon)
        begin, end = self._span(horizon)
        steps = max(1, self.levels - 1)
        starts = [begin + -(-k * max(1, end - begin) // steps) for k in range(self.levels)]
        found = {0: 0} | {start: level for level, start in enumerate(starts, 1) if start < horizon or not start}
        return tuple(found.items())

    def priced(self, stage: Hashable) -> Self:
        copy = self.model_copy()
        copy._level = stage if isinstance(stage, int) else 0
        return copy

    def kept(self, rows: int, columns: int) -> Fraction:
        return Fraction(kept_of(rows * columns, self.kept_at(self._level)), rows * columns)

    def check(self, recipe: Any) -> list[str]:
        problems = needs_horizon(recipe, {"begin": self.begin, "recover": self.recover})
        if not problems and recipe.budget.seconds is not None:
            problems.append("parametrization.levels: need a run whose length is known; use another budget")
        if self.begin + self.recover >= 1:
            problems.append("parametrization.recover: leaves nothing between it and begin; lower one")
        if (self.budget == "borrowed") != bool(self.densities):
            problems.append("parametrization.densities: belong to budget borrowed, and it needs them")
        for shape in recipe.model.shapes(recipe.vocab_size):
            own = self.of(shape)
            if isinstance(own, MagnitudePart) and kept_of(shape.numel, own.density) < 1:
                return [*problems, f"parametrization: nothing would be left of {shape.name}; keep more"]
        return problems

    def build(self, rows: int, columns: int, rng: Rng) -> Pruned:
        return Pruned(rows, columns, self)

"""Bases of methods that differ from a sibling in one step alone: whether a sign is elected, or how masks are scaled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core.rng import Rng
from ..store.tensors import Flat
from .arithmetic import added, dropped, l1_ratio, trimmed, without_outliers
from .method import Each, MergePart, Share, deltas, held, numbers
from .pruning import by_rank
from .select import Cut


class ThinnedPart(MergePart):
    """Base of methods that thin task vectors out, weigh them and add them.

    Class attributes:
        elect: of each element only the task vectors with the sign of the weighted sum count, as in TIES.
    """

    elect: ClassVar[bool] = False
    each: ClassVar[frozenset[str]] = frozenset({"weight", "density"})

    weight: Each = 1.0
    """Weight of each model's task vector."""
    density: Share = 1.0
    """Share of each task vector's entries that is kept; where they are drawn, the probability of one."""
    normalize: bool = False
    """Divide by the sum of the weights: where a sign is elected, of those that agree."""
    scale: float = 1.0
    """Multiplies the merged task vector; other tools call it lambda."""


# ---------------------------------------------------------------- breadcrumbs: without the largest and the smallest


def crumbs(base: Tensor, models: Sequence[Tensor], *, density: Share, gamma: Share, **options: Any) -> Tensor:
    """What a breadcrumbs method makes of tensors in memory; ``options`` are those of ``_crumbs``."""
    flat, others = held(base, models)
    cuts = _crumb_cuts(flat, others, density, gamma)
    return _crumbs(base.reshape(-1), [model.reshape(-1) for model in models], cuts, 0, **options).reshape(base.shape)


def _crumb_cuts(base: Flat, models: Sequence[Flat], density: Share, gamma: Share) -> list[tuple[Cut, Cut]]:
    shares = zip(numbers(density, len(models), "density"), numbers(gamma, len(models), "gamma"), strict=True)
    return [without_outliers(base, model, *share) for model, share in zip(models, shares, strict=True)]


def _crumbs(
    base: Tensor,
    models: Sequence[Tensor],
    cuts: Sequence[tuple[Cut, Cut]],
    start: int,
    *,
    weight: Each,
    elect: bool,
    normalize: bool,
    scale: float,
) -> Tensor:
    vectors = []
    for model, (kept, outliers) in zip(models, cuts, strict=True):
        vector = model - base
        vectors.append(trimmed(vector, kept, start) * ~outliers.keeps(vector.abs().float(), start))
    return added(base, vectors, numbers(weight, len(models)), elect=elect, normalize=normalize, scale=scale)


class CrumbsPart(ThinnedPart):
    """Base of the breadcrumbs methods."""

    selects: ClassVar[bool] = True
    each: ClassVar[frozenset[str]] = frozenset({"weight", "density", "gamma"})

    gamma: Share = 0.01
    """Share of the largest entries that is dropped first; fewer where density leaves no room."""

    def survey(self, base: Flat | None, models: Sequence[Flat], rng: Rng, overview: Any) -> list[tuple[Cut, Cut]]:
        assert base is not None
        return _crumb_cuts(base, models, self.density, self.gamma)

    def merge(self, base: Tensor | None, models: Sequence[Tensor], survey: Any, start: int) -> Tensor:
        assert base is not None
        options: dict[str, Any] = {"weight": self.weight, "normalize": self.normalize, "scale": self.scale}
        return _crumbs(base, models, survey, start, elect=self.elect, **options)


# ---------------------------------------------------------------- DARE: dropped at random


class DroppedPart(ThinnedPart):
    """Base of the methods that drop entries at random; a survey gives (rng, what each masked vector is multiplied by).

    Here that restores the L1 norm, as merging toolkits do.
    """

    rescale: bool = True
    """Multiply what is kept, so that little changes in the mean: how, the method's equation says."""

    def survey(self, base: Flat | None, models: Sequence[Flat], rng: Rng, overview: Any) -> tuple[Rng, list[float]]:
        assert base is not None
        ratios = []
        for number, share in enumerate(numbers(self.density, len(models), "density")):
            before = after = 0.0
            if self.rescale and share < 1:
                for start, vector in deltas(base, models[number]):
                    before += float(vector.abs().sum(dtype=torch.float64))
                    kept = dropped(rng, number, share, vector, start)
                    after += float(kept.abs().sum(dtype=torch.float64))
            ratios.append(l1_ratio(before, after))
        return rng, ratios

    def merge(self, base: Tensor | None, models: Sequence[Tensor], survey: Any, start: int) -> Tensor:
        assert base is not None
        rng, ratios = survey
        shares = numbers(self.density, len(models), "density")
        vectors = [
            dropped(rng, number, shares[number], model - base, start) * ratios[number]
            for number, model in enumerate(models)
        ]
        weights = numbers(self.weight, len(models))
        return added(base, vectors, weights, elect=self.elect, normalize=self.normalize, scale=self.scale)


# ---------------------------------------------------------------- DELLA: dropped by rank


def ranked(
    base: Tensor,
    models: Sequence[Tensor],
    rng: Rng,
    *,
    weight: Each,
    density: Share,
    epsilon: Share,
    rescale: bool,
    elect: bool,
    normalize: bool,
    scale: float,
) -> Tensor:
    """What a DELLA method makes of whole tensors."""
    shares = zip(numbers(density, len(models), "density"), numbers(epsilon, len(models), "epsilon"), strict=True)
    vectors = [
        by_rank(model - base, rng, number, *share, rescale=rescale)
        for number, (model, share) in enumerate(zip(models, shares, strict=True))
    ]
    return added(base, vectors, numbers(weight, len(models)), elect=elect, normalize=normalize, scale=scale)


class RankedPart(ThinnedPart):
    """Base of the methods that drop a row's small entries more often; ``density`` is the mean probability."""

    each: ClassVar[frozenset[str]] = frozenset({"weight", "density", "epsilon"})

    epsilon: Share = 0.15
    """Half the range of that probability within a row."""
    rescale: bool = True
    """Restore each masked task vector's L1 norm."""

    @property
    def whole(self) -> bool:
        return True

    def survey(self, base: Flat | None, models: Sequence[Flat], rng: Rng, overview: Any) -> Rng:
        return rng

    def merge(self, base: Tensor | None, models: Sequence[Tensor], survey: Any, start: int) -> Tensor:
        assert base is not None
        return ranked(base, models, survey, elect=self.elect, **self.fields())

"""Model breadcrumbs with an elected sign (Davari and Belilovsky 2023, arXiv 2312.06795)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from ...core.registry import Card, part
from ...core.rng import Rng
from ...store.tensors import Flat
from ..arithmetic import added, trimmed, without_outliers
from ..method import Each, MergePart, Share, held, numbers
from ..select import Cut


def breadcrumbs_ties(
    base: Tensor,
    models: Sequence[Tensor],
    *,
    weight: Each = 1.0,
    density: Share = 1.0,
    gamma: Share = 0.01,
    normalize: bool = False,
    scale: float = 1.0,
) -> Tensor:
    """Drop the outliers and the smallest entries of each task vector, then elect a sign as TIES does.

    Args:
        base: what the task vectors start from.
        models: tensors of the base's shape.
        weight: one number, or one a model.
        density: share of each task vector's entries that is kept; one number, or one a model.
        gamma: share of the largest entries that is dropped first; fewer where density leaves no room.
        normalize: divide by the sum of the weights that agree.
        scale: multiplies the merged task vector.
    """
    flat, others = held(base, models)
    cuts = _cuts(flat, others, density, gamma)
    options = (weight, normalize, scale)
    return _merged(base.reshape(-1), [model.reshape(-1) for model in models], cuts, 0, options).reshape(base.shape)


def _cuts(base: Flat, models: Sequence[Flat], density: Share, gamma: Share) -> list[tuple[Cut, Cut]]:
    shares = zip(numbers(density, len(models), "density"), numbers(gamma, len(models), "gamma"), strict=True)
    return [without_outliers(base, model, *share) for model, share in zip(models, shares, strict=True)]


def _merged(
    base: Tensor,
    models: Sequence[Tensor],
    cuts: Sequence[tuple[Cut, Cut]],
    start: int,
    options: tuple[Each, bool, float],
) -> Tensor:
    weight, normalize, scale = options
    vectors = []
    for model, (kept, outliers) in zip(models, cuts, strict=True):
        vector = model - base
        vectors.append(trimmed(vector, kept, start) * ~outliers.keeps(vector.abs().float(), start))
    return added(base, vectors, numbers(weight, len(models)), elect=True, normalize=normalize, scale=scale)


@part
class BreadcrumbsTies(MergePart):
    """Drop the outliers and the smallest entries of each task vector, then elect a sign as TIES does."""

    card = Card(
        summary="drop the outliers and the smallest entries of each task vector, then elect a sign as TIES does",
        paper="Davari and Belilovsky 2023, arXiv 2312.06795",
        equation="b + scale sum w_i d_i, d_i without its largest and smallest entries",
        defaults="gamma 0.01",
        cost="two readings for the thresholds, then about 6 operations an element and model",
    )
    selects: ClassVar[bool] = True
    each: ClassVar[frozenset[str]] = frozenset({"weight", "density", "gamma"})

    weight: Each = 1.0
    """Weight of each model's task vector."""
    density: Share = 1.0
    """Share of each task vector's entries that is kept."""
    gamma: Share = 0.01
    """Share of the largest entries that is dropped."""
    normalize: bool = False
    """Divide by the sum of the weights that agree."""
    scale: float = 1.0
    """Multiplies the merged task vector; other tools call it lambda."""

    def survey(self, base: Flat | None, models: Sequence[Flat], rng: Rng, overview: Any) -> list[tuple[Cut, Cut]]:
        assert base is not None
        return _cuts(base, models, self.density, self.gamma)

    def merge(self, base: Tensor | None, models: Sequence[Tensor], survey: Any, start: int) -> Tensor:
        assert base is not None
        return _merged(base, models, survey, start, (self.weight, self.normalize, self.scale))

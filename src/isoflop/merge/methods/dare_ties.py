"""DARE with an elected sign: drop at random, restore the L1 norm, elect, average (Yu et al. 2024, arXiv 2311.03099)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...core.registry import Card, part
from ...core.rng import Rng
from ...store.tensors import Flat
from ..arithmetic import added, dropped, l1_ratio
from ..method import Each, MergePart, Share, deltas, numbers, on_tensors, per_model


def dare_ties(
    base: Tensor,
    models: Sequence[Tensor],
    *,
    rng: Rng,
    weight: Each = 1.0,
    density: Share = 1.0,
    rescale: bool = True,
    normalize: bool = False,
    scale: float = 1.0,
) -> Tensor:
    """Drop entries of each task vector at random, restore its L1 norm, and elect a sign as TIES does.

    Args:
        base: what the task vectors start from.
        models: tensors of the base's shape.
        rng: stream of this tensor; equal streams give equal masks, whatever else is drawn.
        weight: one number, or one a model.
        density: probability with which an entry is kept; one number, or one a model.
        rescale: multiply each masked task vector so that its L1 norm is as before.
        normalize: divide by the sum of the weights that agree.
        scale: multiplies the merged task vector.
    """
    knobs: dict[str, Any] = {"rescale": rescale, "normalize": normalize, "scale": scale}
    part_ = DareTies(weight=per_model(weight), density=per_model(density), **knobs)
    return on_tensors(part_, base, models, rng)


@part
class DareTies(MergePart):
    """Drop entries of each task vector at random, restore its L1 norm, and elect a sign as TIES does."""

    card = Card(
        summary="drop entries of each task vector at random, restore its L1 norm, and elect a sign as TIES does",
        paper="Yu et al. 2024, arXiv 2311.03099",
        equation="b + scale sum w_i r_i m_i d_i, m_i ~ Bernoulli(density), r_i = |d_i|_1 / |m_i d_i|_1",
        defaults="toolkits scale to the L1 norm",
        differs="masks are drawn by tensor name, model and place",
        cost="a reading for the norms, then about 5 operations and a random number an element and model",
    )
    each: ClassVar[frozenset[str]] = frozenset({"weight", "density"})

    weight: Each = 1.0
    """Weight of each model's task vector."""
    density: Share = 1.0
    """Probability with which an entry is kept."""
    rescale: bool = True
    """Restore each masked task vector's L1 norm."""
    normalize: bool = False
    """Divide by the sum of the weights that agree."""
    scale: float = 1.0
    """Multiplies the merged task vector; other tools call it lambda."""

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
        return added(base, vectors, weights, elect=True, normalize=self.normalize, scale=self.scale)

"""DELLA without an election: drop a row's small entries more often (Deep et al. 2024, arXiv 2406.11617)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from ...core.registry import Card, part
from ...core.rng import Rng
from ...store.tensors import Flat
from ..arithmetic import added
from ..method import Each, MergePart, Share, numbers
from ..pruning import by_rank


def della_linear(
    base: Tensor,
    models: Sequence[Tensor],
    *,
    rng: Rng,
    weight: Each = 1.0,
    density: Share = 1.0,
    epsilon: Share = 0.15,
    rescale: bool = True,
    normalize: bool = False,
    scale: float = 1.0,
) -> Tensor:
    """Drop entries at random, the small ones of each row more likely, and add the task vectors.

    Args:
        base: what the task vectors start from.
        models: tensors of the base's shape.
        rng: stream of this tensor; equal streams give equal masks, whatever else is drawn.
        weight: one number, or one a model.
        density: mean probability with which an entry is kept; one number, or one a model.
        epsilon: the probability runs from density - epsilon (a row's smallest) to density + epsilon (its largest).
        rescale: multiply each masked task vector so that its L1 norm is as before.
        normalize: divide by the sum of the weights.
        scale: multiplies the merged task vector.

    Raises:
        UsageError: density - epsilon or density + epsilon lies outside (0, 1).
    """
    shares = zip(numbers(density, len(models), "density"), numbers(epsilon, len(models), "epsilon"), strict=True)
    vectors = [
        by_rank(model - base, rng, number, *share, rescale=rescale)
        for number, (model, share) in enumerate(zip(models, shares, strict=True))
    ]
    return added(base, vectors, numbers(weight, len(models)), elect=False, normalize=normalize, scale=scale)


@part
class DellaLinear(MergePart):
    """Drop entries at random, the small ones of each row more likely, and add the task vectors."""

    card = Card(
        summary="drop entries at random, the small ones of each row more likely, and add the task vectors",
        paper="Deep et al. 2024, arXiv 2406.11617",
        equation="b + scale sum w_i r_i m_i d_i, P(m = 1) linear in the rank of |d| within its row",
        defaults="epsilon 0.15",
        differs="rescaled to the L1 norm, as merging toolkits do, not by 1 / probability",
        cost="reads whole tensors and sorts each row",
    )
    each: ClassVar[frozenset[str]] = frozenset({"weight", "density", "epsilon"})

    weight: Each = 1.0
    """Weight of each model's task vector."""
    density: Share = 1.0
    """Mean probability with which an entry is kept."""
    epsilon: Share = 0.15
    """Half the range of that probability within a row."""
    rescale: bool = True
    """Restore each masked task vector's L1 norm."""
    normalize: bool = False
    """Divide by the sum of the weights."""
    scale: float = 1.0
    """Multiplies the merged task vector; other tools call it lambda."""

    @property
    def whole(self) -> bool:
        return True

    def survey(self, base: Flat | None, models: Sequence[Flat], rng: Rng, overview: Any) -> Rng:
        return rng

    def merge(self, base: Tensor | None, models: Sequence[Tensor], survey: Any, start: int) -> Tensor:
        assert base is not None
        return della_linear(base, models, rng=survey, **self.fields())

"""DARE as merging toolkits compute it: drop at random, restore the L1 norm, add (Yu et al. 2024, arXiv 2311.03099)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ...core.registry import Card, part
from ...core.rng import Rng
from ..families import DroppedPart
from ..method import Each, Share, on_tensors, per_model


def dare_linear(
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
    """Drop entries of each task vector at random, restore its L1 norm, and add them.

    Use it to repeat merges of toolkits under that name; ``dare`` is the paper's.

    Args:
        base: what the task vectors start from.
        models: tensors of the base's shape.
        rng: stream of this tensor; equal streams give equal masks, whatever else is drawn.
        weight: one number, or one a model.
        density: probability with which an entry is kept; one number, or one a model.
        rescale: multiply each masked task vector so that its L1 norm is as before.
        normalize: divide by the sum of the weights.
        scale: multiplies the merged task vector.

    Example:
        >>> base = torch.zeros(4)
        >>> first, second = torch.tensor([1.0, 2.0, 0.5, -1.0]), torch.tensor([-3.0, 2.0, 0.25, 1.0])
        >>> [round(number, 3) for number in dare_linear(base, [first, second], rng=Rng(0), density=0.5).tolist()]
        [1.5, 3.0, 1.25, 5.0]
    """
    knobs: dict[str, Any] = {"rescale": rescale, "normalize": normalize, "scale": scale}
    part_ = DareLinear(weight=per_model(weight), density=per_model(density), **knobs)
    return on_tensors(part_, base, models, rng)


@part
class DareLinear(DroppedPart):
    """Drop entries of each task vector at random, restore its L1 norm, and add them.

    The method of a merge recipe under the name ``dare_linear``; the function of that name does the same to tensors at
    hand.

    Example:
        >>> from isoflop.merge.method import on_tensors
        >>> base = torch.zeros(4)
        >>> first, second = torch.tensor([1.0, 2.0, 0.5, -1.0]), torch.tensor([-3.0, 2.0, 0.25, 1.0])
        >>> merged = on_tensors(DareLinear(density=0.5), base, [first, second])
        >>> torch.equal(merged, dare_linear(base, [first, second], rng=Rng(0), density=0.5))
        True
    """

    card = Card(
        summary="drop entries of each task vector at random, restore its L1 norm, and add them",
        paper="Yu et al. 2024, arXiv 2311.03099",
        equation="b + scale sum w_i r_i m_i d_i, m_i ~ Bernoulli(density), r_i = |d_i|_1 / |m_i d_i|_1",
        defaults="toolkits scale to the L1 norm",
        differs="masks are drawn by tensor name, model and place",
        cost="a reading for the norms, then about 5 operations and a random number an element and model",
    )

"""DELLA: drop entries at random, small ones of a row more likely (Deep et al. 2024, arXiv 2406.11617)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from ...core.registry import Card, part
from ...core.rng import Rng
from ..families import RankedPart, ranked
from ..method import Each, Share


def della(
    base: Tensor,
    models: Sequence[Tensor],
    *,
    rng: Rng,
    weight: Each = 1.0,
    density: Share = 1.0,
    epsilon: Share = 0.15,
    rescale: bool = True,
    normalize: bool = True,
    scale: float = 1.0,
) -> Tensor:
    """Drop entries at random, the small ones of each row more likely, and elect a sign as TIES does.

    Use it as ``dare_ties``; dropping small entries more often keeps more of what each model learnt.

    Args:
        base: what the task vectors start from.
        models: tensors of the base's shape.
        rng: stream of this tensor; equal streams give equal masks, whatever else is drawn.
        weight: one number, or one a model.
        density: mean probability with which an entry is kept; one number, or one a model.
        epsilon: the probability runs from density - epsilon (a row's smallest) to density + epsilon (its largest).
        rescale: multiply each masked task vector so that its L1 norm is as before.
        normalize: divide by the sum of the weights that agree.
        scale: multiplies the merged task vector.

    Raises:
        UsageError: density - epsilon or density + epsilon lies outside (0, 1).

    Example:
        >>> base = torch.zeros(4)
        >>> first, second = torch.tensor([1.0, 2.0, 0.5, -1.0]), torch.tensor([-3.0, 2.0, 0.25, 1.0])
        >>> [round(number, 3) for number in della(base, [first, second], rng=Rng(0), density=0.5).tolist()]
        [1.5, 3.0, 1.25, 5.0]
    """
    knobs: dict[str, Any] = {"epsilon": epsilon, "rescale": rescale, "normalize": normalize, "scale": scale}
    return ranked(base, models, rng, weight=weight, density=density, elect=True, **knobs)


@part
class Della(RankedPart):
    """Drop entries at random, the small ones of each row more likely, and elect a sign as TIES does.

    The method of a merge recipe under the name ``della``; the function of that name does the same to tensors at hand.

    Example:
        >>> from isoflop.merge.method import on_tensors
        >>> base = torch.zeros(4)
        >>> first, second = torch.tensor([1.0, 2.0, 0.5, -1.0]), torch.tensor([-3.0, 2.0, 0.25, 1.0])
        >>> merged = on_tensors(Della(density=0.5), base, [first, second])
        >>> torch.equal(merged, della(base, [first, second], rng=Rng(0), density=0.5))
        True
    """

    card = Card(
        summary="drop entries at random, the small ones of each row more likely, and elect a sign as TIES does",
        paper="Deep et al. 2024, arXiv 2406.11617",
        equation="b + scale sum w_i r_i m_i d_i, P(m = 1) linear in the rank of |d| within its row",
        defaults="epsilon 0.15",
        differs="rescaled to the L1 norm, as merging toolkits do, not by 1 / probability",
        cost="reads whole tensors and sorts each row",
    )
    elect: ClassVar[bool] = True

    normalize: bool = True
    """Divide by the sum of the weights that agree."""

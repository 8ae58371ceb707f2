"""Model breadcrumbs with an elected sign (Davari and Belilovsky 2023, arXiv 2312.06795)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from ...core.registry import Card, part
from ..families import CrumbsPart, crumbs
from ..method import Each, Share


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

    Use it as ``breadcrumbs``, where task vectors also pull in opposite directions.

    Args:
        base: what the task vectors start from.
        models: tensors of the base's shape.
        weight: one number, or one a model.
        density: share of each task vector's entries that is kept; one number, or one a model.
        gamma: share of the largest entries that is dropped first; fewer where density leaves no room.
        normalize: divide by the sum of the weights that agree.
        scale: multiplies the merged task vector.

    Example:
        >>> base = torch.zeros(4)
        >>> first, second = torch.tensor([1.0, 2.0, 0.5, -1.0]), torch.tensor([-3.0, 2.0, 0.25, 1.0])
        >>> [round(number, 3) for number in breadcrumbs_ties(base, [first, second], density=0.5).tolist()]
        [-3.0, 4.0, 0.0, -1.0]
    """
    options: dict[str, Any] = {"weight": weight, "normalize": normalize, "scale": scale}
    return crumbs(base, models, density=density, gamma=gamma, elect=True, **options)


@part
class BreadcrumbsTies(CrumbsPart):
    """Drop the outliers and the smallest entries of each task vector, then elect a sign as TIES does.

    The method of a merge recipe under the name ``breadcrumbs_ties``; the function of that name does the same to tensors
    at hand.

    Example:
        >>> from isoflop.merge.method import on_tensors
        >>> base = torch.zeros(4)
        >>> first, second = torch.tensor([1.0, 2.0, 0.5, -1.0]), torch.tensor([-3.0, 2.0, 0.25, 1.0])
        >>> merged = on_tensors(BreadcrumbsTies(density=0.5), base, [first, second])
        >>> torch.equal(merged, breadcrumbs_ties(base, [first, second], density=0.5))
        True
    """

    card = Card(
        summary="drop the outliers and the smallest entries of each task vector, then elect a sign as TIES does",
        paper="Davari and Belilovsky 2023, arXiv 2312.06795",
        equation="b + scale sum w_i d_i, d_i without its largest and smallest entries",
        defaults="gamma 0.01",
        cost="two readings for the thresholds, then about 6 operations an element and model",
    )
    elect: ClassVar[bool] = True

"""TIES per tensor: trim by magnitude, elect a sign by the weighted sum, average what agrees (arXiv 2306.01708)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from ...core.registry import Card, part
from ...core.rng import Rng
from ...store.tensors import Flat
from ..arithmetic import added, largest_share, trimmed
from ..method import Each, MergePart, Share, held, numbers
from ..select import Cut


def ties(
    base: Tensor,
    models: Sequence[Tensor],
    *,
    weight: Each = 1.0,
    density: Share = 1.0,
    normalize: bool = True,
    scale: float = 1.0,
) -> Tensor:
    """Trim, elect, merge, within one tensor and with weights, as merging toolkits do.

    Use it with several fine-tunings of one model that pull the same weight in opposite directions.

    Args:
        base: what the task vectors start from.
        models: tensors of the base's shape.
        weight: one number, or one a model; it enters the election of the sign and the mean.
        density: share of the entries of each task vector that is kept, the largest; one number, or one a model.
        normalize: divide by the sum of the weights that agree.
        scale: multiplies the merged task vector.

    Example:
        >>> base = torch.zeros(4)
        >>> first, second = torch.tensor([1.0, 2.0, 0.5, -1.0]), torch.tensor([-3.0, 2.0, 0.25, 1.0])
        >>> ties(base, [first, second], density=0.5).tolist()
        [-3.0, 2.0, 0.0, 0.0]
    """
    flat, others = held(base, models)
    cuts = _cuts(flat, others, density)
    return _merged(base.reshape(-1), [m.reshape(-1) for m in models], cuts, 0, weight, normalize, scale).reshape(
        base.shape
    )


def _cuts(base: Flat, models: Sequence[Flat], density: Share) -> list[Cut]:
    shares = numbers(density, len(models), "density")
    return [largest_share(base, model, share) for model, share in zip(models, shares, strict=True)]


def _merged(
    base: Tensor, models: Sequence[Tensor], cuts: Sequence[Cut], start: int, weight: Each, normalize: bool, scale: float
) -> Tensor:
    vectors = [trimmed(model - base, cut, start) for model, cut in zip(models, cuts, strict=True)]
    return added(base, vectors, numbers(weight, len(models)), elect=True, normalize=normalize, scale=scale)


@part
class Ties(MergePart):
    """Trim, elect a sign, merge: per tensor and weighted.

    The method of a merge recipe under the name ``ties``; the function of that name does the same to tensors at hand.

    Example:
        >>> from isoflop.merge.method import on_tensors
        >>> base = torch.zeros(4)
        >>> first, second = torch.tensor([1.0, 2.0, 0.5, -1.0]), torch.tensor([-3.0, 2.0, 0.25, 1.0])
        >>> torch.equal(on_tensors(Ties(density=0.5), base, [first, second]), ties(base, [first, second], density=0.5))
        True
    """

    card = Card(
        summary="trim task vectors per tensor, elect a sign by the weighted sum, average what agrees",
        paper="Yadav et al. 2023, arXiv 2306.01708",
        equation="b + scale sum_{sign agrees} w_i d_i / sum_{sign agrees} w_i, d_i trimmed to its largest entries",
        defaults="the paper keeps 20 %",
        differs="trims within each tensor and weighs, as merging toolkits do; `ties_paper` trims the whole model",
        cost="a reading for the thresholds, then about 6 operations an element and model",
    )
    selects: ClassVar[bool] = True
    each: ClassVar[frozenset[str]] = frozenset({"weight", "density"})

    weight: Each = 1.0
    """Weight of each model's task vector."""
    density: Share = 1.0
    """Share of each task vector's entries that is kept."""
    normalize: bool = True
    """Divide by the sum of the weights that agree."""
    scale: float = 1.0
    """Multiplies the merged task vector; other tools call it lambda."""

    def survey(self, base: Flat | None, models: Sequence[Flat], rng: Rng, overview: Any) -> list[Cut]:
        assert base is not None
        return _cuts(base, models, self.density)

    def merge(self, base: Tensor | None, models: Sequence[Tensor], survey: Any, start: int) -> Tensor:
        assert base is not None
        return _merged(base, models, survey, start, self.weight, self.normalize, self.scale)

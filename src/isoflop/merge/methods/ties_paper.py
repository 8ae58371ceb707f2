"""TIES as published: trim each whole model, elect a sign by the sum, plain mean of what agrees (arXiv 2306.01708)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...core.registry import Card, part
from ...core.rng import Rng
from ...store.tensors import Flat, HeldTensor
from ..arithmetic import agrees, trimmed
from ..method import Group, MergePart, Unit, deltas
from ..select import ALL, NONE, Cut, threshold


def ties_paper(
    base: Mapping[str, Tensor], models: Sequence[Mapping[str, Tensor]], *, density: float = 0.2, scale: float = 1.0
) -> dict[str, Tensor]:
    """Trim, elect, merge over whole models, each a mapping of name to tensor.

    Use it to repeat the paper: the largest entries are those of the whole model, not of each tensor.

    Args:
        base: what the task vectors start from.
        models: with the base's names and shapes.
        density: share of the entries of each whole task vector that is kept, the largest.
        scale: multiplies the merged task vector.

    Example:
        >>> base = {"w": torch.zeros(4)}
        >>> models = [{"w": torch.tensor([1.0, 2.0, 0.5, -1.0])}, {"w": torch.tensor([-3.0, 2.0, 0.25, 1.0])}]
        >>> ties_paper(base, models, density=0.5)["w"].tolist()
        [-3.0, 2.0, 0.0, -1.0]
    """
    groups = [(HeldTensor(base[name]), [HeldTensor(model[name]) for model in models]) for name in base]
    cuts = _cuts(groups, density)
    return {
        name: _merged(base[name].reshape(-1), [model[name].reshape(-1) for model in models], cuts, scale).reshape(
            base[name].shape
        )
        for name in base
    }


def _cuts(groups: Iterable[Group], density: float) -> list[Cut]:
    groups = list(groups)
    count = len(groups[0][1]) if groups else 0
    numel = sum(models[0].numel for _, models in groups)
    keep = int(density * numel)
    if density >= 1 or keep < 1:
        return [ALL if density >= 1 else NONE] * count

    def magnitudes(number: int) -> Iterator[Tensor]:
        for base, models in groups:
            assert base is not None
            for _, vector in deltas(base, models[number]):
                yield vector.abs()

    return [threshold((magnitudes(number) for _ in range(2)), keep) for number in range(count)]


def _merged(base: Tensor, models: Sequence[Tensor], cuts: Sequence[Cut], scale: float) -> Tensor:
    vectors = torch.stack([trimmed(model - base, cut, 0) for model, cut in zip(models, cuts, strict=True)])
    agree = agrees(vectors, vectors.sum(0) >= 0)
    return base + scale * (vectors * agree).sum(0) / agree.sum(0).clamp(min=1)


@part
class TiesPaper(MergePart):
    """TIES with the paper's trimming over the whole model.

    The method of a merge recipe under the name ``ties_paper``; the function of that name does the same to tensors at
    hand.

    Example:
        >>> from isoflop.merge.method import on_tensors
        >>> base = torch.zeros(4)
        >>> first, second = torch.tensor([1.0, 2.0, 0.5, -1.0]), torch.tensor([-3.0, 2.0, 0.25, 1.0])
        >>> on_tensors(TiesPaper(density=0.5), base, [first, second]).tolist()
        [-3.0, 2.0, 0.0, -1.0]
    """

    card = Card(
        summary="trim each whole model, elect a sign by the sum, plain mean of what agrees",
        paper="Yadav et al. 2023, arXiv 2306.01708",
        equation="b + scale mean_{sign agrees} d_i, d_i trimmed to the largest entries of the whole model",
        defaults="density 0.2, scale 1 (tuned on a validation set where there is one)",
        differs="where the sum is exactly zero the positive sign is elected instead of the model's majority",
        cost="two readings of everything for the thresholds, then about 6 operations an element and model",
    )

    density: Unit = 0.2
    """Share of each model's entries that is kept."""
    scale: float = 1.0
    """Multiplies the merged task vector."""

    def overview(self, groups: Iterable[Group]) -> list[Cut]:
        return _cuts(groups, self.density)

    def survey(self, base: Flat | None, models: Sequence[Flat], rng: Rng, overview: Any) -> Any:
        return overview

    def merge(self, base: Tensor | None, models: Sequence[Tensor], survey: Any, start: int) -> Tensor:
        assert base is not None
        return _merged(base, models, survey, self.scale)

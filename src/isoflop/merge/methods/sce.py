"""SCE: select by variance, calculate weights by energy, erase minority signs (Wan et al. 2024, arXiv 2408.07990)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ...core.registry import Card, part
from ...core.rng import Rng
from ...store.tensors import Flat, pieces
from ..arithmetic import agrees
from ..method import MergePart, Unit, held
from ..select import ALL, Cut, largest


class _Chosen(NamedTuple):
    cut: Cut
    weights: Tensor


def sce(base: Tensor, models: Sequence[Tensor], *, select_topk: float = 1.0) -> Tensor:
    """base + sum_{sign agrees} w_i d_i / sum_{sign agrees} w_i, where the models disagree most.

    Use it with several models where a few elements, on which they disagree, carry what each has learnt.

    Args:
        base: what the task vectors d_i start from.
        models: tensors of the base's shape.
        select_topk: share of the elements with any variance over the models that takes part: those with the largest.

    Example:
        >>> base = torch.zeros(4)
        >>> first, second = torch.tensor([1.0, 2.0, 0.5, -1.0]), torch.tensor([-3.0, 2.0, 0.25, 1.0])
        >>> [round(number, 3) for number in sce(base, [first, second]).tolist()]
        [-3.0, 2.0, 0.327, 1.0]
    """
    flat, others = held(base, models)
    chosen = _survey(flat, others, select_topk)
    return _merged(base.reshape(-1), [model.reshape(-1) for model in models], chosen, 0).reshape(base.shape)


def _vectors(base: Flat, models: Sequence[Flat]) -> Iterator[tuple[int, Tensor]]:
    for start, stop in pieces(base.numel):
        origin = base.piece(start, stop)
        yield start, torch.stack([model.piece(start, stop) - origin for model in models])


def _survey(base: Flat, models: Sequence[Flat], share: float) -> _Chosen:
    cut = ALL
    if share < 1:
        varying = sum(int(_variance(vectors).count_nonzero()) for _, vectors in _vectors(base, models))
        variances = ((start, _variance(vectors)) for start, vectors in _vectors(base, models))
        cut = largest(variances, base.numel, int(varying * share))
    energies = torch.zeros(len(models), dtype=torch.float64)
    for start, vectors in _vectors(base, models):
        energies += (vectors * _selected(vectors, cut, start)).double().square().sum(1)
    energies /= max(base.numel, 1)
    total = float(energies.sum())
    # below this the models equal the base to rounding, and every one counts alike
    weights = energies / total if total >= 1e-6 else torch.full_like(energies, 1 / len(models))
    return _Chosen(cut, weights)


def _variance(vectors: Tensor) -> Tensor:
    return vectors.var(dim=0, unbiased=False).float()


def _selected(vectors: Tensor, cut: Cut, start: int) -> Tensor:
    return torch.ones_like(vectors[0], dtype=torch.bool) if cut is ALL else cut.keeps(_variance(vectors), start)


def _merged(base: Tensor, models: Sequence[Tensor], chosen: _Chosen, start: int) -> Tensor:
    vectors = torch.stack([model - base for model in models])
    vectors = vectors * _selected(vectors, chosen.cut, start)
    agree = agrees(vectors, vectors.sum(0) >= 0)
    weights = chosen.weights.to(base.dtype)[:, None] * agree
    return base + (vectors * weights).sum(0) / weights.sum(0).clamp(min=1e-6)


@part
class Sce(MergePart):
    """Select by variance, weigh by energy, erase minority signs.

    The method of a merge recipe under the name ``sce``; the function of that name does the same to tensors at hand.

    Example:
        >>> from isoflop.merge.method import on_tensors
        >>> base = torch.zeros(4)
        >>> first, second = torch.tensor([1.0, 2.0, 0.5, -1.0]), torch.tensor([-3.0, 2.0, 0.25, 1.0])
        >>> torch.equal(on_tensors(Sce(), base, [first, second]), sce(base, [first, second]))
        True
    """

    card = Card(
        summary="task vectors where the models vary most, weighted by their energy, minority signs erased",
        paper="Wan et al. 2024, arXiv 2408.07990",
        equation="b + sum_{sign agrees} w_i d_i / sum_{sign agrees} w_i, w_i ~ mean d_i^2 of the selected elements",
        defaults="select_topk 0.1 for chat models",
        cost="two or three readings, then about 8 operations an element and model",
    )

    selects: ClassVar[bool] = True

    select_topk: Unit = 1.0
    """Share of the elements with any variance that takes part."""

    def survey(self, base: Flat | None, models: Sequence[Flat], rng: Rng, overview: Any) -> _Chosen:
        assert base is not None
        return _survey(base, models, self.select_topk)

    def merge(self, base: Tensor | None, models: Sequence[Tensor], survey: Any, start: int) -> Tensor:
        assert base is not None
        return _merged(base, models, survey, start)

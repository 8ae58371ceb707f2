"""Model Stock: between the mean of fine-tuned models and the base, by the angle of task vectors (arXiv 2403.19522)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...core.registry import Card, part
from ...core.rng import Rng
from ...store.tensors import Flat
from ..method import MergePart, gram, held


def model_stock(base: Tensor, models: Sequence[Tensor], *, filter_wise: bool = False) -> Tensor:
    """t mean(x_i) + (1 - t) base with t = k cos / (1 + (k - 1) cos), cos the mean cosine of two task vectors.

    Use it with two or three fine-tunings of one model: the ratio follows from their angle, nothing is tuned.

    Args:
        base: the pretrained model.
        models: at least two fine-tuned ones, of the base's shape.
        filter_wise: one t for each row (a vector is one row) instead of each tensor.

    Example:
        >>> base = torch.zeros(4)
        >>> first, second = torch.tensor([1.0, 2.0, 0.5, -1.0]), torch.tensor([-3.0, 2.0, 0.25, 1.0])
        >>> [round(number, 3) for number in model_stock(base, [first, second]).tolist()]
        [-0.026, 0.053, 0.01, 0.0]
    """
    if filter_wise:
        return _mixed(base, models, _share_of_rows(base, models))
    flat, others = held(base, models)
    return _mixed(base, models, _share(gram(others, flat), base.dtype))


def _share(products: Tensor, dtype: torch.dtype) -> Tensor:
    """t from the inner products (..., k, k) of the task vectors, computed in the type of the merge."""
    cosine = _mean_cosine(products.to(dtype), products.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt().to(dtype))
    return _of_cosines(cosine, products.shape[-1])


def _mean_cosine(products: Tensor, lengths: Tensor) -> Tensor:
    """The mean cosine of pairs, from inner products (..., k, k) and lengths (..., k)."""
    pairs = torch.triu_indices(products.shape[-1], products.shape[-1], offset=1)
    scale = (lengths[..., pairs[0]] * lengths[..., pairs[1]]).clamp(min=1e-6)
    return (products[..., pairs[0], pairs[1]] / scale).clamp(-1, 1).mean(-1)


def _of_cosines(cosine: Tensor, count: int) -> Tensor:
    divisor = 1 + (count - 1) * cosine
    singular = divisor.abs() < 1e-6  # opposed updates: no finite estimate, so the base is kept
    return torch.where(singular, 0.0, count * cosine / torch.where(singular, 1.0, divisor))


def _share_of_rows(base: Tensor, models: Sequence[Tensor]) -> Tensor:
    rows = torch.stack([(model - base).double() for model in models])
    rows = rows.reshape(len(models), *((1, -1) if base.dim() < 2 else base.shape))
    products = torch.einsum("i...d,j...d->...ij", rows, rows)
    share = _share(products, base.dtype).unsqueeze(-1)
    return share.reshape(1) if base.dim() < 2 else share


def _mixed(base: Tensor, models: Sequence[Tensor], share: Tensor) -> Tensor:
    mean = models[0]
    for model in models[1:]:
        mean = mean + model
    return share * (mean / len(models)) + (1 - share) * base


@part
class ModelStock(MergePart):
    """Between the mean of fine-tuned models and the base.

    The method of a merge recipe under the name ``model_stock``; the function of that name does the same to tensors at
    hand.

    Example:
        >>> from isoflop.merge.method import on_tensors
        >>> base = torch.zeros(4)
        >>> first, second = torch.tensor([1.0, 2.0, 0.5, -1.0]), torch.tensor([-3.0, 2.0, 0.25, 1.0])
        >>> torch.equal(on_tensors(ModelStock(), base, [first, second]), model_stock(base, [first, second]))
        True
    """

    card = Card(
        summary="between the mean of fine-tuned models and the base, by the angle between their task vectors",
        paper="Jang et al. 2024, arXiv 2403.19522",
        equation="t mean(x_i) + (1 - t) b, t = k cos / (1 + (k - 1) cos)",
        defaults="a tensor at a time",
        differs="inner products summed in float64; where updates oppose each other the base is kept",
        cost="a reading for the inner products, then about 3 operations an element and model",
    )
    models: ClassVar[tuple[int, int | None]] = (2, None)

    filter_wise: bool = False
    """One t for each row instead of each tensor."""

    @property
    def whole(self) -> bool:
        return self.filter_wise

    def survey(self, base: Flat | None, models: Sequence[Flat], rng: Rng, overview: Any) -> Tensor | None:
        return None if self.filter_wise else _share(gram(models, base), models[0].dtype)

    def merge(self, base: Tensor | None, models: Sequence[Tensor], survey: Any, start: int) -> Tensor:
        assert base is not None
        return _mixed(base, models, _share_of_rows(base, models) if self.filter_wise else survey)

"""TIES as PEFT computes it: signs from the unweighted sum, or by count, and a division by the number that agrees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ...core.registry import Card, part
from ...core.rng import Rng
from ...store.tensors import Flat, HeldTensor
from ..arithmetic import agrees, trimmed
from ..method import Each, MergePart, Share, deltas, numbers
from ..select import ALL, Cut, largest

Election = Literal["total", "frequency"]


def ties_peft(
    base: Tensor, models: Sequence[Tensor], *, weight: Each = 1.0, density: Share = 1.0, election: Election = "total"
) -> Tensor:
    """Trim per tensor, elect by the unweighted vectors, then sum w_i d_i of those that agree over their number.

    Use it to repeat merges of adapters by a library under that name.

    Args:
        base: what the task vectors start from; zeros to merge updates themselves.
        models: tensors of the base's shape.
        weight: one number, or one a model; it does not enter the election.
        density: share of the entries that is kept, the largest; one number, or one a model.
        election: "total": the sign of the sum; "frequency": the sign of most.

    Example:
        >>> base = torch.zeros(4)
        >>> first, second = torch.tensor([1.0, 2.0, 0.5, -1.0]), torch.tensor([-3.0, 2.0, 0.25, 1.0])
        >>> [round(number, 3) for number in ties_peft(base, [first, second], density=0.5).tolist()]
        [-3.0, 2.0, 0.0, 0.0]
    """
    cuts = _cuts(HeldTensor(base), [HeldTensor(model) for model in models], density)
    flat = _merged(base.reshape(-1), [model.reshape(-1) for model in models], cuts, 0, weight, election)
    return flat.reshape(base.shape)


def _cuts(base: Flat, models: Sequence[Flat], density: Share) -> list[Cut]:
    return [
        ALL
        if share >= 1
        else largest(((at, d.abs()) for at, d in deltas(base, model)), base.numel, int(share * base.numel))
        for model, share in zip(models, numbers(density, len(models), "density"), strict=True)
    ]


def _merged(
    base: Tensor, models: Sequence[Tensor], cuts: Sequence[Cut], start: int, weight: Each, election: Election
) -> Tensor:
    vectors = torch.stack([trimmed(model - base, cut, start) for model, cut in zip(models, cuts, strict=True)])
    votes = vectors if election == "total" else vectors.sign()
    agree = agrees(vectors, votes.sum(0) >= 0)
    weights = torch.tensor(numbers(weight, len(models)), dtype=base.dtype)
    return base + (vectors * agree * weights[:, None]).sum(0) / agree.sum(0).clamp(min=1)


@part
class TiesPeft(MergePart):
    """TIES with PEFT's election and divisor.

    The method of a merge recipe under the name ``ties_peft``; the function of that name does the same to tensors at
    hand.

    Example:
        >>> from isoflop.merge.method import on_tensors
        >>> base = torch.zeros(4)
        >>> first, second = torch.tensor([1.0, 2.0, 0.5, -1.0]), torch.tensor([-3.0, 2.0, 0.25, 1.0])
        >>> merged = on_tensors(TiesPeft(density=0.5), base, [first, second])
        >>> torch.equal(merged, ties_peft(base, [first, second], density=0.5))
        True
    """

    card = Card(
        summary="TIES as PEFT computes it: unweighted election, divided by the number that agrees",
        paper="Yadav et al. 2023, arXiv 2306.01708; PEFT 0.21",
        equation="b + sum_{sign agrees} w_i d_i / #{sign agrees}",
        differs="PEFT applies it to LoRA factors, which mixes them; here it acts on whole weights or whole updates",
        cost="a reading for the thresholds, then about 6 operations an element and model",
    )
    selects: ClassVar[bool] = True
    each: ClassVar[frozenset[str]] = frozenset({"weight", "density"})

    weight: Each = 1.0
    """Weight of each model's task vector; not in the election."""
    density: Share = 1.0
    """Share of each task vector's entries that is kept."""
    election: Election = "total"
    """The sign of the sum (total), or of most (frequency)."""

    def survey(self, base: Flat | None, models: Sequence[Flat], rng: Rng, overview: Any) -> list[Cut]:
        assert base is not None
        return _cuts(base, models, self.density)

    def merge(self, base: Tensor | None, models: Sequence[Tensor], survey: Any, start: int) -> Tensor:
        assert base is not None
        return _merged(base, models, survey, start, self.weight, self.election)

"""Random pruning by rank, which needs whole rows."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.errors import UsageError
from ..core.rng import Rng
from .arithmetic import l1_ratio
from .method import uniform


def by_rank(vector: Tensor, rng: Rng, number: int, density: float, epsilon: float, *, rescale: bool) -> Tensor:
    """A task vector whose entries are kept with a probability that grows linearly with their rank in the row.

    Args:
        vector: of any shape; what has one dimension is one row.
        rng: stream of the tensor.
        number: of the model.
        density: the mean probability.
        epsilon: half its range within a row.
        rescale: restore the L1 norm.
    """
    if density >= 1:
        return vector
    if density <= 0:
        return torch.zeros_like(vector)
    if density + epsilon >= 1 or density - epsilon <= 0:
        raise UsageError(
            f"density {density:g} and epsilon {epsilon:g} leave (0, 1)",
            fix="choose epsilon so that density - epsilon and density + epsilon lie between 0 and 1",
        )
    rows = vector.reshape(vector.shape[0], -1) if vector.dim() > 1 else vector.reshape(1, -1)
    places = torch.argsort(rows.abs().float(), dim=1, stable=True)
    probability = torch.full(rows.shape, density)
    if rows.shape[1] > 1:
        ladder = torch.linspace(density - epsilon, density + epsilon, rows.shape[1])
        probability.scatter_(1, places, ladder.expand_as(places))
    kept = rows * (uniform(rng, number, 0, rows.numel()).reshape(rows.shape) < probability)
    if rescale:
        before, after = (float(x.abs().sum(dtype=torch.float64)) for x in (rows, kept))
        kept = kept * l1_ratio(before, after)
    return kept.reshape(vector.shape)

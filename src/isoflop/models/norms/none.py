"""No norm at all: vectors stay as they are."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...core.contracts import NormPart
from ...core.cost import Work
from ...core.registry import Card, part
from ...core.roles import Shape


class NoNorm(nn.Module):
    """Vectors as they are, in ``dtype``.

    Example:
        >>> NoNorm()(torch.tensor([3.0, 4.0]), torch.bfloat16)
        tensor([3., 4.], dtype=torch.bfloat16)
    """

    def forward(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        return x.to(dtype)


def reference(x: Tensor, weight: None, bias: None, eps: float) -> Tensor:
    """The norm by its definition."""
    return x


@part
class NoNormPart(NormPart):
    """No norm, to learn what norms are good for.

    Use it as an arm beside ``rms`` and ``layer``. A tied head needs a gain, which this has not.

    Example:
        >>> list(NoNormPart().build(2, 1e-5).parameters())
        []
    """

    card = Card(
        summary="Leaves vectors as they are: no gain, no bias",
        paper="the ablation of Ba et al. 2016, arXiv 1607.06450",
        equation="y = x",
        cost="nothing",
    )

    def build(self, width: int, eps: float) -> NoNorm:
        return NoNorm()

    def shapes(self, width: int) -> list[Shape]:
        return []

    def work(self, tokens: int, width: int) -> Work:
        return Work()

"""LayerNorm (Ba et al. 2016, arXiv 1607.06450)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.contracts import NormPart
from ...core.cost import Work
from ...core.registry import Card, part
from ...core.roles import WIDTH, Shape
from ..cost import pointwise
from ..layers import read


class LayerNorm(nn.Module):
    """(x - mean) / deviation, with a gain and perhaps a bias; computed in the input's dtype, returned in ``dtype``.

    Args:
        width: of the vectors.
        eps: added to the variance.
        bias: whether a bias is added.

    Example:
        >>> norm = LayerNorm(4, eps=1e-5, bias=False)
        >>> round(norm(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.float32).std(correction=0).item(), 3)
        1.0
    """

    role = "norm"

    def __init__(self, width: int, eps: float, bias: bool) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None
        self.parametrization: Any = None

    def forward(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        return F.layer_norm(x, self.weight.shape, read(self), self.bias, self.eps).to(dtype)


def reference(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """The norm by its definition, over the last dimension."""
    centred = x - x.mean(-1, keepdim=True)
    unit = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    return unit * weight + (0 if bias is None else bias)


@part
class LayerNormPart(NormPart):
    """LayerNorm: GPT-2's norm, and that of the original Transformer.

    Use it where a family does (GPT-2); ``rms`` is a little cheaper and about as good.

    Example:
        >>> norm = LayerNormPart().build(4, 1e-5)
        >>> norm(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.float32).sum().abs().item() < 1e-5
        True
    """

    bias: bool = True
    """Whether a bias is added; it is not decayed."""
    card = Card(
        summary="Subtracts a vector's mean and divides by its standard deviation; one gain, and one bias, a coordinate",
        paper="Ba et al. 2016, arXiv 1607.06450",
        equation="y = g (x - mean(x)) / sqrt(var(x) + eps) + b",
        cost="about 8 operations a number, no products",
    )

    def build(self, width: int, eps: float) -> LayerNorm:
        return LayerNorm(width, eps, self.bias)

    def shapes(self, width: int) -> list[Shape]:
        bias = [Shape("bias", "bias", (width,), (WIDTH,))] if self.bias else []
        return [Shape("weight", "norm", (width,), (WIDTH,)), *bias]

    def work(self, tokens: int, width: int) -> Work:
        return pointwise(tokens * width, operations=7 + self.bias)

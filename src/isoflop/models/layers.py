"""What every module of a model is made of: matrices and norms with their roles, and their initialisation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.rng import Rng
from ..core.roles import Role
from .kernels import fuse, rms_norm

Product = Callable[[Tensor], Tensor]
"""From (..., columns) to (..., rows) vectors: a weight's product, or what stands in its place."""


class Matrix(nn.Module):
    """A weight (rows, columns), kept in fp32 whatever the products' dtype.

    Args:
        residual: it writes into the residual stream.
        std: standard deviation of its initial entries; by default columns ** -0.5, which keeps the scale of inputs.
    """

    weight: nn.Parameter

    def __init__(
        self, rows: int, columns: int, role: Role = "hidden", residual: bool = False, std: float | None = None
    ) -> None:
        super().__init__()
        self.role, self.residual = role, residual
        self.std = columns**-0.5 if std is None else std
        self.weight = nn.Parameter(torch.zeros(rows, columns))
        self.parametrization: Any = None

    def product(self, dtype: torch.dtype) -> Product:
        """x -> x W' with operands in ``dtype``, or what its parametrization puts in its place."""
        if self.parametrization is not None:
            return self.parametrization.product(self.weight, dtype)  # type: ignore[no-any-return]
        return partial(F.linear, weight=fuse((self.weight,), dtype))


def joined(matrices: Sequence[Matrix], dtype: torch.dtype) -> Product:
    """The products of several matrices with the same vectors, side by side in the last dimension.

    One product where all are plain and are trained, or not, together.
    """
    if plain_alike(matrices):
        return partial(F.linear, weight=fuse(tuple(matrix.weight for matrix in matrices), dtype))
    products = [matrix.product(dtype) for matrix in matrices]
    return lambda x: torch.cat([product(x) for product in products], -1)


def plain_alike(matrices: Sequence[Matrix]) -> bool:
    """Whether no matrix is parametrized, and all are trained or all are frozen."""
    trained = {matrix.weight.requires_grad for matrix in matrices}
    return len(trained) == 1 and all(matrix.parametrization is None for matrix in matrices)


class RmsNorm(nn.Module):
    """Root-mean-square norm with a gain; computed in the input's dtype, returned in ``dtype``."""

    role: Role = "norm"

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        return rms_norm(x, self.weight, self.eps, dtype)


@torch.no_grad()
def oppose(norm: Any, vocab_size: int) -> None:
    """Start the gains before a tied head at +a, -a, +a ... with a = min(1, ln(vocab_size) / 4), instead of all at 1.

    A token's embedding e enters the stream, is still most of it at the head, and meets itself there: with equal gains
    that token's logit is about |e| sqrt(width) = sqrt(width) where all others are of order 1, and the first loss grows
    with the width. With opposing signs the sum over the coordinates is of order 1 as well. It can be done by smaller
    logits too (smaller gains, a factor before the head, no factor on entering), but those learn more slowly, each at
    its best rate: ``benchmarks/tied_start.py``, ``benchmarks/results/tied_start.json`` (width 256, 400 steps: 2.364
    bits per byte with opposing signs, 2.458 with equal gains). Signs also lift a bound: what the stream passes from the
    embedding E to the head, E diag(gains) E', is positive semi-definite with positive gains, so that each token would
    always speak for itself.

    Forward and parameters are those of any tied model. Below ln V = 4 logits of order 1 are already too far from a
    uniform guess, hence a.
    """
    norm.weight.fill_(min(1.0, math.log(vocab_size) / 4))
    norm.weight[1::2].neg_()


def initialise(model: nn.Module, rng: Rng, residual_scale: float, std: float | None = None) -> None:
    """Draw every matrix from N(0, std^2), those that write into the residual stream ``residual_scale`` smaller.

    ``std`` is each matrix's own unless one is given for all.

    So products keep the scale of normalised inputs, and the residual stream does not grow with depth (the scaling is
    GPT-2's: Radford et al. 2019, section 2.3). Each matrix has its own random stream, by its name.
    """
    for name, module in model.named_modules():
        if isinstance(module, Matrix):
            scale = (module.std if std is None else std) * (residual_scale if module.residual else 1.0)
            drawn = rng(name).at().standard_normal(tuple(module.weight.shape), dtype="float32")
            with torch.no_grad():
                module.weight.copy_(torch.from_numpy(drawn).mul_(scale))

"""What every module of a model is made of: matrices and norms with their roles, and their initialisation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.contracts import EffectiveWeight, as_matrix
from ..core.rng import Rng
from ..core.roles import Axis, Role, Shape
from .kernels import fuse, linear, rms_norm

Product = Callable[[Tensor], Tensor]
"""From (..., columns) to (..., rows) vectors: a weight's product, or what stands in its place."""


class Matrix(nn.Module):
    """A weight (rows, columns), and perhaps a bias (rows,), kept in fp32 whatever the products' dtype.

    Every weight of a product is one, so that what wraps products (quantisation, low rank, masks) finds them all, by
    role.

    Args:
        rows: width of the output.
        columns: width of the input.
        role: of the weight, by which optimizers and parametrizations choose.
        residual: it writes into the residual stream.
        std: standard deviation of its initial entries; by default columns ** -0.5, which keeps the scale of inputs.
        bias: whether a bias is added to the product; it starts at 0, and no parametrization touches it.

    Example:
        >>> matrix = Matrix(3, 2, role="hidden")
        >>> matrix.product(torch.bfloat16)(torch.ones(5, 2, dtype=torch.bfloat16)).shape, matrix.weight.dtype
        (torch.Size([5, 3]), torch.float32)
    """

    weight: nn.Parameter

    def __init__(
        self,
        rows: int,
        columns: int,
        role: Role = "hidden",
        residual: bool = False,
        std: float | None = None,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.role, self.residual = role, residual
        self.std = columns**-0.5 if std is None else std
        self.weight = nn.Parameter(torch.empty(rows, columns))  # until it is drawn or read it holds anything at all
        self.bias = nn.Parameter(torch.zeros(rows)) if bias else None
        self.parametrization: Any = None

    @property
    def reads(self) -> bool:
        """Whether its weight is read as a weight: nothing takes its product's place, or rounds its operands."""
        own = self.parametrization
        return own is None or (isinstance(own, EffectiveWeight) and own.operands is None)

    def read(self) -> Tensor:
        """The weight that stands in its place (rows, columns), fp32."""
        return read(self)

    def product(self, dtype: torch.dtype) -> Product:
        """x -> x W' + bias with operands in ``dtype``; a parametrization puts something in the product's place."""
        bias, own = None if self.bias is None else self.bias.to(dtype), self.parametrization
        if self.reads:
            return partial(F.linear, weight=fuse((self.read(),), dtype), bias=bias)
        if isinstance(own, EffectiveWeight):
            return partial(linear, weight=self.read(), bias=bias, operands=own.operands, dtype=dtype)
        product: Product = own.product(self.weight, dtype)
        return product if bias is None else lambda x: product(x) + bias


def read(module: Any) -> Tensor:
    """The weight of a module as it is read: its own, or what its parametrization puts in that one's place."""
    own, weight = module.parametrization, module.weight
    return weight if own is None else as_matrix(own.effective, weight)


def matrix_shapes(
    name: str, rows: int, columns: int, bias: bool = False, axes: tuple[Axis, Axis] | None = None
) -> list[Shape]:
    """Names, roles and shapes of the parameters of a ``Matrix`` within the blocks.

    Args:
        name: of the matrix within its layer.
        rows: width of the output.
        columns: width of the input.
        bias: whether it has one.
        axes: what rows and columns run over; a layer whose matrices do not say it cannot be cut.
    """
    weight = Shape(f"{name}.weight", "hidden", (rows, columns), axes or ())
    return [weight, Shape(f"{name}.bias", "bias", (rows,), weight.axes[:1])] if bias else [weight]


def joined(matrices: Sequence[Matrix], dtype: torch.dtype) -> Product:
    """The products of several matrices with the same vectors, side by side in the last dimension.

    One product where all are read as weights and are trained, or not, together; either all have a bias or none has.
    """
    if (weights := read_alike(matrices)) is not None:
        biases = [matrix.bias.to(dtype) for matrix in matrices if matrix.bias is not None]
        weight = fuse(weights, dtype)
        return partial(F.linear, weight=weight, bias=torch.cat(biases) if biases else None)
    products = [matrix.product(dtype) for matrix in matrices]
    return lambda x: torch.cat([product(x) for product in products], -1)


def read_alike(matrices: Sequence[Matrix]) -> tuple[Tensor, ...] | None:
    """The weights of matrices that may share a product: all are read as weights, and all need a gradient or none."""
    if not all(matrix.reads for matrix in matrices):
        return None
    weights = tuple(matrix.read() for matrix in matrices)
    return weights if len({weight.requires_grad for weight in weights}) == 1 else None


def exact(x: Tensor) -> Tensor:
    """In fp32 at least."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


class RmsNorm(nn.Module):
    """Root-mean-square norm with a gain; computed in the input's dtype, returned in ``dtype``.

    The gain is ``origin`` + ``weight``, and 1 at the start.

    Args:
        width: of the vectors.
        eps: added to the mean square.

    Example:
        >>> x = torch.tensor([[3.0, 4.0]])
        >>> RmsNorm(2, eps=0.0)(x, torch.float32).square().mean().item()
        1.0
    """

    role: Role = "norm"
    origin = 0.0

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.full((width,), 1 - self.origin))
        self.parametrization: Any = None

    def forward(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        gain = self.weight if self.parametrization is None else read(self)
        gain = gain + self.origin if self.origin else gain
        return rms_norm(x, gain, self.eps, dtype)


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
    gain = torch.full_like(norm.weight, min(1.0, math.log(vocab_size) / 4))
    gain[1::2].neg_()
    norm.weight.copy_(gain - getattr(norm, "origin", 0.0))


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

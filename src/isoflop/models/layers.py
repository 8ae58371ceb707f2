"""What every module of a model is made of: matrices and norms with their roles, and their initialisation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..core.rng import Rng
from ..core.roles import Role
from .kernels import rms_norm


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


class RmsNorm(nn.Module):
    """Root-mean-square norm with a gain; computed in the input's dtype, returned in ``dtype``."""

    role: Role = "norm"

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        return rms_norm(x, self.weight, self.eps, dtype)


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

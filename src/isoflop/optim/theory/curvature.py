"""Exact curvature: products with the Hessian and the empirical Fisher matrix, Gauss-Newton matrices and steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, vjp

from ...core.contracts import LossOf, Outputs
from ..linearization import forward_mode, gauss_newton_product, pushed


def hessian_product(total: Callable[[Any], Tensor], at: Any, v: Any) -> Any:
    """Hessian of the scalar ``total`` times v."""
    with forward_mode():
        return pushed(grad(total), at, v)[1]


def empirical_fisher_product(losses: Callable[[Tensor], Tensor], at: Tensor, v: Tensor) -> Tensor:
    """mean_i g_i g_i' v, g_i the gradients of the losses (N,) of single samples."""
    with forward_mode():
        values, slopes = pushed(losses, at, v)  # slopes_i = g_i' v
        product: Tensor = vjp(losses, at)[1](slopes / len(values))[0]
        return product


def gauss_newton_matrix(outputs: Outputs, loss: LossOf, at: Tensor) -> Tensor:
    """(d, d) for parameters (d,): every column by a product; for tiny problems."""
    columns = [gauss_newton_product(outputs, loss, at, v) for v in torch.eye(len(at), dtype=at.dtype)]
    return torch.stack(columns, dim=1)


def damped_step(matrix: Tensor, gradient: Tensor, damping: float, blocks: Sequence[int] | None = None) -> Tensor:
    """-(matrix + damping)^-1 gradient; with ``blocks`` (sizes) of the block-diagonal part only (layerwise)."""
    sizes = blocks or [len(gradient)]
    steps, start = [], 0
    for size in sizes:
        part = slice(start, start + size)
        block = matrix[part, part] + damping * torch.eye(size, dtype=matrix.dtype, device=matrix.device)
        steps.append(-torch.linalg.solve(block, gradient[part]))
        start += size
    return torch.cat(steps)

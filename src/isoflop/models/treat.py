"""Freeze and parametrize a model that was just built."""

from __future__ import annotations

import torch
from torch import nn

from ..core.contracts import PLACE, Treatment
from ..core.rng import Rng
from ..core.roles import Shape, role_of
from .layers import Matrix


def treat(model: nn.Module, treatment: Treatment, rng: Rng) -> None:
    """Give the targeted matrices their parametrizations, then freeze what is not trained."""
    for name, module in list(model.named_modules()):
        if isinstance(module, Matrix):
            part = treatment.of(Shape(f"{name}.weight", module.role, tuple(module.weight.shape)))
            if part is not None:
                rows, columns = module.weight.shape
                setattr(module, PLACE, part.build(rows, columns, rng(name)))
    for name, p in model.named_parameters():
        p.requires_grad_(treatment.trains(Shape(name, role_of(model, name), tuple(p.shape))))


@torch.no_grad()
def merged(model: nn.Module) -> dict[str, torch.Tensor]:
    """The plain model's weights, with every parametrization baked in; names are those of a model without any."""
    weights = {name: p for name, p in model.state_dict().items() if f".{PLACE}." not in name}
    for name, module in model.named_modules():
        if isinstance(module, Matrix) and module.parametrization is not None:
            weights[f"{name}.weight"] = module.parametrization.finalize(module.weight)
    return weights

"""Freeze and parametrize a model that was just built, and give it what its objective adds."""

from __future__ import annotations

from torch import nn

from ..core.contracts import OWNED, PLACE, Treatment, begin_from_weights
from ..core.rng import Rng
from ..core.roles import Shape, role_of
from .layers import Matrix


def treat(model: nn.Module, treatment: Treatment, rng: Rng) -> None:
    """Give the targeted matrices their parametrizations and the model its additions, then freeze what is not trained.

    Args:
        model: just built, its weights drawn.
        treatment: what is frozen, parametrized and added.
        rng: of the parameters that come with it.

    Example, with ``model`` a Transformer:
        >>> treat(model, Treatment(None, ("embed*",)), Rng(0))
        >>> [name for name, p in model.named_parameters() if not p.requires_grad]
        ['embedding.weight']
    """
    for name, module in list(model.named_modules()):
        if isinstance(module, Matrix):
            part = treatment.of(Shape(f"{name}.weight", module.role, tuple(module.weight.shape)))
            if part is not None:
                rows, columns = module.weight.shape
                setattr(module, PLACE, part.build(rows, columns, rng(name)))
    begin_from_weights(model)
    if treatment.owned is not None:
        width = next(m.weight.shape[1] for m in model.modules() if isinstance(m, Matrix) and m.role == "embedding")
        model.add_module(OWNED, treatment.owned.build(width, rng(OWNED)))
    for name, p in model.named_parameters():
        p.requires_grad_(treatment.trains(Shape(name, role_of(model, name), tuple(p.shape))))

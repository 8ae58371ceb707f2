"""Freeze and parametrize a model that was just built, and give it what its objective adds."""

from __future__ import annotations

from torch import nn

from ..core.contracts import OWNED, PLACE, Treatment, begin_from_weights, matrix_of
from ..core.rng import Rng
from ..core.roles import Shape, role_of
from .layers import Matrix


def treat(model: nn.Module, treatment: Treatment, rng: Rng) -> None:
    """Give the targeted weights their parametrizations and the model its additions, then freeze what is not trained.

    Args:
        model: just built, its weights drawn.
        treatment: what is frozen, parametrized and added.
        rng: of the parameters that come with it.

    Example, with ``model`` a Transformer:
        >>> treat(model, Treatment(None, ("embed*",)), Rng(0))
        >>> [name for name, p in model.named_parameters() if not p.requires_grad]
        ['embedding.weight']
    """
    made: list[tuple[nn.Module, nn.Module]] = []
    for name, module in list(model.named_modules()):
        if PLACE not in vars(module):  # it lets nothing stand in its weight's place
            continue
        shape = Shape(f"{name}.weight", role_of(model, f"{name}.weight"), tuple(module.get_parameter("weight").shape))
        part = treatment.of(shape)
        if part is not None:
            own = part.build(*matrix_of(shape), rng(name))
            setattr(module, PLACE, own)
            made.append((own, module))
    if treatment.parametrization is not None:
        treatment.parametrization.join(made)
    begin_from_weights(model)
    if treatment.owned is not None:
        width = next(m.weight.shape[1] for m in model.modules() if isinstance(m, Matrix) and m.role == "embedding")
        model.add_module(OWNED, treatment.owned.build(width, rng(OWNED)))
    for name, p in model.named_parameters():
        p.requires_grad_(treatment.trains(Shape(name, role_of(model, name), tuple(p.shape))))

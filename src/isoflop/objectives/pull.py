"""The quadratic pull of a model's weights to where a run began, which penalties against forgetting share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..core.cost import Work
from ..core.roles import Group, Shape
from ..optim.groups import elementwise


class Pull:
    """1/2 sum_j f_j (p_j - p_j^start)^2 over the trained parameters, p^start being what they are when it is made.

    It needs no state: a run that goes on is built from the same start as it was at first.

    Args:
        groups: the trained parameters.
    """

    def __init__(self, groups: Sequence[Group]) -> None:
        self.params = [p for group in groups for p in group.params]
        self.names = [name for group in groups for name in group.names]
        self.start = [p.detach().clone() for p in self.params]

    def __call__(self, factors: Sequence[Tensor] | None = None) -> Tensor:
        """The pull, a differentiable scalar.

        Args:
            factors: f_j, each of its parameter's shape; None: 1.
        """
        squares = [(p - s).square() for p, s in zip(self.params, self.start, strict=True)]
        if factors is not None:
            squares = [square * f for square, f in zip(squares, factors, strict=True)]
        return torch.stack([square.sum() for square in squares]).sum() / 2


def pull_work(shapes: Sequence[Shape], *, factors: bool = False) -> Work:
    """What a pull over parameters of these shapes costs: elementwise work alone.

    Args:
        shapes: of the trained parameters.
        factors: each has a factor of its own.
    """
    own = int(factors)
    return Work(elementwise(shapes, 3 + own, 4 + 3 * own), elementwise(shapes, 3 + own, 4 + 3 * own))


def needs_start(recipe: Any, name: str) -> list[str]:
    """The problem of a recipe that starts from nothing, if it does."""
    if recipe.start is not None:
        return []
    return [f"objective: {name} pulls to the weights that a run starts from, and there are none; give start, a run"]

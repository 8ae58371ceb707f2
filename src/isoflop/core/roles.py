"""What a parameter is for, so that optimizers can treat embeddings, heads, norms, matrices and biases apart.

Modules of a model carry an attribute ``role``; a parameter takes the role of the innermost module that has one, and
one whose name ends in "bias" is a bias. Optimizers see only these groups, never the model's classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    import torch

Role = Literal["embedding", "head", "norm", "hidden", "bias"]
ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True)
class Shape:
    """Name, role and shape of one parameter."""

    name: str
    role: Role
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Group:
    """All parameters of one role, with their names."""

    role: Role
    names: tuple[str, ...]
    params: tuple[torch.nn.Parameter, ...]


def numel(shapes: Iterable[Shape]) -> int:
    """The number of scalars in all shapes."""
    return sum(shape.numel for shape in shapes)


def role_of(model: torch.nn.Module, name: str) -> Role:
    """The role of the parameter ``name`` of ``model``; a parameter below no role is a ValueError."""
    if name.rsplit(".", 1)[-1].endswith("bias"):
        return "bias"
    module, role = model, getattr(model, "role", None)
    for piece in name.split(".")[:-1]:
        module = getattr(module, piece)
        role = getattr(module, "role", role)
    if role not in ROLES:
        raise ValueError(f"parameter {name} lies below no module with a role (legal: {', '.join(ROLES)})")
    return role  # type: ignore[no-any-return]


def parameter_groups(model: torch.nn.Module) -> list[Group]:
    """Trainable parameters grouped by role, in the order of ROLES and, within, of the model; shared ones once."""
    named = [(name, p, role_of(model, name)) for name, p in model.named_parameters() if p.requires_grad]
    return [
        Group(role, tuple(n for n, _, r in named if r == role), tuple(p for _, p, r in named if r == role))
        for role in ROLES
        if any(r == role for _, _, r in named)
    ]


def shapes_of(groups: Sequence[Group]) -> list[Shape]:
    """Names, roles and shapes of all parameters in groups."""
    return [Shape(n, g.role, tuple(p.shape)) for g in groups for n, p in zip(g.names, g.params, strict=True)]

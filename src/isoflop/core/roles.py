"""What a parameter is for, so that optimizers can treat embeddings, heads, norms, matrices and biases apart.

Modules of a model carry an attribute ``role``; a parameter takes the role of the innermost module that has one, and
one whose name ends in "bias" is a bias. Optimizers see only these groups, never the model's classes.

Roles are open: a module with parameters of another kind brings its own, and says whether weight decay acts on them:

>>> SCALE = new_role("row_scale", decays=False)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from .errors import UsageError

if TYPE_CHECKING:
    import torch

Role: TypeAlias = str
"""A role's name: one of ROLES, or one that ``new_role`` made."""
ROLES: tuple[Role, ...] = ("embedding", "head", "norm", "hidden", "bias")
"""The roles that every model may use."""
_DECAYS: dict[Role, bool] = {role: role not in ("norm", "bias") for role in ROLES}


def new_role(name: str, *, decays: bool) -> Role:
    """A role of a module's own, made where the module's class is.

    Args:
        name: a Python identifier; recipes may freeze the role by it.
        decays: whether weight decay acts on its parameters.

    Raises:
        UsageError: no identifier, or another module has a role of that name that decays otherwise.
    """
    if not name.isidentifier():
        raise UsageError(f"{name!r} is no name of a role", fix="use letters, digits and _")
    if _DECAYS.setdefault(name, decays) != decays:
        what = "is not decayed" if decays else "is decayed"
        raise UsageError(f"there is a role {name!r} already, which {what}", fix="choose another name")
    return name


def decays(role: Role) -> bool:
    """Whether weight decay acts on parameters of a role; an unknown role is a ValueError."""
    if role not in _DECAYS:
        raise ValueError(f"no role is named {role!r} (known: {', '.join(_DECAYS)}); make it with core.roles.new_role")
    return _DECAYS[role]


@dataclass(frozen=True)
class Axis:
    """What a dimension of a parameter runs over: each unit of it is ``each`` numbers side by side.

    Parameters with an axis of the same name are cut together. ``width`` and ``vocabulary`` are those of the whole
    model; any other belongs to the layer that names it.

    Args:
        name: of the axis, e.g. "hidden".
        each: numbers of a unit, e.g. those of a head.

    Example:
        >>> Axis("heads", each=8).within("blocks.0.mixer").name
        'blocks.0.mixer.heads'
    """

    name: str
    each: int = 1

    def within(self, module: str) -> Axis:
        """The axis as a model calls it of which ``module`` is a part."""
        return self if self in (WIDTH, VOCABULARY) else Axis(f"{module}.{self.name}", self.each)


WIDTH = Axis("width")
"""The model's vectors."""
VOCABULARY = Axis("vocabulary")
"""The token ids."""


@dataclass(frozen=True)
class Shape:
    """Name, role and shape of one parameter, and what its dimensions run over.

    Args:
        name: of the parameter.
        role: of the parameter.
        shape: of the parameter.
        axes: one for each dimension; none where nobody has named them.

    Example:
        >>> Shape("q.weight", "hidden", (32, 32)).numel
        1024
    """

    name: str
    role: Role
    shape: tuple[int, ...]
    axes: tuple[Axis, ...] = field(default=(), compare=False)

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    def within(self, module: str) -> Shape:
        """The same parameter as a model calls it of which ``module`` is a part."""
        return Shape(f"{module}.{self.name}", self.role, self.shape, tuple(axis.within(module) for axis in self.axes))


@dataclass(frozen=True)
class Group:
    """All parameters of one role, with their names.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(2, 3)
        >>> Group("hidden", ("weight",), (layer.weight,)).names
        ('weight',)
    """

    role: Role
    names: tuple[str, ...]
    params: tuple[torch.nn.Parameter, ...]


def numel(shapes: Iterable[Shape]) -> int:
    """The number of scalars in all shapes."""
    return sum(shape.numel for shape in shapes)


def width_of(shapes: Iterable[Shape]) -> int:
    """How wide a model's vectors are, as its embedding says."""
    return next(shape.shape[-1] for shape in shapes if shape.role == "embedding")


TRAINING_BYTES = 16
"""Bytes a parameter takes in training: fp32 weight, gradient and two moments."""


def role_of(model: torch.nn.Module, name: str) -> Role:
    """The role of the parameter ``name`` of ``model``; a parameter below no role is a ValueError."""
    if name.rsplit(".", 1)[-1].endswith("bias"):
        return "bias"
    module, role = model, getattr(model, "role", None)
    for piece in name.split(".")[:-1]:
        module = getattr(module, piece)
        role = getattr(module, "role", role)
    if role not in _DECAYS:
        raise ValueError(f"parameter {name} lies below no module with a role (legal: {', '.join(_DECAYS)})")
    return str(role)


def parameter_groups(model: torch.nn.Module) -> list[Group]:
    """Trainable parameters grouped by role; shared ones once.

    Groups come in the order of ROLES, then other roles as the model first has them; parameters in the model's order.
    """
    named = [(name, p, role_of(model, name)) for name, p in model.named_parameters() if p.requires_grad]
    return [
        Group(role, tuple(n for n, _, r in named if r == role), tuple(p for _, p, r in named if r == role))
        for role in dict.fromkeys([*ROLES, *(role for _, _, role in named)])
        if any(r == role for _, _, r in named)
    ]


def shapes_of(groups: Sequence[Group]) -> list[Shape]:
    """Names, roles and shapes of all parameters in groups."""
    return [Shape(n, g.role, tuple(p.shape)) for g in groups for n, p in zip(g.names, g.params, strict=True)]

"""From groups by role to the dictionaries that torch's optimizers take, and what elementwise work on them costs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any

from pydantic import Field

from ..core.cost import Cost
from ..core.roles import Group, Shape, decays, numel

Beta = Annotated[float, Field(ge=0, lt=1)]
"""Decay of a moving average."""

SMALLEST = 2.0**-126
"""The smallest normal number of fp32: what is less may be zero where it is added, and zero over zero is NaN."""

Epsilon = Annotated[float, Field(ge=SMALLEST)]
"""What keeps a quotient finite."""

Grid = dict[str, tuple[float, ...]]
"""Hyper-parameter -> values that tuning may try."""


def torch_groups(groups: Iterable[Group], weight_decay: float, **settings: Any) -> list[dict[str, Any]]:
    """One dictionary a role, with named parameters (so that errors can name them), decay only where the role has it."""
    return [
        {
            "params": list(zip(group.names, group.params, strict=True)),
            "role": group.role,
            "weight_decay": weight_decay if decays(group.role) else 0.0,
            **settings,
        }
        for group in groups
    ]


def split(groups: Iterable[Group]) -> tuple[list[Group], list[Group]]:
    """(matrices inside the blocks, everything else): 2-D parameters of role "hidden" apart from the others."""
    inner: list[Group] = []
    rest: list[Group] = []
    for group in groups:
        for wanted, out in ((True, inner), (False, rest)):
            chosen = [
                (n, p)
                for n, p in zip(group.names, group.params, strict=True)
                if (group.role == "hidden" and p.ndim == 2) == wanted
            ]
            if chosen:
                out.append(Group(group.role, tuple(n for n, _ in chosen), tuple(p for _, p in chosen)))
    return inner, rest


def split_shapes(shapes: Iterable[Shape]) -> tuple[list[Shape], list[Shape]]:
    """``split`` for shapes."""
    shapes = list(shapes)
    inner = [s for s in shapes if s.role == "hidden" and len(s.shape) == 2]
    return inner, [s for s in shapes if s not in inner]


def elementwise(shapes: Sequence[Shape], operations: int, floats: int) -> Cost:
    """Cost of ``operations`` a scalar that read and write ``floats`` fp32 numbers a scalar."""
    n = numel(shapes)
    return Cost(elementwise=operations * n, moved=4 * floats * n)


def factor2(low: float, high: float) -> tuple[float, ...]:
    """low, 2 low, 4 low ... up to high (included when it is hit): the usual grid of a learning rate."""
    values = [low]
    while values[-1] * 2 <= high * (1 + 1e-9):  # so that rounding does not leave out ``high``
        values.append(values[-1] * 2)
    return tuple(values)


def state_bytes(shapes: Sequence[Shape], floats: int, counters: int = 1) -> int:
    """Bytes of ``floats`` fp32 buffers a scalar and ``counters`` fp32 counters a tensor."""
    return 4 * (floats * numel(shapes) + counters * len(shapes))


def share(cost: Cost, steps: int) -> Cost:
    """The whole FLOPs a step of work that is done once in ``steps``."""
    return Cost(cost.flops // steps, cost.executed // steps, cost.elementwise // steps, cost.moved // steps)

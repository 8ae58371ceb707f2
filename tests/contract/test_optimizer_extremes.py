"""What every optimizer does at the borders of what it may be given: gradients of zero, the least eps, empty tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from isoflop.core.errors import UsageError
from isoflop.core.registry import get, names
from isoflop.core.roles import Group, shapes_of
from isoflop.optim.groups import SMALLEST
from optim_classes import CLASSES, VARIANTS, arguments, label, takes
from optim_toy import TOY, ToyProblem, params_of, take_steps, toy_context, toy_groups

PARTS = names("optimizer")
STEPS = 14
"""More than the steps between two refreshes of any preconditioner."""
FORMS: list[tuple[int, ...]] = [(4, 6), (6, 4), (5,), (), (2, 3, 4), (3, 2, 2, 2)]


def random(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def without_first(g: torch.Tensor) -> torch.Tensor:
    if g.ndim:
        g[0] = 0
    return g


PATTERNS: dict[str, Callable[[torch.Tensor, int], torch.Tensor]] = {
    "always zero": lambda g, t: torch.zeros_like(g),
    "zero at first": lambda g, t: g * (t > 0),
    "zero for long at first": lambda g, t: g * (t > 11),
    "zero from then on": lambda g, t: g * (t < 3),
    "a zero row": lambda g, t: without_first(g),
    "a zero column": lambda g, t: without_first(g.T).T if g.ndim == 2 else without_first(g),
    "squares below fp32": lambda g, t: g * 1e-25,
    "powers of squares below fp32": lambda g, t: g * 1e-15,
}


def walk(variant: tuple[str, dict[str, Any]], shape: tuple[int, ...], pattern: str, **changes: Any) -> Any:
    """(movement, optimizer, parameter) after STEPS steps without decay."""
    name, fields = variant
    p = torch.nn.Parameter(random(shape, 99))
    start = p.detach().clone()
    without = {k: 0.0 for k in ("weight_decay", "weight_decay_1d") if k in arguments(name)}
    group = {"params": [("w", p)], "role": "head"}
    optimizer = CLASSES[name]([group], **(arguments(name, **fields) | without | changes))
    for t in range(STEPS):
        p.grad = PATTERNS[pattern](random(shape, t), t)
        optimizer.step()
    return p.detach() - start, optimizer, p


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("variant", VARIANTS, ids=label)
def test_gradients_of_zero_break_nothing(variant: tuple[str, dict[str, Any]], pattern: str) -> None:
    for shape in FORMS:
        if not takes(variant[0], shape):
            continue
        moved, optimizer, p = walk(variant, shape, pattern)
        assert bool(torch.isfinite(moved).all()), shape
        for key, value in optimizer.state[p].items():
            assert not isinstance(value, torch.Tensor) or bool(torch.isfinite(value).all()), (shape, key)
        assert pattern != "always zero" or not bool(moved.any()), shape


@pytest.mark.parametrize("variant", VARIANTS, ids=label)
def test_the_least_eps_is_enough(variant: tuple[str, dict[str, Any]]) -> None:
    name = variant[0]
    least = {key: SMALLEST for key in ("eps", "epsilon", "grafting_eps") if key in arguments(name)}
    for pattern in ("always zero", "zero at first", "a zero row"):
        for shape in FORMS:
            if takes(name, shape):
                assert bool(torch.isfinite(walk(variant, shape, pattern, **least)[0]).all()), (pattern, shape)


@pytest.mark.parametrize("value", [0.0, 1e-50, SMALLEST / 2])
@pytest.mark.parametrize("name", CLASSES)
def test_an_eps_that_fp32_takes_for_zero_is_refused(name: str, value: float) -> None:
    for key in {"eps", "epsilon", "grafting_eps"} & set(arguments(name)):
        with pytest.raises(UsageError, match=f"{key} must be"):
            CLASSES[name]([torch.nn.Parameter(torch.ones(2, 2))], **arguments(name, **{key: value}))


@pytest.mark.parametrize("name", PARTS)
def test_a_recipe_may_not_ask_for_it(name: str) -> None:
    part = get("optimizer", name)
    for key in {"eps", "epsilon", "grafting_eps"} & set(part.model_fields):
        with pytest.raises(ValidationError, match="greater than or equal to"):
            part(**{key: 0.0})
        part(**{key: SMALLEST})


@pytest.mark.parametrize("name", PARTS)
def test_a_part_moves_nothing_by_gradients_of_zero(name: str) -> None:
    fields = {"weight_decay": 0.0} if "weight_decay" in get("optimizer", name).model_fields else {}
    groups = toy_groups()
    optimizer = get("optimizer", name)(**fields).build(toy_context(groups))  # type: ignore[attr-defined]
    before = [p.detach().clone() for p in params_of(groups)]
    if isinstance(optimizer, torch.optim.Optimizer):
        for _ in range(STEPS):
            for p in params_of(groups):
                p.grad = torch.zeros_like(p)
            optimizer.step()
        assert all(torch.equal(p, q) for p, q in zip(params_of(groups), before, strict=True))
    else:
        for t in range(2):
            optimizer.step(AtRest(groups, t))
        assert all(bool(torch.isfinite(p).all()) for p in params_of(groups))


class AtRest(ToyProblem):
    """The toy problem at its minimum: every gradient is zero."""

    def __init__(self, groups: Any, step: int) -> None:
        super().__init__(groups, step)
        self.targets = [p.detach().clone() for p in self.params]


# ---------------------------------------------------------------- parameters without entries

EMPTY: list[tuple[int, ...]] = [(0, 3), (3, 0), (0, 0), (0,), (2, 0, 3), (0, 3, 2), (0, 2, 2, 2), (3, 0, 2, 2)]


@pytest.mark.parametrize("variant", VARIANTS, ids=label)
def test_parameters_without_entries_stop_nobody(variant: tuple[str, dict[str, Any]]) -> None:
    name, fields = variant
    for role in ("hidden", "head", "norm"):
        empty = [torch.nn.Parameter(torch.ones(shape)) for shape in EMPTY if takes(name, shape)]
        full = torch.nn.Parameter(random((4, 6), 99))
        optimizer = CLASSES[name]([{"params": [*empty, full], "role": role}], **arguments(name, **fields))
        for t in range(STEPS):
            for p in [*empty, full]:
                p.grad = random(tuple(p.shape), t)
            optimizer.step()
        assert not torch.equal(full, random((4, 6), 99))
        again = CLASSES[name]([{"params": [*empty, full], "role": role}], **arguments(name, **fields))
        again.load_state_dict(optimizer.state_dict())
        again.step()


def with_empty() -> tuple[Group, ...]:
    """The toy's groups, each with empty parameters beside the others."""
    extra = {f"empty{i}": torch.nn.Parameter(torch.ones(shape)) for i, shape in enumerate(EMPTY)}
    return tuple(Group(g.role, (*extra, *g.names), (*extra.values(), *g.params)) for g in toy_groups()[:1]) + tuple(
        Group(g.role, (f"{g.role}.empty", *g.names), (torch.nn.Parameter(torch.ones(0, 6)), *g.params))
        for g in toy_groups()[1:]
    )


@pytest.mark.parametrize("name", PARTS)
def test_a_part_takes_parameters_without_entries(name: str) -> None:
    groups, part = with_empty(), get("optimizer", name)(**TOY.get(name, {}))
    optimizer = part.build(toy_context(groups))  # type: ignore[attr-defined]
    take_steps(optimizer, groups, 0, 3)
    shapes = shapes_of(groups)
    cost = part.cost(shapes)  # type: ignore[attr-defined]
    assert cost == part.cost(shapes_of(toy_groups()))  # type: ignore[attr-defined]
    again = part.build(toy_context(groups))  # type: ignore[attr-defined]
    again.load_state_dict(optimizer.state_dict())
    take_steps(again, groups, 3, 5)


@pytest.mark.parametrize("name", names("averaging"))
def test_an_average_takes_parameters_without_entries(name: str) -> None:
    groups = with_empty()
    average = get("averaging", name)().build(toy_context(groups))  # type: ignore[attr-defined]
    for t in range(13):
        average.update(t)
    with average.evaluation_weights():
        pass
    get("averaging", name)().build(toy_context(with_empty())).load_state_dict(average.state_dict())  # type: ignore[attr-defined]

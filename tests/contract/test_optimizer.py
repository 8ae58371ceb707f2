"""What every part of the slot optimizer must do."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from isoflop.core.protocols import CAPABILITIES, Optimizer, OptimizerPart
from isoflop.core.registry import get, names
from isoflop.core.roles import shapes_of
from optim_toy import params_of, take_steps, toy_context, toy_groups

PARTS = names("optimizer")


def make(name: str, seed: int = 0, **fields: Any) -> tuple[Any, tuple[Any, ...]]:
    groups = toy_groups(seed)
    return part_of(name, **fields).build(toy_context(groups)), groups


def part_of(name: str, **fields: Any) -> OptimizerPart:
    cls = get("optimizer", name)
    assert issubclass(cls, OptimizerPart)
    return cls(**fields)


def tensors_in(tree: Any) -> list[torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        return [tree]
    if isinstance(tree, dict):
        return [t for value in tree.values() for t in tensors_in(value)]
    return [t for value in tree for t in tensors_in(value)] if isinstance(tree, list | tuple) else []


def assert_plain(tree: Any) -> None:
    if isinstance(tree, dict):
        assert all(isinstance(key, str | int) for key in tree)
        for value in tree.values():
            assert_plain(value)
    elif isinstance(tree, list | tuple):
        for value in tree:
            assert_plain(value)
    else:
        assert tree is None or type(tree) in (bool, int, float, str) or isinstance(tree, torch.Tensor), type(tree)


@pytest.mark.parametrize("name", PARTS)
def test_the_part_describes_itself(name: str) -> None:
    part = part_of(name)
    assert part.card.summary
    assert part.card.equation
    assert part.card.cost
    assert part.provides <= set(CAPABILITIES)
    assert "Stateful" in part.provides
    for hyper, grid in part.search.items():
        assert list(grid) == sorted(set(grid))
        assert len(grid) >= 4
        assert grid[0] <= getattr(part, hyper) <= grid[-1]
        part.model_validate({**part.fields(), hyper: grid[0]})
    assert "lr" in part.search


@pytest.mark.parametrize("name", PARTS)
def test_it_learns(name: str) -> None:
    optimizer, groups = make(name)
    assert isinstance(optimizer, torch.optim.Optimizer | Optimizer)
    before = [p.detach().clone() for p in params_of(groups)]
    losses = take_steps(optimizer, groups, 0, 40)
    assert sum(losses[-5:]) < sum(losses[:5])
    moved = [not torch.equal(p, old) for p, old in zip(params_of(groups), before, strict=True)]
    assert all(moved)


@pytest.mark.parametrize("name", PARTS)
def test_state_round_trip_is_bit_equal(name: str) -> None:
    straight, groups = make(name)
    take_steps(straight, groups, 0, 12)

    first, early = make(name)
    take_steps(first, early, 0, 7)
    state = copy.deepcopy(first.state_dict())
    assert_plain(state)
    resumed, later = make(name, seed=5)
    with torch.no_grad():
        for p, q in zip(params_of(later), params_of(early), strict=True):
            p.copy_(q)
    resumed.load_state_dict(state)
    take_steps(resumed, later, 7, 12)
    assert all(torch.equal(p, q) for p, q in zip(params_of(groups), params_of(later), strict=True))


@pytest.mark.parametrize("name", PARTS)
def test_state_bytes_are_exact(name: str) -> None:
    optimizer, groups = make(name)
    take_steps(optimizer, groups, 0, 12)
    state = optimizer.state_dict()
    measured = sum(t.numel() * t.element_size() for t in tensors_in(state.get("state", state)))
    assert part_of(name).state_bytes(shapes_of(groups)) == measured


@pytest.mark.parametrize("name", PARTS)
def test_cost_counts_every_parameter(name: str) -> None:
    part, shapes = part_of(name), shapes_of(toy_groups())
    cost = part.cost(shapes)
    assert cost.elementwise > sum(s.numel for s in shapes)
    assert cost.moved > 4 * sum(s.numel for s in shapes)
    assert cost.hardware >= cost.model >= 0
    assert part.cost([]).elementwise == 0


@pytest.mark.parametrize("name", PARTS)
def test_a_rate_of_zero_moves_nothing(name: str) -> None:
    optimizer, groups = make(name)
    if isinstance(optimizer, torch.optim.Optimizer):
        for group in optimizer.param_groups:
            group["lr"] = 0.0
    else:
        optimizer.set_factor(0.0)
    before = [p.detach().clone() for p in params_of(groups)]
    take_steps(optimizer, groups, 0, 3)
    assert all(torch.equal(p, old) for p, old in zip(params_of(groups), before, strict=True))


@pytest.mark.parametrize("name", PARTS)
def test_parameters_without_gradient_stay(name: str) -> None:
    optimizer, groups = make(name)
    if not isinstance(optimizer, torch.optim.Optimizer):
        pytest.skip("the problem fills every gradient")
    params = params_of(groups)
    before = [p.detach().clone() for p in params]
    for t in range(3):
        for i, p in enumerate(params):
            p.grad = torch.full_like(p, 0.1 * (t + 1)) if i % 2 else None
        optimizer.step()
    for i, (p, old) in enumerate(zip(params, before, strict=True)):
        assert torch.equal(p, old) == (i % 2 == 0)


@pytest.mark.parametrize("name", PARTS)
def test_decay_acts_on_matrices_only(name: str) -> None:
    part = part_of(name)
    if "weight_decay" not in type(part).model_fields:
        pytest.skip("has no weight decay")
    for group in part.build(toy_context(toy_groups())).param_groups:
        assert (group["weight_decay"] == 0) == (group["role"] in ("norm", "bias"))

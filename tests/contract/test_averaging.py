"""What every part of the slot averaging must do."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from isoflop.core.contracts import Averaging, AveragingPart, Stateful
from isoflop.core.registry import get, names
from isoflop.core.roles import shapes_of
from optim_toy import params_of, toy_context, toy_groups

AVERAGES = names("averaging")
MERGING = {"sfa"}
"""Those that change training and are evaluated as they stand."""


def part_of(name: str) -> AveragingPart:
    cls = get("averaging", name)
    assert issubclass(cls, AveragingPart)
    return cls()


def make(name: str, dtype: torch.dtype = torch.float32) -> tuple[Any, list[torch.nn.Parameter]]:
    groups = toy_groups(dtype=dtype)
    return part_of(name).build(toy_context(groups)), params_of(groups)


def walk(average: Any, params: list[torch.nn.Parameter], first: int, last: int) -> None:
    for t in range(first, last):
        generator = torch.Generator().manual_seed(t)
        with torch.no_grad():
            for p in params:
                p.add_(0.1 * torch.randn(p.shape, generator=generator).to(p.dtype))
        average.update(t)


def evaluated(average: Any, params: list[torch.nn.Parameter]) -> list[torch.Tensor]:
    with average.evaluation_weights():
        return [p.detach().clone() for p in params]


@pytest.mark.parametrize("name", AVERAGES)
def test_the_part_describes_itself(name: str) -> None:
    part = part_of(name)
    assert part.card.summary
    assert part.card.equation
    assert part.card.cost
    assert part.cost(shapes_of(toy_groups())).moved > 0
    live, _ = make(name)
    assert isinstance(live, Averaging)
    assert (Stateful in part.provides) == isinstance(live, Stateful)


@pytest.mark.parametrize("name", AVERAGES)
def test_constant_weights_are_their_own_average(name: str) -> None:
    average, params = make(name)
    for t in range(30):
        average.update(t)
        for p, q in zip(params, evaluated(average, params), strict=True):
            torch.testing.assert_close(q, p.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", AVERAGES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_trained_weights_come_back_bit_for_bit(name: str, dtype: torch.dtype) -> None:
    average, params = make(name, dtype)
    walk(average, params, 0, 9)
    before = [p.detach().clone() for p in params]
    pointers = [p.data_ptr() for p in params]
    changed = [not torch.equal(p, q) for p, q in zip(before, evaluated(average, params), strict=True)]
    assert any(changed) == (name not in MERGING)
    with pytest.raises(RuntimeError, match="inside"), average.evaluation_weights():
        raise RuntimeError("inside")
    assert all(torch.equal(p, q) for p, q in zip(params, before, strict=True))
    assert [p.data_ptr() for p in params] == pointers


@pytest.mark.parametrize("name", AVERAGES)
def test_before_the_first_update_nothing_is_swapped(name: str) -> None:
    average, params = make(name)
    assert all(torch.equal(p, q) for p, q in zip(params, evaluated(average, params), strict=True))


@pytest.mark.parametrize("name", AVERAGES)
def test_state_round_trip_is_bit_equal(name: str) -> None:
    straight, params = make(name)
    walk(straight, params, 0, 14)

    first, early = make(name)
    walk(first, early, 0, 8)
    state = copy.deepcopy(first.state_dict())
    resumed, later = make(name)
    with torch.no_grad():
        for p, q in zip(later, early, strict=True):
            p.copy_(q)
    resumed.load_state_dict(state)
    walk(resumed, later, 8, 14)
    for p, q in zip(evaluated(straight, params), evaluated(resumed, later), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("name", AVERAGES)
def test_a_state_of_other_shapes_is_refused(name: str) -> None:
    average, params = make(name)
    walk(average, params, 0, 3)
    state = average.state_dict()
    group = state
    while "0" not in group:
        group = next(value for value in group.values() if isinstance(value, dict) and value)
    group["0"] = torch.zeros(2, 2)
    with pytest.raises(ValueError, match="shape"):
        make(name)[0].load_state_dict(state)

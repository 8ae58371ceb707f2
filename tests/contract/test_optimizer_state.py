"""An optimizer's state: laid out in memory as it may be, shared with nobody, and copied whole."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isoflop.core.registry import get, names
from isoflop.optim import Chain
from isoflop.train.problem import training_rule
from optim_classes import CLASSES, VARIANTS, arguments, label, takes
from optim_toy import TOY, params_of, take_steps, tensors_in, toy_context, toy_groups

PARTS = names("optimizer")
AVERAGES = names("averaging")
Variant = tuple[str, dict[str, Any]]


def built(name: str, groups: Any) -> Any:
    return get("optimizer", name)(**TOY.get(name, {})).build(toy_context(groups))  # type: ignore[attr-defined]


def random(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def laid_out(t: torch.Tensor, order: tuple[int, ...]) -> torch.Tensor:
    """A copy of ``t`` whose dimensions lie in memory in ``order``."""
    inverse = sorted(range(t.ndim), key=lambda d: order[d])
    return t.detach().permute(order).clone(memory_format=torch.contiguous_format).permute(inverse)


def stored(tree: Any) -> Any:
    """What a checkpoint gives back: the same values, each tensor contiguous."""
    if isinstance(tree, torch.Tensor):
        return tree.detach().clone(memory_format=torch.contiguous_format)
    if isinstance(tree, dict):
        return {key: stored(value) for key, value in tree.items()}
    return [stored(value) for value in tree] if isinstance(tree, list) else copy.copy(tree)


@st.composite
def layouts(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """(shape, order of a parameter's dimensions in memory, that of its gradients')."""
    shape = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple))
    orders = st.permutations(range(len(shape))).map(tuple)
    return shape, draw(orders), draw(orders)


FIXED = [
    ((4, 6), (1, 0), (0, 1)),
    ((6, 6), (1, 0), (1, 0)),
    ((5, 3), (1, 0), (1, 0)),
    ((3, 2, 2, 4), (0, 2, 3, 1), (0, 1, 2, 3)),
]
"""Transposed, with gradients that are not and that are, also where a Gram matrix is shaped alike; channels last."""


def steps(optimizer: Any, p: torch.nn.Parameter, order: tuple[int, ...], first: int, last: int) -> None:
    for t in range(first, last):
        p.grad = laid_out(random(tuple(p.shape), t), order)
        before = p.grad.clone()
        optimizer.step()
        assert torch.equal(p.grad, before)


def resumes(variant: Variant, shape: tuple[int, ...], order: tuple[int, ...], of_gradient: tuple[int, ...]) -> None:
    name, fields = variant
    if not takes(name, shape):
        return

    def fresh(values: torch.Tensor) -> tuple[torch.nn.Parameter, Any]:
        p = torch.nn.Parameter(laid_out(values, order))
        return p, CLASSES[name]([{"params": [("w", p)], "role": "head"}], **arguments(name, **fields))

    p, straight = fresh(random(shape, 99))
    steps(straight, p, of_gradient, 0, 7)
    q, resumed = fresh(p)
    resumed.load_state_dict(stored(straight.state_dict()))
    for parameter, optimizer in ((p, straight), (q, resumed)):
        steps(optimizer, parameter, of_gradient, 7, 14)
    assert torch.equal(p, q), (shape, order, of_gradient)


@pytest.mark.parametrize("variant", VARIANTS, ids=label)
def test_resumed_is_uninterrupted_in_every_layout(variant: Variant) -> None:
    for case in FIXED:
        resumes(variant, *case)

    @settings(max_examples=5, deadline=None, derandomize=True, database=None)
    @given(layouts())
    def any_layout(case: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]) -> None:
        resumes(variant, *case)

    any_layout()


@pytest.mark.parametrize("name", PARTS)
def test_a_part_resumes_where_its_parameters_are_transposed(name: str) -> None:
    def turned() -> Any:
        groups = toy_groups()
        for p in params_of(groups):
            p.data = laid_out(p, tuple(reversed(range(p.ndim))))
        return groups

    straight, groups = built(name, both := turned()), both
    take_steps(straight, groups, 0, 7)
    later = turned()
    with torch.no_grad():
        for p, q in zip(params_of(later), params_of(groups), strict=True):
            p.copy_(q)
    resumed = built(name, later)
    resumed.load_state_dict(stored(straight.state_dict()))
    take_steps(straight, groups, 7, 14)
    take_steps(resumed, later, 7, 14)
    assert all(torch.equal(p, q) for p, q in zip(params_of(groups), params_of(later), strict=True))


@pytest.mark.parametrize("name", PARTS)
def test_a_part_takes_the_same_steps_however_gradients_lie(name: str) -> None:
    ends = []
    for turn in (False, True):
        groups = toy_groups()
        optimizer = built(name, groups)
        if not isinstance(optimizer, torch.optim.Optimizer):
            pytest.skip("the problem fills every gradient")
        for t in range(3):
            for p in params_of(groups):
                g = random(tuple(p.shape), t)
                p.grad = laid_out(g, tuple(reversed(range(g.ndim)))) if turn else g
            optimizer.step()
        ends.append([p.detach().clone() for p in params_of(groups)])
    for p, q in zip(*ends, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-4)


# ---------------------------------------------------------------- shared with nobody


def storages(tree: Any) -> set[int]:
    return {t.untyped_storage().data_ptr() for t in tensors_in(tree)}


def assert_apart(a: Any, b: Any) -> None:
    """``b``, loaded from ``a``, has a's state and shares no tensor and no container with it."""
    ours, theirs = a.state_dict(), b.state_dict()
    assert len(tensors_in(ours)) == len(tensors_in(theirs))
    assert all(torch.equal(x, y) for x, y in zip(tensors_in(ours), tensors_in(theirs), strict=True))
    assert not storages(ours) & storages(theirs)
    for group, other in zip(getattr(a, "param_groups", []), getattr(b, "param_groups", []), strict=True):
        assert group is not other
        assert not [k for k, v in group.items() if isinstance(v, list | dict | torch.Tensor) and v is other.get(k)]


@pytest.mark.parametrize("name", PARTS)
def test_two_parts_share_nothing_after_loading(name: str) -> None:
    groups, others = toy_groups(), toy_groups()
    a, b = built(name, groups), built(name, others)
    take_steps(a, groups, 0, 3)
    b.load_state_dict(a.state_dict())
    assert_apart(a, b)
    before = copy.deepcopy(a.state_dict())
    take_steps(b, others, 3, 5)
    assert all(torch.equal(x, y) for x, y in zip(tensors_in(before), tensors_in(a.state_dict()), strict=True))


@pytest.mark.parametrize("variant", VARIANTS, ids=label)
def test_two_optimizers_share_nothing_after_loading(variant: Variant) -> None:
    name, fields = variant
    p, q = torch.nn.Parameter(random((4, 6), 99)), torch.nn.Parameter(random((4, 6), 99))
    a, b = (CLASSES[name]([("w", x)], **arguments(name, **fields)) for x in (p, q))
    steps(a, p, (0, 1), 0, 3)
    b.load_state_dict(a.state_dict())
    assert_apart(a, b)


# ---------------------------------------------------------------- copied whole


def through_torch(live: Any) -> Any:
    stream = io.BytesIO()
    torch.save(live, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=False)


COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda live: pickle.loads(pickle.dumps(live)),
    "torch.save": through_torch,
}


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("name", PARTS)
def test_a_copy_goes_on_as_the_original(name: str, way: str) -> None:
    groups = toy_groups()
    optimizer = training_rule(built(name, groups))
    take_steps(optimizer, groups, 0, 4)
    again, others = COPIES[way]((optimizer, groups))
    assert not storages(again.state_dict()) & storages(optimizer.state_dict())
    take_steps(optimizer, groups, 4, 9)
    take_steps(again, others, 4, 9)
    assert all(torch.equal(p, q) for p, q in zip(params_of(groups), params_of(others), strict=True))


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("name", CLASSES)
def test_a_copy_keeps_its_switches(name: str, way: str) -> None:
    p = torch.nn.Parameter(random((4, 6), 99))
    optimizer = CLASSES[name]([("w", p)], **arguments(name))
    steps(optimizer, p, (0, 1), 0, 2)
    assert COPIES[way](optimizer).check_gradients
    optimizer.check_gradients = False
    if hasattr(optimizer, "compile"):
        optimizer.compile()
    again = COPIES[way](optimizer)
    assert not again.check_gradients
    assert getattr(again, "_compile", None) == getattr(optimizer, "_compile", None)
    assert again.param_groups[0]["param_names"] == ["w"]


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("name", AVERAGES)
def test_a_copied_average_goes_on_as_the_original(name: str, way: str) -> None:
    groups = toy_groups()
    average = get("averaging", name)().build(toy_context(groups))  # type: ignore[attr-defined]

    def walk(live: Any, params: list[torch.nn.Parameter], first: int, last: int) -> list[torch.Tensor]:
        for t in range(first, last):
            with torch.no_grad():
                for p in params:
                    p.add_(random(tuple(p.shape), t), alpha=0.1)
            live.update(t)
        with live.evaluation_weights():
            return [p.detach().clone() for p in params]

    walk(average, params_of(groups), 0, 13)
    again, others = COPIES[way]((average, groups))
    expected = walk(average, params_of(groups), 13, 21)
    found = walk(again, params_of(others), 13, 21)
    assert all(torch.equal(p, q) for p, q in zip(found, expected, strict=True))
    fresh = get("averaging", name)().build(toy_context(toy_groups()))  # type: ignore[attr-defined]
    fresh.load_state_dict(average.state_dict())
    assert not storages(fresh.state_dict()) & storages(average.state_dict())


@pytest.mark.parametrize("chained", [False, True], ids=["alone", "chained"])
@pytest.mark.parametrize("variant", VARIANTS, ids=label)
def test_state_that_knows_fewer_hyper_parameters_goes_on_with_those_that_were_given(
    variant: Variant, chained: bool
) -> None:
    """As that of an older version, or of torch's own rule of that name, may."""
    name, fields = variant

    def fresh() -> tuple[torch.nn.Parameter, Any]:
        p = torch.nn.Parameter(random((4, 6), 0))
        optimizer = CLASSES[name]([p], **arguments(name, **fields))
        return p, Chain([optimizer]) if chained else optimizer

    p, optimizer = fresh()
    steps(optimizer, p, (0, 1), 0, 2)
    state, given = stored(optimizer.state_dict()), arguments(name, **fields)
    found = []
    for dropped in ((), given):
        known = {
            **state,
            "param_groups": [{k: v for k, v in group.items() if k not in dropped} for group in state["param_groups"]],
        }
        q, other = fresh()
        q.data.copy_(p.detach())
        other.load_state_dict(copy.deepcopy(known))
        steps(other, q, (0, 1), 2, 4)
        found.append(q.detach())
    assert torch.equal(*found)


def test_torchs_muon_hands_its_state_to_ours() -> None:
    p, q = (torch.nn.Parameter(random((8, 4), 0)) for _ in range(2))
    theirs = torch.optim.Muon([p], lr=0.02)
    steps(theirs, p, (0, 1), 0, 3)
    q.data.copy_(p.detach())
    ours = CLASSES["Muon"]([q])
    ours.load_state_dict(theirs.state_dict())
    steps(theirs, p, (0, 1), 3, 5)
    steps(ours, q, (0, 1), 3, 5)
    torch.testing.assert_close(p, q, rtol=1e-2, atol=1e-3)

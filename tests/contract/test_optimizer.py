"""What every part of the slot optimizer must do."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
import torch

import isoflop.optim as optim
from isoflop.core.contracts import Optimizer, OptimizerPart, Outcome, Stateful
from isoflop.core.errors import NumericsError, UsageError
from isoflop.core.registry import get, names
from isoflop.core.roles import shapes_of
from isoflop.optim.method import Method
from isoflop.train.problem import training_rule
from optim_classes import CLASSES, arguments
from optim_toy import TOY, ToyProblem, params_of, take_steps, tensors_in, toy_context, toy_groups

PARTS = names("optimizer")
MATRICES = {"Muon", "SOAP", "Shampoo"}
"""Classes that take matrices only, or whose reference does."""


def make(name: str, seed: int = 0, **fields: Any) -> tuple[Any, tuple[Any, ...]]:
    groups = toy_groups(seed)
    fields = {**TOY.get(name, {}), **fields}
    return part_of(name, **fields).build(toy_context(groups)), groups


def part_of(name: str, **fields: Any) -> OptimizerPart:
    cls = get("optimizer", name)
    assert issubclass(cls, OptimizerPart)
    return cls(**fields)


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
    assert Stateful in part.provides
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
    assert cost.executed >= cost.flops >= 0
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
    for t in range(10):
        for i, p in enumerate(params):
            p.grad = torch.full_like(p, 0.1 * (t + 1)) if i % 2 else None
        optimizer.step()
    for i, (p, old) in enumerate(zip(params, before, strict=True)):
        assert torch.equal(p, old) == (i % 2 == 0)


@pytest.mark.parametrize("name", PARTS)
def test_a_step_whose_first_pass_fails_has_changed_nothing(name: str) -> None:
    """So that a run whose step failed for want of memory can be saved as it was before that step."""
    built, groups = make(name)
    rule = training_rule(built)
    for t in range(3):
        rule.set_factor(0.5)
        rule.step(ToyProblem(groups, t))
    kept = copy.deepcopy([*params_of(groups), *tensors_in(rule.state_dict())])

    class Failing(ToyProblem):
        def backward(self) -> Outcome:
            raise MemoryError

        loss = resample = linearize = fresh = backward  # type: ignore[assignment]

    rule.set_factor(0.5)
    with pytest.raises(MemoryError):
        rule.step(Failing(groups, 3))
    now = [*params_of(groups), *tensors_in(rule.state_dict())]
    assert all(torch.equal(a, b) for a, b in zip(now, kept, strict=True))


@pytest.mark.parametrize("name", PARTS)
def test_decay_acts_on_matrices_only(name: str) -> None:
    part = part_of(name)
    if "weight_decay" not in type(part).model_fields:
        pytest.skip("has no weight decay")
    for group in part_of(name, weight_decay=0.1).build(toy_context(toy_groups())).param_groups:
        assert (group["weight_decay"] == 0) == (group["role"] in ("norm", "bias"))


def other(value: Any) -> Any:
    """A legal value beside a default: what is built from it shows whether it was passed on, and in its place."""
    if isinstance(value, float):
        return 0.9 * value
    if isinstance(value, tuple) and all(isinstance(each, float) for each in value):
        return tuple(0.9 * each + 0.01 * at for at, each in enumerate(value))
    return value


def param_groups(built: Any) -> list[dict[str, Any]]:
    """Those of an optimizer, or of the one that a training rule holds."""
    if hasattr(built, "param_groups"):
        return list(built.param_groups)
    return next((held.param_groups for held in vars(built).values() if isinstance(held, torch.optim.Optimizer)), [])


TRANSLATED: dict[str, dict[str, Any]] = {
    "ademamix": {"beta3_warmup": 50, "alpha_warmup": 50},
    "mars": {"lr_1d": None},
    "muon": {"eps": None},
    "sgd_adalayer": {"lr": None, "lr_last": None, "adaptive": None},
    "shampoo": {"start_preconditioning_step": -1},
    "simplified_ademamix": {"beta1_warmup": 50},
    "sophia_g": {"every": None},
}
"""Part -> fields that its groups do not hold as they are -> what they hold in a run of 50 steps (None: asked below)."""


@pytest.mark.parametrize("name", [name for name in PARTS if name != "gauss_newton"])
def test_what_is_built_has_the_hyper_parameters_of_the_part(name: str) -> None:
    part = part_of(name, **{key: other(value) for key, value in part_of(name).fields().items()})
    expected = {**part.fields(), **TRANSLATED.get(name, {})}
    groups = param_groups(part.build(toy_context(toy_groups())))
    assert len(groups) >= 5
    for key, value in expected.items():
        if key not in TRANSLATED.get(name, {}) or value is not None:
            held = {repr(group[key]) for group in groups if key in group and (group[key] or key != "weight_decay")}
            assert held == {repr(value)} or (key, value) == ("weight_decay", 0), key


def test_parts_that_translate_their_fields_do_it_as_they_say() -> None:
    ctx = toy_context(toy_groups())
    mars = param_groups(part_of("mars", lr=0.5, lr_1d=0.1).build(ctx))
    assert {group["lr_1d_factor"] for group in mars} == {0.2}
    muon = part_of("muon", eps=1e-5).build(toy_context(toy_groups())).param_groups
    assert {group["eps"] for group in muon if group["role"] != "hidden"} == {1e-5}
    adalayer = part_of("sgd_adalayer", lr=0.25, lr_last=0.5).build(toy_context(toy_groups())).param_groups
    rates = {group["role"]: group["lr"] for group in adalayer}
    assert rates == {"embedding": 0.25, "hidden": 0.25, "bias": 0.25, "head": 0.5, "norm": 0.5}
    head = part_of("sgd_adalayer", lr=0.25, lr_last=0.5, adaptive=("head",)).build(toy_context(toy_groups()))
    assert {group["role"] for group in head.param_groups if group["lr"] == 0.5} == {"head"}
    sophia = part_of("sophia_g", every=7).build(toy_context(toy_groups()).having(accumulate=3))
    assert sophia.every == 7
    assert {group["bs"] for group in param_groups(sophia)} == {2 * 8 * 3}, "tokens of a step"
    given = {"beta3_warmup": 7, "alpha_warmup": 9}
    warming = param_groups(part_of("ademamix", **given).build(toy_context(toy_groups())))
    assert {(group["beta3_warmup"], group["alpha_warmup"]) for group in warming} == {(7, 9)}
    shampoo = param_groups(part_of("shampoo", start_preconditioning_step=7).build(toy_context(toy_groups())))
    assert {group["start_preconditioning_step"] for group in shampoo} == {7}
    inner = {"name": "adamw", "lr": 0.7, "weight_decay": 0.3}
    newton = part_of("gauss_newton", inner=inner, lr=0.125, inner_steps=3, damping=0.5).build(toy_context(toy_groups()))
    assert (newton.inner_steps, newton.damping, newton.form, newton.layerwise) == (3, 0.5, "prox_linear", False)
    built = newton.inner(toy_groups()).param_groups
    assert {group["lr"] for group in built} == {0.125}, "the inner part's own rate is replaced"
    assert {group["weight_decay"] for group in built} == {0.0, 0.3}


# ---------------------------------------------------------------- our own classes, alone in anybody's loop


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_is_offered_and_can_be_held_to_the_contract(name: str) -> None:
    cls = CLASSES[name]
    assert issubclass(cls, Method), f"derive {name} from optim.method.Method: the suite holds it to what that says"
    if cls.__module__.startswith("isoflop."):
        assert getattr(optim, name) is cls


WITH_REFERENCE = [name for name, cls in CLASSES.items() if hasattr(import_module(cls.__module__), "reference")]


def gradients(shape: tuple[int, ...], steps: int) -> Iterator[torch.Tensor]:
    for t in range(steps):
        generator = torch.Generator().manual_seed(t)
        yield torch.randn(shape, generator=generator, dtype=torch.float64)


def run(name: str, shape: tuple[int, ...], dtype: torch.dtype, steps: int = 100) -> torch.Tensor:
    start = torch.randn(shape, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    p = torch.nn.Parameter(start.to(dtype, copy=True))
    optimizer = CLASSES[name]([("w", p)], **arguments(name))
    for g in gradients(shape, steps):
        p.grad = g.to(dtype)
        before = p.grad.clone()
        optimizer.step()
        assert torch.equal(p.grad, before)
    return p.detach().double() - start


def expected(name: str, shape: tuple[int, ...], steps: int = 100) -> torch.Tensor:
    start = torch.randn(shape, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    reference = import_module(CLASSES[name].__module__).reference
    wanted = set(inspect.signature(reference).parameters)
    hyper = {k: v for k, v in arguments(name).items() if k in wanted}
    *_, last = reference(start, gradients(shape, steps), **hyper)
    return last - start


@pytest.mark.parametrize("shape", [(6, 6), (12,), (3, 4, 2), ()], ids=str)
@pytest.mark.parametrize("name", WITH_REFERENCE)
def test_fast_agrees_with_the_reference(name: str, shape: tuple[int, ...]) -> None:
    if name in MATRICES and len(shape) != 2:
        pytest.skip("the reference takes matrices only")
    truth = expected(name, shape)
    scale = truth.abs().max()
    assert (run(name, shape, torch.float64) - truth).abs().max() < 1e-9 * scale
    assert (run(name, shape, torch.float32) - truth).abs().max() < 2e-4 * scale


@pytest.mark.parametrize("name", CLASSES)
def test_half_precision_weights_keep_wide_state_through_a_checkpoint(name: str) -> None:
    def build() -> tuple[torch.nn.Parameter, torch.optim.Optimizer]:
        p = torch.nn.Parameter(torch.ones(6, 6, dtype=torch.bfloat16))
        return p, CLASSES[name]([("w", p)], **arguments(name))

    p, optimizer = build()
    for g in gradients((6, 6), 7):
        p.grad = g.to(torch.bfloat16)
        optimizer.step()
    state = copy.deepcopy(optimizer.state_dict())
    q, resumed = build()
    with torch.no_grad():
        q.copy_(p)
    resumed.load_state_dict(state)
    for key, value in resumed.state[q].items():
        if isinstance(value, torch.Tensor):
            assert value.dtype in (torch.float32, torch.float64), key
            assert torch.equal(value, optimizer.state[p][key]), key
    for g in gradients((6, 6), 14):
        for parameter, rule in ((p, optimizer), (q, resumed)):
            parameter.grad = g.to(torch.bfloat16)
            rule.step()
    assert torch.equal(p, q)
    assert not torch.equal(p, torch.ones_like(p))


@pytest.mark.parametrize("name", CLASSES)
def test_memory_layout_does_not_matter(name: str) -> None:
    plain = torch.nn.Parameter(torch.arange(24.0).reshape(4, 6) / 24)
    turned = torch.nn.Parameter(plain.detach().t().contiguous().t())
    assert turned.stride() != plain.stride()
    for p in (plain, turned):
        optimizer = CLASSES[name]([("w", p)], **arguments(name))
        for g in gradients((4, 6), 5):
            p.grad = g.float()
            optimizer.step()
    torch.testing.assert_close(plain.detach(), turned.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", CLASSES)
def test_a_bad_gradient_is_named_and_nothing_moves(name: str, poison: float) -> None:
    first, second = torch.nn.Parameter(torch.ones(4, 4)), torch.nn.Parameter(torch.ones(1, 5))
    optimizer = CLASSES[name]([{"params": [("first", first)]}, {"params": [("second", second)]}], **arguments(name))
    first.grad, second.grad = torch.ones(4, 4), torch.tensor([[0.0, 1.0, poison, 0.0, 0.0]])
    with pytest.raises(NumericsError, match="parameter second of group 1"):
        optimizer.step()
    assert torch.equal(first, torch.ones(4, 4))
    assert not optimizer.state
    second.grad = torch.ones(1, 5).to_sparse()
    with pytest.raises(UsageError, match=r"parameter second of group 1.*sparse"):
        optimizer.step()
    assert torch.equal(first, torch.ones(4, 4))


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("name", CLASSES)
def test_illegal_hyper_parameters_are_refused(name: str, bad: float) -> None:
    p = torch.nn.Parameter(torch.ones(2, 2))
    for key, default in arguments(name).items():
        if isinstance(default, bool) or not isinstance(default, float | tuple) or key in ("ns_coefficients", "variant"):
            continue
        value = (bad, *default[1:]) if isinstance(default, tuple) else bad
        with pytest.raises(UsageError, match="parameter group 0"):
            CLASSES[name]([("w", p)], **{**arguments(name), key: value})
    optimizer = CLASSES[name]([("w", p)], **arguments(name))
    with pytest.raises(ValueError, match="parameter group 1"):
        optimizer.add_param_group({"params": [("late", torch.nn.Parameter(torch.ones(2, 2)))], "lr": bad})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("name", CLASSES)
def test_complex_parameters_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"parameter w of group 0.*complex"):
        CLASSES[name]([("w", torch.nn.Parameter(torch.ones(2, dtype=torch.complex64)))])


@pytest.mark.parametrize("name", CLASSES)
def test_a_state_of_another_shape_is_refused(name: str) -> None:
    p, q = torch.nn.Parameter(torch.ones(4, 4)), torch.nn.Parameter(torch.ones(3, 5))
    optimizer = CLASSES[name]([("w", p)], **arguments(name))
    p.grad = torch.eye(4)
    optimizer.step()
    other = CLASSES[name]([("w", q)], **arguments(name))
    with pytest.raises(UsageError, match=r"parameter w of group 0.*shape"):
        other.load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize("name", CLASSES)
def test_groups_may_be_added_and_closures_are_evaluated(name: str) -> None:
    p, late = torch.nn.Parameter(torch.ones(4, 4)), torch.nn.Parameter(torch.ones(3, 1))
    optimizer = CLASSES[name]([("w", p)], **arguments(name))

    def closure() -> float:
        optimizer.zero_grad()
        loss = (p**2).sum() + (late**2).sum()
        loss.backward()
        return float(loss.detach())

    losses = [optimizer.step(closure) for _ in range(3)]
    optimizer.add_param_group({"params": [("late", late)]})
    losses += [optimizer.step(closure) for _ in range(60)]
    assert losses[-1] < losses[0]
    assert not torch.equal(late, torch.ones(3, 1))


@pytest.mark.parametrize("name", CLASSES)
def test_empty_parameters_are_fine(name: str) -> None:
    """Alone, and beside one that is not empty: that one moves, and no mean over nothing reaches it."""
    empty, full = torch.nn.Parameter(torch.ones(0, 3)), torch.nn.Parameter(torch.ones(4, 3))
    for named in ([("empty", empty)], [("empty", empty), ("full", full)]):
        optimizer = CLASSES[name](named, **arguments(name))
        for _ in range(9):  # rectified ones rest at first
            for _, p in named:
                p.grad = torch.ones_like(p)
            optimizer.step()
    assert empty.shape == (0, 3)
    assert bool(full.isfinite().all())
    assert not torch.equal(full, torch.ones(4, 3))

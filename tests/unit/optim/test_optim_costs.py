"""The ledger's counts of optimizer steps are what the audit sees executed, to the integer."""

import pytest
import torch

from isoflop.core.registry import get
from isoflop.core.roles import Group, shapes_of
from isoflop.ledger.audit import Audit
from isoflop.ledger.formulas import newton_schulz
from isoflop.optim.orthogonal import iteration_cost, orthogonalise
from optim_toy import ToyProblem, params_of, toy_context, toy_groups

STEPPED = {
    "adamw": {},
    "lion": {},
    "mars": {"mars_type": "mars-shampoo"},
    "muon": {"ns_steps": 3},
    "schedule_free_adamw": {},
}
REFRESHED = {
    "soap": [
        {"precondition_frequency": 3},
        {"precondition_frequency": 2, "max_precond_dim": 8},
        {"one_sided": True},
        {"refresh": "cholesky"},
    ],
    "shampoo": [{"precondition_frequency": 3, "grafting": None}, {"max_preconditioner_dim": 8}],
}


def audited(optimizer: torch.optim.Optimizer, groups: tuple, first: int, steps: int) -> int:  # type: ignore[type-arg]
    total = 0
    for t in range(first, first + steps):
        ToyProblem(groups, t).backward()
        with Audit() as audit:
            optimizer.step()
        total += audit.total()
    return total


@pytest.mark.parametrize("name", STEPPED)
def test_every_step_costs_what_the_part_says(name: str) -> None:
    groups = toy_groups()
    part = get("optimizer", name)(**STEPPED[name])
    optimizer = part.build(toy_context(groups))  # type: ignore[attr-defined]
    cost = part.cost(shapes_of(groups))  # type: ignore[attr-defined]
    assert cost.flops == cost.executed
    assert audited(optimizer, groups, 0, 2) == 2 * cost.executed
    assert (cost.executed > 0) == (name in ("muon", "mars"))


@pytest.mark.parametrize(("name", "fields"), [(n, f) for n, variants in REFRESHED.items() for f in variants], ids=str)
def test_a_whole_period_costs_what_the_part_says(name: str, fields: dict[str, object]) -> None:
    groups = toy_groups()
    part = get("optimizer", name)(**fields)
    optimizer = part.build(toy_context(groups))  # type: ignore[attr-defined]
    every = part.precondition_frequency  # type: ignore[attr-defined]
    audited(optimizer, groups, 0, every + 1)  # the first bases, the first roots
    pairs = [part.step_cost(s.shape) for s in shapes_of(groups)]  # type: ignore[attr-defined]
    period = sum(step.executed * every + refresh.executed for step, refresh in pairs)
    assert audited(optimizer, groups, every + 1, every) == period
    assert abs(part.cost(shapes_of(groups)).executed * every - period) < every * len(pairs)  # type: ignore[attr-defined]
    assert params_of(groups)


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (300, 301), (301, 257)])
def test_newton_schulz_is_counted_as_computed(shape: tuple[int, int]) -> None:
    g = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with Audit() as audit:
        x = orthogonalise(g, steps=2, dtype=torch.float32)
    cost = iteration_cost(shape, steps=2)
    assert audit.total() == cost.executed
    assert cost.flops == newton_schulz(*shape, steps=2).flops
    assert (cost.executed < cost.flops) == (min(shape) >= 256)
    stacked = orthogonalise(g[None], steps=2, dtype=torch.float32)[0]  # a stack is not halved
    torch.testing.assert_close(x, stacked, rtol=1e-4, atol=1e-5)


def test_muons_stacks_and_halves_are_counted_as_computed() -> None:
    """Two of a shape and one of its transpose, some alone, some by halves."""
    shapes = [(8, 24), (24, 8), (8, 24), (5, 7), (200, 340), (330, 340), (340, 330), (400, 384)]
    draw = torch.Generator().manual_seed(0)
    params = tuple(torch.nn.Parameter(torch.randn(s, generator=draw)) for s in shapes)
    groups = (Group("hidden", tuple(map(str, range(len(shapes)))), params),)
    part = get("optimizer", "muon")(ns_steps=2)
    optimizer = part.build(toy_context(groups))  # type: ignore[attr-defined]
    cost = part.cost(shapes_of(groups))  # type: ignore[attr-defined]
    assert cost.flops == sum(newton_schulz(*s, steps=2).flops for s in shapes)
    assert cost.executed < cost.flops
    assert audited(optimizer, groups, 0, 2) == 2 * cost.executed


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("soap", {"precondition_frequency": 3}),
        ("soap", {"precondition_frequency": 3, "stagger": True}),
        ("shampoo", {"precondition_frequency": 3}),
        ("shampoo", {"precondition_frequency": 3, "start_preconditioning_step": 2}),
        ("shampoo", {"start_preconditioning_step": 0}),
    ],
    ids=str,
)
def test_each_step_costs_what_the_part_says_of_it(name: str, fields: dict[str, object]) -> None:
    groups = toy_groups()
    part = get("optimizer", name)(**fields)
    optimizer = part.build(toy_context(groups))  # type: ignore[attr-defined]
    spent = part.cost_of(shapes_of(groups))  # type: ignore[attr-defined]
    for t in range(8):
        assert audited(optimizer, groups, t, 1) == (spent(t + 1) - spent(t)).executed, t


def test_large_gram_matrices_are_counted_by_blocks() -> None:
    part = get("optimizer", "soap")(precondition_frequency=2)
    p = torch.nn.Parameter(torch.randn(300, 5, generator=torch.Generator().manual_seed(0)))
    optimizer = part.build(toy_context(()).having(groups=_one(p)))  # type: ignore[attr-defined]
    step, _ = part.step_cost((300, 5))  # type: ignore[attr-defined]
    for t in range(2):
        p.grad = torch.randn(300, 5, generator=torch.Generator().manual_seed(t))
        with Audit() as audit:
            optimizer.step()
    assert audit.total() == step.executed
    full = 2 * 5 * (2 * (300 * 300 + 300 * 5) + 300 * 300 + 300 * 5)
    assert full * 0.85 < step.executed < full * 0.95


def _one(p: torch.nn.Parameter) -> tuple:  # type: ignore[type-arg]
    return (Group("hidden", ("w",), (p,)),)

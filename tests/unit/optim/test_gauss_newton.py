"""Gauss-Newton steps against exact solutions of small problems."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from isoflop.core.contracts import Outcome, Passes
from isoflop.core.errors import UsageError
from isoflop.core.registry import get
from isoflop.core.roles import Group
from isoflop.optim import GaussNewton
from isoflop.optim.linearization import forward_mode
from isoflop.optim.theory.curvature import damped_step, gauss_newton_matrix
from optim_toy import take_steps, toy_context, toy_groups

X = torch.randn(40, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
Y = torch.randint(3, (40,), generator=torch.Generator().manual_seed(2))


class Network:
    """tanh network 4-6-3 with softmax cross-entropy, split into micro-batches."""

    def __init__(self, pieces: int = 1) -> None:
        generator = torch.Generator().manual_seed(0)
        shapes = {"first.weight": (6, 4), "second.weight": (3, 6)}
        weights = [torch.randn(s, generator=generator, dtype=torch.float64) / 2 for s in shapes.values()]
        self.group = Group("hidden", tuple(shapes), tuple(torch.nn.Parameter(w) for w in weights))
        self.pieces = pieces

    def theta(self) -> Tensor:
        return torch.cat([p.detach().reshape(-1) for p in self.group.params])

    @staticmethod
    def outputs(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.tanh(x @ parameters["first.weight"].T) @ parameters["second.weight"].T

    def flat(self, theta: Tensor) -> Tensor:
        return self.outputs({"first.weight": theta[:24].view(6, 4), "second.weight": theta[24:].view(3, 6)}, X)

    def loss(self) -> float:
        return float(torch.nn.functional.cross_entropy(self.flat(self.theta()), Y))

    def backward(self) -> Outcome:
        return Outcome(self.loss(), 0.0, 40, 40)

    def linearize(self) -> list[tuple[Any, Any]]:
        def piece(x: Tensor, y: Tensor) -> tuple[Any, Any]:
            return (
                lambda parameters: self.outputs(parameters, x),
                lambda z: torch.nn.functional.cross_entropy(z, y, reduction="sum") / len(Y),
            )

        return [piece(x, y) for x, y in zip(X.chunk(self.pieces), Y.chunk(self.pieces), strict=True)]

    def fresh(self) -> Network:
        return self

    def charge(self, forward: int = 0, backward: int = 0) -> None:
        pass


def gradient_descent(groups: tuple[Group, ...]) -> torch.optim.Optimizer:
    return torch.optim.SGD([p for g in groups for p in g.params], lr=0.7, momentum=0.9)


@pytest.mark.parametrize("layerwise", [False, True])
def test_the_quadratic_form_solves_the_damped_system(layerwise: bool) -> None:
    network = Network()
    start = network.theta()
    loss = lambda z: torch.nn.functional.cross_entropy(z, Y)  # noqa: E731
    gradient = torch.func.grad(lambda t: loss(network.flat(t)))(start)
    matrix = gauss_newton_matrix(network.flat, loss, start)
    exact = damped_step(matrix, gradient, 0.05, [24, 18] if layerwise else None)
    settings: dict[str, Any] = {"form": "quadratic", "damping": 0.05, "sizes": (1.0,), "cosine": False}
    rule = GaussNewton((network.group,), gradient_descent, 400, layerwise=layerwise, **settings)
    before = network.loss()
    assert rule.step(network).loss == before
    torch.testing.assert_close(network.theta() - start, exact, rtol=1e-6, atol=1e-8)
    assert network.loss() < before


def test_micro_batches_share_the_mean_loss() -> None:
    ends = []
    for pieces in (1, 4):
        network = Network(pieces)
        rule = GaussNewton((network.group,), gradient_descent, pieces, sizes=(1.0,), damping=0.0, cosine=False)
        rule.inner = lambda groups: torch.optim.SGD([p for g in groups for p in g.params], lr=1e-6)
        start = network.theta()
        rule.step(network)
        ends.append((network.theta() - start) / pieces)
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-4, atol=1e-12)


def test_prox_linear_lowers_the_loss_more_than_gradient_descent() -> None:
    network = Network()
    rule = GaussNewton((network.group,), gradient_descent, 60)
    losses = [rule.step(network).loss for _ in range(4)]
    assert losses == sorted(losses, reverse=True)
    assert network.loss() < 0.8 * losses[0]


def test_a_step_that_would_hurt_is_not_taken() -> None:
    network = Network()
    start = network.theta()
    climbing = GaussNewton(
        (network.group,),
        lambda groups: torch.optim.SGD([p for g in groups for p in g.params], lr=0.5, maximize=True),
        5,
    )
    climbing.step(network)
    assert torch.equal(network.theta(), start)


def test_the_part_nests_an_inner_optimizer() -> None:
    groups = toy_groups()
    part = get("optimizer", "gauss_newton")(inner={"name": "adamw", "betas": [0.5, 0.9]}, lr=0.1)
    losses = take_steps(part.build(toy_context(groups)), groups, 0, 8)  # type: ignore[attr-defined]
    assert losses[-1] < 0.5 * losses[0]
    searched = 6 * 4  # sizes and the start, each over four micro-batches
    assert part.passes_of(4)(3) == Passes(3 * (4 * 20 + searched), 3 * 20, 3 * searched)  # type: ignore[attr-defined]
    nested = get("optimizer", "gauss_newton")(inner="sophia_g").build(toy_context(groups))  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="inner optimizer"):
        take_steps(nested, groups, 0, 1)


def test_what_it_needs_is_said() -> None:
    network = Network()
    with pytest.raises(ValueError, match="inner_steps"):
        GaussNewton((network.group,), gradient_descent, inner_steps=0)


def test_compiled_code_is_not_linearised() -> None:
    compilations: list[Any] = []

    def backend(module: Any, inputs: Any) -> Any:
        compilations.append(module)
        return module

    square = torch.compile(lambda x: x * x, backend=backend)
    with forward_mode():
        slope = torch.func.jvp(square, (torch.tensor(3.0),), (torch.tensor(1.0),))[1]  # type: ignore[misc]
    assert (slope, compilations) == (6.0, [])
    square(torch.tensor(3.0))
    assert len(compilations) == 1

"""A toy problem with a parameter of every role, shared by the suites of the slots optimizer and averaging."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from isoflop.core.context import Context
from isoflop.core.contracts import Outcome
from isoflop.core.rng import Rng
from isoflop.core.roles import Group, Role

SHAPES: dict[Role, dict[str, tuple[int, ...]]] = {
    "embedding": {"embed.weight": (11, 6)},
    "head": {"head.weight": (11, 6)},
    "norm": {"norm.weight": (6,)},
    "hidden": {"a.weight": (6, 6), "b.weight": (12, 6), "c.weight": (6, 12), "conv.weight": (3, 4, 2)},
    "bias": {"a.bias": (12,), "gain_bias": ()},
}


TOY: dict[str, dict[str, Any]] = {
    "gauss_newton": {"inner_steps": 2},
    "sgd": {"lr": 0.125},
    "sgd_adalayer": {"lr": 0.125},
}
"""Fields of parts whose defaults are too slow, or whose rate is too large, for the toy problem of unit curvature."""


def toy_groups(seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Group, ...]:
    """Fresh parameters, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    groups = []
    for role, shapes in SHAPES.items():
        params = tuple(
            torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype))
            for shape in shapes.values()
        )
        groups.append(Group(role, tuple(shapes), params))
    return tuple(groups)


def toy_context(groups: tuple[Group, ...], horizon: int = 50) -> Context:
    return Context(
        rng=Rng(1),
        cache=Path("unused"),
        tokenizer=None,  # type: ignore[arg-type]
        vocab_size=11,
        batch=2,
        length=8,
        horizon=horizon,
        groups=groups,
    )


def params_of(groups: tuple[Group, ...]) -> list[torch.nn.Parameter]:
    return [p for group in groups for p in group.params]


class ToyProblem:
    """Noisy least squares: loss = mean (p - target)^2 / 2 of the step's own targets; drawn anew by ``resample``."""

    def __init__(self, groups: tuple[Group, ...], step: int, noise: float = 0.5) -> None:
        self.params = params_of(groups)
        self.names = [name for group in groups for name in group.names]
        self.generator = torch.Generator().manual_seed(1000 + step)
        self.noise = noise
        self.targets = [noise * self._normal(p) for p in self.params]

    def _normal(self, p: Tensor) -> Tensor:
        return torch.randn(p.shape, generator=self.generator, dtype=torch.float64).to(p.dtype)

    def _fill(self, targets: list[Tensor]) -> None:
        for p, target in zip(self.params, targets, strict=True):
            p.grad = (p.detach() - target).clone()

    def loss(self) -> float:
        total = sum(float(((p.detach() - t) ** 2).sum()) / 2 for p, t in zip(self.params, self.targets, strict=True))
        return total / sum(p.numel() for p in self.params)

    def backward(self) -> Outcome:
        self._fill(self.targets)
        return Outcome(loss=self.loss(), grad_norm=1.0, tokens=16, text_bytes=16)

    def resample(self) -> None:
        self._fill([p.detach() + 0.1 * self._normal(p) for p in self.params])

    def linearize(self) -> list[tuple[Any, Any]]:
        count = sum(p.numel() for p in self.params)

        def outputs(parameters: dict[str, Tensor]) -> Tensor:
            return torch.cat([parameters[name].reshape(-1) for name in self.names])

        def loss(z: Tensor) -> Tensor:
            return ((z - torch.cat([t.reshape(-1) for t in self.targets])) ** 2).sum() / 2 / count

        return [(outputs, loss)]

    def fresh(self) -> ToyProblem:
        return self

    def charge(self, forward: int = 0, backward: int = 0) -> None:
        pass


def take_steps(optimizer: Any, groups: tuple[Group, ...], first: int, last: int) -> list[float]:
    """Steps first .. last - 1 of any optimizer on the toy problem; the losses before each."""
    losses = []
    for t in range(first, last):
        problem = ToyProblem(groups, t)
        if isinstance(optimizer, torch.optim.Optimizer):
            losses.append(problem.backward().loss)
            optimizer.step()
            optimizer.zero_grad()
        else:
            losses.append(optimizer.step(problem).loss)
    return losses


def tensors_in(tree: Any) -> list[torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        return [tree]
    if isinstance(tree, dict):
        return [t for value in tree.values() for t in tensors_in(value)]
    return [t for value in tree for t in tensors_in(value)] if isinstance(tree, list | tuple) else []

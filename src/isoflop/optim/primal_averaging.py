"""Rules that take gradients at one point and are evaluated at another: schedule-free and generalised primal averaging.

Three points: z takes the steps, x is a weighted average of z, and gradients are taken at y = mu x + (1 - mu) z. The
parameters hold y while training; x follows from y and z, so only z is stored.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor

from .averages import wide
from .elementwise import Elementwise, Numbers, add_scaled, shifted
from .method import Limit, ParamsT
from .shards import local
from .state import OptimizerError

INTERPOLATION = Limit(low=1e-6, high=1.0, closed=True)
"""Legal values of mu: x cannot be found again from y and z if mu is 0."""


class Primal(Elementwise):
    """Base class. ``eval()`` moves the parameters to x, ``train()`` back to y; a new optimizer is in train mode.

    Checkpoints of the model alone should be taken in eval mode. ``evaluation_weights()`` does both, bit for bit.
    """

    def __init__(self, params: ParamsT, **defaults: Any) -> None:
        super().__init__(params, train_mode=True, **defaults)

    @abstractmethod
    def interpolation(self, group: dict[str, Any]) -> float:
        """mu of this group."""

    def update_group(self, group: dict[str, Any], params: list[Tensor]) -> None:
        self.check_mode(group)
        for p in params:
            if "z" not in self.state[p]:
                self.state[p]["z"] = p.detach().to(wide(p.dtype), copy=True)
        super().update_group(group, params)

    @staticmethod
    def check_mode(group: dict[str, Any]) -> None:
        """Refuse to step from the evaluation point."""
        if not group["train_mode"]:
            raise OptimizerError("the parameters hold the evaluation point", fix="call .train() before stepping")

    def eval(self) -> None:
        """Move the parameters from y to x; nothing if they are there."""
        self._move(True)

    def train(self) -> None:
        """Move the parameters from x to y, up to rounding; nothing if they are there."""
        self._move(False)

    @torch.no_grad()
    def _move(self, training: bool) -> None:
        for group in self.param_groups:
            if group["train_mode"] != training:
                continue
            mu = self.interpolation(group)
            for p in group["params"]:
                if "z" in self.state.get(p, {}):
                    here, z = local(p), local(self.state[p]["z"])
                    here.copy_(torch.lerp(here.to(z.dtype), z, 1 - 1 / mu if training else 1 - mu))
            group["train_mode"] = not training

    @contextmanager
    def evaluation_weights(self) -> Iterator[None]:
        """Inside the block the parameters hold x; after it y again, bit for bit."""
        params = [local(p) for group in self.param_groups for p in group["params"]]
        trained = [p.detach().clone() for p in params]
        modes = [group["train_mode"] for group in self.param_groups]
        self.eval()
        try:
            yield
        finally:
            with torch.no_grad():
                for p, y in zip(params, trained, strict=True):
                    p.copy_(y)
            for group, mode in zip(self.param_groups, modes, strict=True):
                group["train_mode"] = mode


def advance(y: Tensor, z: Tensor, d: Tensor, numbers: Numbers) -> None:
    """z <- z - lr d; x <- (1 - c) x + c z; y <- mu x + (1 - mu) z; without forming x. ``numbers``: see ``moves``."""
    lr, c, lr_y = numbers
    add_scaled(y.lerp_(z, c), d, -lr_y)
    add_scaled(z, d, -lr)


def moves(lr: float, mu: float, c: float) -> Numbers:
    """What ``advance`` needs: the step of z, the weight c, the step of y."""
    return lr, c, lr * (1 - mu * (1 - c))


class ScheduleFree(Primal):
    """x averages z with weights (k+1)^r lr_max^power: no horizon is needed (Defazio et al. 2024, arXiv 2405.15682).

    Counters of a group: ``k`` steps done, ``weight_sum``, ``lr_max`` (the largest rate so far).
    """

    limits: ClassVar[dict[str, Limit]] = {
        "warmup_steps": Limit(),
        "r": Limit(),
        "weight_lr_power": Limit(),
        "inner_momentum": Limit(high=1.0),
    }

    def __init__(self, params: ParamsT, **defaults: Any) -> None:
        super().__init__(params, k=0, weight_sum=0.0, lr_max=-1.0, **defaults)

    def _check_group(self, index: int) -> None:
        super()._check_group(index)
        mu = self.interpolation(self.param_groups[index])
        if not INTERPOLATION.holds(mu):
            raise OptimizerError(f"the first beta must be {INTERPOLATION}, got {mu}", where=f"parameter group {index}")

    def begin(self, group: dict[str, Any], lr: float) -> float:
        """Count a step of a group at rate ``lr``; the weight c of z in x."""
        self.check_mode(group)
        group["lr_max"] = max(lr, group["lr_max"])
        weight = (group["k"] + 1) ** group["r"] * group["lr_max"] ** group["weight_lr_power"]
        group["weight_sum"] += weight
        group["k"] += 1
        return weight / group["weight_sum"] if group["weight_sum"] else 0.0


class ScheduleFreeAdam(ScheduleFree):
    """Steps along the gradient over the root of its second moment, with decay at y; mu is betas[0]."""

    def interpolation(self, group: dict[str, Any]) -> float:
        return float(group["betas"][0])

    @staticmethod
    def kernel(y: Tensor, g: Tensor, z: Tensor, v: Tensor, numbers: Numbers) -> None:
        *steps, w2, correction, eps, wd = numbers
        v.lerp_(g * g, w2)
        d = g / v.sqrt().mul_(correction).add_(eps)
        advance(y, z, shifted(d, y, wd), tuple(steps))


def warmed(group: dict[str, Any]) -> float:
    """The rate of the coming step of a group that warms up linearly over ``warmup_steps``."""
    k, steps = group["k"], group["warmup_steps"]
    return float(group["lr"]) * ((k + 1) / steps if k < steps else 1.0)


def no_decay(name: str, recipe: Any) -> list[str]:
    """The complaint of a schedule-free rule about a recipe whose schedule decays."""
    if not recipe.schedule.needs_horizon:
        return []
    return [f'schedule: {name} replaces the decay by averaging; use schedule = "constant"']

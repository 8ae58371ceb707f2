"""Sophia-G: momentum clipped by a diagonal Gauss-Newton estimate (Liu et al. 2023, arXiv 2305.14342, algorithm 3)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from ...core.context import Context
from ...core.contracts import OptimizerPart, Outcome, Passes, Problem, Resampling
from ...core.cost import Cost
from ...core.registry import Card, part
from ...core.roles import Shape
from ...core.torch_rule import TorchRule
from ..elementwise import Elementwise, Numbers
from ..groups import Beta, Grid, elementwise, factor2, state_bytes
from ..method import Limit, ParamsT, from_part, given, next_step


class SophiaG(Elementwise):
    """p <- (1 - lr wd) p - lr sign(m) min(|m| / (rho bs h), 1); h averages squared gradients of sampled targets.

    A diagonal second-order method whose step is never longer than a sign step: flat directions move by the rate, steep
    ones by Newton's step. By hand: every ``k`` steps (10 in the paper) draw targets from the model's own predictions,
    take the gradient of the mean loss on them, and call ``update_hessian()``. In a recipe the rule below does it.

    Args:
        params: tensors, (name, tensor) pairs, or groups of them.
        lr: begin with a little less than AdamW's, or with 1e-4 (the authors').
        betas: decay of m and of h; the authors' (0.965, 0.99).
        rho: 0.01-0.1; tune it so that 10-50 % of the entries are not clipped.
        weight_decay: decoupled, multiplied by the rate; the authors' 0.1.
        bs: tokens in a batch.

    Example:
        >>> optimizer = SophiaG(model.parameters(), bs=5120)
        >>> model(x).square().mean().backward(); optimizer.step()
        >>> optimizer.update_hessian()  # on the gradient of sampled targets
    """

    limits: ClassVar[dict[str, Limit]] = {"rho": Limit(), "bs": Limit()}

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.965, 0.99),
        rho: float = 0.04,
        weight_decay: float = 0.1,
        bs: int = 5120,
    ) -> None:
        super().__init__(**given(locals()))

    @staticmethod
    def kernel(p: Tensor, g: Tensor, m: Tensor, h: Tensor, numbers: Numbers) -> None:
        lr, keep, w1, scale = numbers
        m.lerp_(g, w1)
        # 1e-15, the authors' guard: where no curvature is known yet, the step is the sign's
        ratio = m.abs().div_((h * scale).add_(1e-15)).clamp_(max=1.0)
        p.mul_(keep).sub_(m.sign().mul_(ratio).mul_(lr))

    @staticmethod
    def curvature(p: Tensor, g: Tensor, h: Tensor, numbers: Numbers) -> None:
        """h <- b2 h + (1 - b2) g^2."""
        h.lerp_(g * g, numbers[0])

    def update(self, group: dict[str, Any], p: Tensor, state: dict[str, Any]) -> None:
        lr, b1 = float(group["lr"]), group["betas"][0]
        next_step(state)
        numbers = (lr, 1 - lr * group["weight_decay"], 1 - b1, group["rho"] * group["bs"])
        self.apply(p, [self.buffer(p, "exp_avg"), self.buffer(p, "hessian")], numbers)

    @torch.no_grad()
    def update_hessian(self) -> None:
        """Take in ``.grad``, the gradient of the mean loss on targets sampled from the model."""
        self._check_gradients()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.apply(p, [self.buffer(p, "hessian")], (1 - group["betas"][1],), type(self).curvature)


class _Resampled(TorchRule[SophiaG]):
    """Sophia-G under a problem that can sample targets: refreshes the curvature after every ``every``-th step."""

    def __init__(self, optimizer: SophiaG, every: int) -> None:
        super().__init__(optimizer)
        self.every = every

    def step(self, problem: Problem) -> Outcome:
        outcome = problem.backward()
        self.optimizer.step()
        group = self.optimizer.param_groups[0]
        group["steps"] = group.get("steps", 0) + 1
        if group["steps"] % self.every == 0:
            problem.resample()
            self.optimizer.update_hessian()
        return outcome


def reference(
    p: Tensor,
    gradients: Iterable[Tensor],
    *,
    lr: float,
    betas: tuple[float, float],
    rho: float,
    weight_decay: float,
    bs: int,
    sampled: Sequence[Tensor | None] = (),
) -> Iterator[Tensor]:
    """``p`` after each step, plainly; ``sampled[t]`` is the gradient of sampled targets taken in after step t."""
    m, h = torch.zeros_like(p), torch.zeros_like(p)
    for t, g in enumerate(gradients):
        m = betas[0] * m + (1 - betas[0]) * g
        share = torch.clamp(m.abs() / (rho * bs * h + 1e-15), max=1.0)
        p = p - lr * (m.sign() * share + weight_decay * p)
        extra = sampled[t] if t < len(sampled) else None
        if extra is not None:
            h = betas[1] * h + (1 - betas[1]) * extra**2
        yield p


@part
class SophiaGPart(OptimizerPart):
    """Sophia-G: momentum clipped by a diagonal Gauss-Newton estimate."""

    card = Card(
        summary="momentum divided by a diagonal curvature estimate and clipped to a sign step",
        paper="Liu et al. 2023, arXiv 2305.14342",
        equation="p <- (1 - lr wd) p - lr sign(m) min(|m| / (rho bs h), 1); h averages squared sampled gradients",
        defaults="lr 1e-4, betas (0.965, 0.99), rho 0.04, weight_decay 0.1, every 10 steps",
        cost="2 floats of state a parameter; two more forwards and a backward every 10 steps",
    )
    search: ClassVar[Grid] = {"lr": factor2(6.25e-5, 1.6e-2)}
    shardable = True
    needs: ClassVar[dict[str, frozenset[type]]] = {"objective": frozenset({Resampling})}

    lr: PositiveFloat = 2e-3
    """Peak learning rate."""
    betas: tuple[Beta, Beta] = (0.965, 0.99)
    """Decay of the momentum and of the curvature."""
    rho: PositiveFloat = 0.05
    """Scale of the curvature; larger values clip less."""
    weight_decay: NonNegativeFloat = 0.1
    """Decoupled decay of matrices, multiplied by the learning rate."""
    every: PositiveInt = 10
    """Steps between two estimates of the curvature."""

    def build(self, ctx: Context) -> _Resampled:
        fields = {"bs": ctx.batch * ctx.length * ctx.accumulate}
        return _Resampled(from_part(SophiaG, self, ctx, drop=("every",), **fields), self.every)

    def cost(self, shapes: Sequence[Shape]) -> Cost:
        return elementwise(shapes, operations=11, floats=6)

    def passes_of(self, accumulate: int) -> Callable[[int], Passes]:
        """One forward to draw the targets, then a forward and a backward on them, at every ``every``-th step."""

        def passes(steps: int) -> Passes:
            estimates = steps // self.every * accumulate
            return Passes(forward=2 * estimates, backward=estimates, losses=estimates)

        return passes

    def state_bytes(self, shapes: Sequence[Shape]) -> int:
        return state_bytes(shapes, floats=2)

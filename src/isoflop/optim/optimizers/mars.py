"""MARS: momentum of a variance-reduced gradient (Yuan et al. 2024, arXiv 2411.10438, algorithms 2-4)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar, Literal, get_args

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from ...core.context import Context
from ...core.contracts import Optimizer, OptimizerPart, Outcome, Passes, Problem
from ...core.cost import ZERO, Cost
from ...core.registry import Card, part
from ...core.roles import Shape, decays, numel
from ...core.torch_rule import TorchRule
from ..averages import wide
from ..elementwise import Elementwise, Numbers, add_quotient, add_scaled
from ..groups import Beta, Epsilon, Grid, elementwise, factor2
from ..method import BETA, NON_NEGATIVE, Limit, ParamsT, from_part, given, next_step
from ..orthogonal import iteration_cost, orthogonalise
from ..shards import descend, local, over_shards, whole
from ..state import OptimizerError

MarsType = Literal["mars-adamw", "mars-lion", "mars-shampoo"]


class MARS(Elementwise):
    """c = g + gamma b1 / (1 - b1) (g - g_last), scaled to norm 1 if longer; then a step on averages of c.

    The correction cancels a part of the noise of small batches: what two gradients in a row have in common stays, what
    differs is weighed anew. The approximate form costs one float a parameter and no pass. ``mars-adamw`` then takes
    AdamW's step, ``mars-lion`` the sign of the average, ``mars-shampoo`` its orthogonal factor.

    Args:
        params: tensors, (name, tensor) pairs, or groups of them.
            ``mars-shampoo`` iterates in its group's ``ns_dtype`` ("bfloat16").
        lr: of matrices; begin with 3e-3 (the authors'), with ``mars-lion`` with a tenth of it.
        betas: decay of the first and of the second moment of c; the authors' (0.95, 0.99).
        eps: added to the root of the second moment.
        weight_decay: of matrices, decoupled, multiplied by the rate.
        gamma: strength of the correction; the authors' 0.025.
        is_approx: g_last is the previous batch's gradient. If False it is this batch's gradient at the previous
            weights: ``step`` then needs a closure and calls it twice.
        mars_type: the step that is taken on c, see above.
        optimize_1d: treat everything like matrices; otherwise what is not 2-D takes plain AdamW steps.
        lr_1d: of what is not 2-D; scheduled along with ``lr``.
        betas_1d: of what is not 2-D.
        weight_decay_1d: of what is not 2-D.

    Example:
        >>> optimizer = MARS(model.parameters(), lr=3e-3)
        >>> model(x).square().mean().backward()
        >>> optimizer.step()
    """

    limits: ClassVar[dict[str, Limit]] = {
        "gamma": NON_NEGATIVE,
        "lr_1d_factor": NON_NEGATIVE,
        "betas_1d": BETA,
        "weight_decay_1d": NON_NEGATIVE,
    }
    choices: ClassVar[dict[str, tuple[Any, ...]]] = {"mars_type": get_args(MarsType)}

    def __init__(
        self,
        params: ParamsT,
        lr: float = 3e-3,
        betas: tuple[float, float] = (0.95, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        gamma: float = 0.025,
        is_approx: bool = True,
        mars_type: MarsType = "mars-adamw",
        optimize_1d: bool = False,
        lr_1d: float = 3e-3,
        betas_1d: tuple[float, float] = (0.9, 0.95),
        weight_decay_1d: float = 0.1,
    ) -> None:
        arguments = given(locals())
        rate = arguments.pop("lr_1d") / lr if lr else 1.0
        super().__init__(**arguments, lr_1d_factor=rate, ns_dtype="bfloat16")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        exact = [p for group in self.param_groups if not group["is_approx"] for p in group["params"]]
        if exact and closure is None:
            raise OptimizerError("the exact form evaluates the batch twice", fix="call step(closure)")
        if exact and closure is not None:
            self._look_back(exact, closure)
        return super().step(closure) if closure is not None else super().step()

    def _look_back(self, params: list[Tensor], closure: Callable[[], float]) -> None:
        """last_grad <- this batch's gradient at the weights before the previous step (zero at the first)."""
        known = [p for p in params if "last_param" in self.state[p]]
        if known:
            here = [p.detach().clone() for p in known]
            for p in known:
                p.copy_(self.state[p]["last_param"])
            try:
                with torch.enable_grad():
                    closure()
                for p in known:
                    if p.grad is not None and "last_grad" in self.state[p]:
                        local(self.buffer(p, "last_grad")).copy_(local(p.grad))
            finally:
                for p, now in zip(known, here, strict=True):
                    p.copy_(now)
        for p in params:
            self.state[p]["last_param"] = p.detach().clone()

    @staticmethod
    def kernel(p: Tensor, c: Tensor, m: Tensor, v: Tensor, numbers: Numbers) -> None:
        lr, keep, w1, w2, inverse1, inverse_root2, eps = numbers
        m.lerp_(c, w1)
        v.lerp_(c * c, w2)
        add_quotient(p.mul_(keep), m, v.sqrt().mul_(inverse_root2).add_(eps), -lr * inverse1)

    @staticmethod
    def sign_step(p: Tensor, c: Tensor, m: Tensor, numbers: Numbers) -> None:
        """``mars-lion``."""
        lr, keep, w1 = numbers
        m.lerp_(c, w1)
        add_scaled(p.mul_(keep), m.sign(), -lr)

    def update(self, group: dict[str, Any], p: Tensor, state: dict[str, Any]) -> None:
        lr, t = float(group["lr"]), next_step(state)
        if p.ndim != 2 and not group["optimize_1d"]:
            rate = lr * group["lr_1d_factor"]
            self._adam(p, p.grad, rate, group["betas_1d"], t, group["eps"], group["weight_decay_1d"])
            return
        steps = {"mars-adamw": self._adamw, "mars-lion": self._lion, "mars-shampoo": self._shampoo}
        steps[group["mars_type"]](group, p, self._corrected(group, p), t)

    def _adamw(self, group: dict[str, Any], p: Tensor, c: Tensor, t: int) -> None:
        self._adam(p, c, float(group["lr"]), group["betas"], t, group["eps"], group["weight_decay"])

    def _lion(self, group: dict[str, Any], p: Tensor, c: Tensor, t: int) -> None:
        lr = float(group["lr"])
        numbers = (lr, 1 - lr * group["weight_decay"], 1 - group["betas"][0])
        self.apply(p, [self.buffer(p, "exp_avg")], numbers, type(self).sign_step, c)

    def _shampoo(self, group: dict[str, Any], p: Tensor, c: Tensor, t: int) -> None:
        if p.ndim != 2:
            self._adamw(group, p, c, t)
            return
        lr, b1, m = float(group["lr"]), group["betas"][0], self.buffer(p, "exp_avg")
        local(m).lerp_(c, 1 - b1)
        u = orthogonalise(whole(m) / (1 - b1), dtype=getattr(torch, group["ns_dtype"]), eps=group["eps"])
        descend(p, u, 1 - lr * group["weight_decay"], lr * max(1, p.shape[0] / p.shape[1]) ** 0.5)

    def _adam(
        self, p: Tensor, c: Tensor | None, lr: float, betas: tuple[float, float], t: int, eps: float, decay: float
    ) -> None:
        (b1, b2), buffers = betas, [self.buffer(p, "exp_avg"), self.buffer(p, "exp_avg_sq")]
        numbers = (lr, 1 - lr * decay, 1 - b1, 1 - b2, 1 / (1 - b1**t), (1 - b2**t) ** -0.5, eps)
        self.apply(p, buffers, numbers, gradient=c)

    def _corrected(self, group: dict[str, Any], p: Tensor) -> Tensor:
        """c of this step (local shard); in the approximate form this gradient is then kept for the next step."""
        assert p.grad is not None
        b1, g = group["betas"][0], local(p.grad).to(wide(p.dtype))
        last = local(self.buffer(p, "last_grad"))
        c = torch.lerp(g, last, -group["gamma"] * b1 / (1 - b1))
        norm = float(over_shards(torch.linalg.vector_norm(c) ** 2, p)) ** 0.5
        if group["is_approx"]:
            last.copy_(g)
        return c.div_(norm) if norm > 1 else c


class _LooksBack(TorchRule[MARS]):
    """The exact form under a problem, which is evaluated whenever the optimizer asks its closure."""

    def step(self, problem: Problem) -> Outcome:
        """One step; the outcome of the evaluation at the weights that the step began with."""
        outcomes: list[Outcome] = []

        def closure() -> float:
            outcomes.append(problem.backward())
            return outcomes[-1].loss

        self.optimizer.step(closure)
        return outcomes[-1]


def reference(
    p: Tensor,
    gradients: Iterable[Tensor],
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    gamma: float,
) -> Iterator[Tensor]:
    """The approximate ``mars-adamw`` on one matrix: ``p`` after each step, plainly."""
    b1, b2 = betas
    m, v, last = torch.zeros_like(p), torch.zeros_like(p), torch.zeros_like(p)
    for t, g in enumerate(gradients, start=1):
        c = g + gamma * b1 / (1 - b1) * (g - last)
        c = c / max(float(c.norm()), 1.0)
        m = b1 * m + (1 - b1) * c
        v = b2 * v + (1 - b2) * c**2
        p = p - lr * (m / (1 - b1**t) / ((v / (1 - b2**t)).sqrt() + eps) + weight_decay * p)
        last = g
        yield p


@part
class MARSPart(OptimizerPart):
    """MARS: momentum of a variance-reduced gradient."""

    card = Card(
        summary="Adam, Lion or Shampoo steps on a variance-reduced gradient",
        paper="Yuan et al. 2024, arXiv 2411.10438",
        equation="c = clip(g + gamma b1 / (1 - b1) (g - g_last)); m, v average c and c^2; AdamW's step",
        defaults="lr 3e-3, betas (0.95, 0.99), gamma 0.025; other than 2-D: AdamW, betas (0.9, 0.95)",
        differs="keeps a copy of the last gradient, not a reference; no AMSGrad; no decay on norms and biases, by role",
        cost="3 floats of state a matrix entry, 2 elsewhere; the exact form doubles the gradient's FLOPs",
    )
    search: ClassVar[Grid] = {"lr": factor2(1.875e-4, 4.8e-2)}
    shardable = True

    lr: PositiveFloat = 6e-3
    """Peak learning rate of matrices."""
    betas: tuple[Beta, Beta] = (0.95, 0.99)
    """Decay of the first and of the second moment."""
    eps: Epsilon = 1e-8
    """Added to the root of the second moment."""
    weight_decay: NonNegativeFloat = 0.1
    """Decoupled decay of matrices, multiplied by the learning rate."""
    gamma: NonNegativeFloat = 0.025
    """Strength of the correction."""
    is_approx: bool = True
    """Correct with the previous batch's gradient; otherwise with this batch's at the previous weights."""
    mars_type: MarsType = "mars-adamw"
    """The step that is taken on the corrected gradient."""
    optimize_1d: bool = False
    """Correct everything, not only what is 2-D."""
    lr_1d: PositiveFloat = 3e-3
    """Peak learning rate of what is not 2-D."""
    betas_1d: tuple[Beta, Beta] = (0.9, 0.95)
    """Moments of what is not 2-D."""

    def build(self, ctx: Context) -> MARS | Optimizer:
        optimizer = from_part(MARS, self, ctx, weight_decay_1d=self.weight_decay)
        for group in optimizer.param_groups:
            if not decays(group["role"]):
                group["weight_decay_1d"] = 0.0
        return optimizer if self.is_approx else _LooksBack(optimizer)

    def _split(self, shapes: Sequence[Shape]) -> tuple[list[Shape], list[Shape]]:
        corrected, plain = list[Shape](), list[Shape]()
        for s in shapes:
            (corrected if self.optimize_1d or len(s.shape) == 2 else plain).append(s)
        return corrected, plain

    def cost(self, shapes: Sequence[Shape]) -> Cost:
        corrected, plain = self._split(shapes)
        iterations = (
            iteration_cost(s.shape) for s in corrected if self.mars_type == "mars-shampoo" and len(s.shape) == 2
        )
        return sum(iterations, ZERO) + elementwise(corrected, 20, 12) + elementwise(plain, 13, 7)

    def passes_of(self, accumulate: int) -> Callable[[int], Passes]:
        """The exact form evaluates each batch at the weights of the step before as well, once there was one."""
        each = 0 if self.is_approx else accumulate
        return lambda steps: Passes(*[each * max(0, steps - 1)] * 3)

    def state_bytes(self, shapes: Sequence[Shape]) -> int:
        corrected, plain = self._split(shapes)
        without_second = [
            s
            for s in corrected
            if self.mars_type == "mars-lion" or (self.mars_type == "mars-shampoo" and len(s.shape) == 2)
        ]
        floats = 3 * numel(corrected) - numel(without_second) + 2 * numel(plain)
        return 4 * (floats + len(shapes)) + (0 if self.is_approx else 4 * numel(shapes))

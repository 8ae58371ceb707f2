"""AdEMAMix: Adam with a second, much slower momentum (Pagliardini et al. 2024, arXiv 2409.03137, algorithm 1)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat
from torch import Tensor

from ...core.context import Context
from ...core.contracts import OptimizerPart
from ...core.cost import Cost
from ...core.registry import Card, part
from ...core.roles import Shape
from ..elementwise import Elementwise, Numbers, add_quotient, add_scaled
from ..groups import Beta, Epsilon, Grid, elementwise, factor2, state_bytes
from ..method import NON_NEGATIVE, Limit, ParamsT, from_part, given, next_step
from ..warm_momentum import warm_beta
from ..warmup_and_decay import no_share


class AdEMAMix(Elementwise):
    """m1, m2, v are averages of g, g and g^2; p <- (1 - lr wd) p - lr (m1_hat + alpha m2) / (sqrt(v_hat) + eps).

    For long runs, in which gradients of thousands of steps ago still help: m2 remembers them, m1 follows the present.
    Its authors warm up b3 and alpha, since a slow m2 can destabilise the start. m2 is not bias-corrected. With
    b1 = 0 the fast momentum is the gradient itself and takes no memory.

    Args:
        params: tensors, (name, tensor) pairs, or groups of them.
        lr: begin with AdamW's, 1e-3 where it has none.
        betas: (b1, b2, b3), decay of m1, v and m2; the authors' (0.9, 0.999, 0.9999).
        alpha: weight of m2; the authors' code has 2, their paper 4 to 10.
        beta3_warmup: steps over which b3's half-life grows linearly from b1's, by the authors all; None: none.
        alpha_warmup: steps over which alpha grows linearly from 0, by the authors all; None: none.
        eps: added to the root of v.
        weight_decay: decoupled, multiplied by the rate.

    Example:
        >>> optimizer = AdEMAMix(model.parameters(), beta3_warmup=1000, alpha_warmup=1000)
        >>> model(x).square().mean().backward()
        >>> optimizer.step()
    """

    limits: ClassVar[dict[str, Limit]] = {
        "alpha": NON_NEGATIVE,
        "beta3_warmup": NON_NEGATIVE,
        "alpha_warmup": NON_NEGATIVE,
    }

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float, float] = (0.9, 0.999, 0.9999),
        alpha: float = 2.0,
        beta3_warmup: int | None = None,
        alpha_warmup: int | None = None,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(**given(locals()))

    @staticmethod
    def kernel(p: Tensor, g: Tensor, m2: Tensor, v: Tensor, m1: Tensor, numbers: Numbers) -> None:
        lr, keep, w1, w2, w3, alpha, correction1, correction2, eps = numbers
        m1.lerp_(g, w1)
        v.lerp_(g * g, w2)
        m2.lerp_(g, w3)
        root = v.sqrt().mul_(correction2).add_(eps)
        add_quotient(p.mul_(keep), add_scaled(m1 * correction1, m2, alpha), root, -lr)

    @staticmethod
    def without_fast(p: Tensor, g: Tensor, m2: Tensor, v: Tensor, numbers: Numbers) -> None:
        """``kernel`` for b1 = 0."""
        lr, keep, _, w2, w3, alpha, _, correction2, eps = numbers
        v.lerp_(g * g, w2)
        m2.lerp_(g, w3)
        root = v.sqrt().mul_(correction2).add_(eps)
        add_quotient(p.mul_(keep), (m2 * alpha).add_(g), root, -lr)

    def update(self, group: dict[str, Any], p: Tensor, state: dict[str, Any]) -> None:
        lr, (b1, b2, b3), t = float(group["lr"]), group["betas"], next_step(state)
        weights = (1 - b1, 1 - b2, 1 - warm_beta(t, group["beta3_warmup"], b1, b3))
        alpha = group["alpha"] * min(t / (group["alpha_warmup"] or 1), 1.0)
        numbers = (
            lr,
            1 - lr * group["weight_decay"],
            *weights,
            alpha,
            1 / (1 - b1**t),
            (1 - b2**t) ** -0.5,
            group["eps"],
        )
        buffers = [self.buffer(p, "exp_avg_slow"), self.buffer(p, "exp_avg_sq")]
        if b1 > 0:
            self.apply(p, [*buffers, self.buffer(p, "exp_avg_fast")], numbers)
        else:
            self.apply(p, buffers, numbers, kernel=type(self).without_fast)


def reference(
    p: Tensor,
    gradients: Iterable[Tensor],
    *,
    lr: float,
    betas: tuple[float, float, float],
    alpha: float,
    beta3_warmup: int | None,
    alpha_warmup: int | None,
    eps: float,
    weight_decay: float,
) -> Iterator[Tensor]:
    """``p`` after each step, plainly."""
    b1, b2, b3_end = betas
    m1, m2, v = torch.zeros_like(p), torch.zeros_like(p), torch.zeros_like(p)
    for t, g in enumerate(gradients, start=1):
        a = alpha * t / alpha_warmup if alpha_warmup and t < alpha_warmup else alpha
        b3 = warm_beta(t, beta3_warmup, b1, b3_end)
        m1 = b1 * m1 + (1 - b1) * g
        m2 = b3 * m2 + (1 - b3) * g
        v = b2 * v + (1 - b2) * g**2
        direction = (m1 / (1 - b1**t) + a * m2) / ((v / (1 - b2**t)).sqrt() + eps)
        p = p - lr * (direction + weight_decay * p)
        yield p


@part
class AdEMAMixPart(OptimizerPart):
    """AdEMAMix: Adam with a second, much slower momentum."""

    card = Card(
        summary="Adam with a second, much slower momentum",
        paper="Pagliardini et al. 2024, arXiv 2409.03137",
        equation="p <- (1 - lr wd) p - lr (m1_hat + alpha m2) / (sqrt(v_hat) + eps)",
        defaults="betas (0.9, 0.999, 0.9999), alpha 2 to 10, both warm-ups over the whole run",
        cost="no matmul FLOPs; 3 floats of state a parameter, 2 with b1 = 0",
    )
    search: ClassVar[Grid] = {"lr": factor2(1.25e-4, 3.2e-2)}
    shardable = True

    lr: PositiveFloat = 4e-3
    """Peak learning rate."""
    betas: tuple[Beta, Beta, Beta] = (0.9, 0.95, 0.999)
    """Decay of the fast momentum, the second moment and the slow momentum."""
    alpha: NonNegativeFloat = 5.0
    """Weight of the slow momentum."""
    beta3_warmup: NonNegativeInt | None = None
    """Steps over which the slow momentum's half-life grows; absent: the whole run."""
    alpha_warmup: NonNegativeInt | None = None
    """Steps over which alpha grows; absent: the whole run."""
    eps: Epsilon = 1e-8
    """Added to the root of the second moment."""
    weight_decay: NonNegativeFloat = 0.1
    """Decoupled decay of matrices, multiplied by the learning rate."""

    def check(self, recipe: Any) -> list[str]:
        whole = [name for name in ("beta3_warmup", "alpha_warmup") if getattr(self, name) is None]
        return no_share("optimizer", recipe, *whole)

    def build(self, ctx: Context) -> AdEMAMix:
        warmups: dict[str, Any] = {
            name: ctx.horizon if value is None else value
            for name, value in (("beta3_warmup", self.beta3_warmup), ("alpha_warmup", self.alpha_warmup))
        }
        return from_part(AdEMAMix, self, ctx, **warmups)

    def cost(self, shapes: Sequence[Shape]) -> Cost:
        return elementwise(shapes, operations=18, floats=9)

    def state_bytes(self, shapes: Sequence[Shape]) -> int:
        return state_bytes(shapes, floats=3 if self.betas[0] > 0 else 2)

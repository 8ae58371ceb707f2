"""Simplified-AdEMAMix: one momentum that is a sum, mixed with the gradient (Morwani et al. 2025, arXiv 2502.02431)."""

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
from ..elementwise import Elementwise, Numbers, add_quotient
from ..groups import SMALLEST, Beta, Epsilon, Grid, elementwise, factor2, state_bytes
from ..method import BETA, NON_NEGATIVE, Limit, ParamsT, from_part, given, next_step
from ..warm_momentum import warm_beta
from ..warmup_and_decay import no_share


class SimplifiedAdEMAMix(Elementwise):
    """m <- b1 m + g (a sum, not an average); p <- (1 - lr wd) p - lr (alpha g + m) / (sqrt(v_hat) + eps).

    AdEMAMix with one buffer less: the present gradient takes the place of the fast momentum. The sum is about
    1 / (1 - b1) times an average, so the rate is far smaller than AdamW's: about
    lr_AdamW sqrt((1 - min_beta1) (1 - b1)).

    Args:
        params: tensors, (name, tensor) pairs, or groups of them.
        lr: begin with 1e-4 (the authors'), and less the larger alpha: see above.
        betas: (b1, b2), decay of m and of v; the authors' (0.99, 0.95).
        alpha: weight of the present gradient; about 0.05 at batches of a million tokens, 100 at 32 thousand.
        min_beta1: where the warm-up of b1 begins.
        beta1_warmup: steps over which b1's half-life grows linearly from ``min_beta1``'s, by the authors all of them;
            None: none.
        bias_correction1: divide the sum by the sum of its weights.
        bias_correction2: correct v.
        eps: added to the root of v.
        weight_decay: decoupled, multiplied by the rate.

    Example:
        >>> optimizer = SimplifiedAdEMAMix(model.parameters(), lr=1e-4, beta1_warmup=1000)
        >>> model(x).square().mean().backward()
        >>> optimizer.step()
    """

    limits: ClassVar[dict[str, Limit]] = {"alpha": NON_NEGATIVE, "min_beta1": BETA, "beta1_warmup": NON_NEGATIVE}

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.99, 0.95),
        alpha: float = 0.0,
        min_beta1: float = 0.9,
        beta1_warmup: int | None = None,
        bias_correction1: bool = False,
        bias_correction2: bool = True,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(**given(locals()))

    @staticmethod
    def kernel(p: Tensor, g: Tensor, m: Tensor, v: Tensor, numbers: Numbers) -> None:
        scaled_lr, keep, b1, w2, alpha, eps = numbers
        m.mul_(b1).add_(g)
        v.lerp_(g * g, w2)
        add_quotient(p.mul_(keep), (g * alpha).add_(m), v.sqrt().add_(eps), -scaled_lr)

    def update(self, group: dict[str, Any], p: Tensor, state: dict[str, Any]) -> None:
        lr, t, b2 = float(group["lr"]), next_step(state), group["betas"][1]
        b1 = warm_beta(t, group["beta1_warmup"], group["min_beta1"], group["betas"][0])
        state["num_sum"] = b1 * state.get("num_sum", 0.0) + 1
        root = (1 - b2**t) ** 0.5
        scale = root if group["bias_correction2"] else 1.0
        if group["bias_correction1"]:
            scale /= state["num_sum"]
        keep = 1 - lr * group["weight_decay"]
        buffers = [self.buffer(p, "exp_avg"), self.buffer(p, "exp_avg_sq")]
        eps = max(group["eps"] * root, SMALLEST)
        self.apply(p, buffers, (lr * scale, keep, b1, 1 - b2, group["alpha"], eps))


def reference(
    p: Tensor,
    gradients: Iterable[Tensor],
    *,
    lr: float,
    betas: tuple[float, float],
    alpha: float,
    min_beta1: float,
    beta1_warmup: int | None,
    bias_correction1: bool,
    bias_correction2: bool,
    eps: float,
    weight_decay: float,
) -> Iterator[Tensor]:
    """``p`` after each step, plainly."""
    m, v, weights, squares = torch.zeros_like(p), torch.zeros_like(p), 0.0, 0.0
    for t, g in enumerate(gradients, start=1):
        b1, b2 = warm_beta(t, beta1_warmup, min_beta1, betas[0]), betas[1]
        m, weights = b1 * m + g, b1 * weights + 1
        v, squares = b2 * v + (1 - b2) * g**2, b2 * squares + (1 - b2)
        u = (alpha * g + m) / (v.sqrt() + eps * squares**0.5)
        u = u / weights if bias_correction1 else u
        u = u * squares**0.5 if bias_correction2 else u
        p = p - lr * (u + weight_decay * p)
        yield p


@part
class SimplifiedAdEMAMixPart(OptimizerPart):
    """Simplified-AdEMAMix: one momentum that is a sum, mixed with the gradient."""

    card = Card(
        summary="one long momentum, kept as a sum and mixed with the present gradient",
        paper="Morwani et al. 2025, arXiv 2502.02431",
        equation="m <- b1 m + g; p <- (1 - lr wd) p - lr (alpha g + m) / (sqrt(v_hat) + eps)",
        defaults="lr 1e-4, betas (0.99, 0.95), alpha 0, beta1_warmup the whole run; larger alpha at smaller batches",
        cost="no matmul FLOPs; 2 floats of state a parameter",
    )
    search: ClassVar[Grid] = {"lr": factor2(1.5625e-5, 4e-3)}
    shardable = True

    lr: PositiveFloat = 2.5e-4
    """Peak learning rate; about AdamW's times sqrt((1 - min_beta1) (1 - b1))."""
    betas: tuple[Beta, Beta] = (0.99, 0.95)
    """Decay of the sum and of the second moment."""
    alpha: NonNegativeFloat = 10.0
    """Weight of the present gradient."""
    min_beta1: Beta = 0.9
    """Where the warm-up of b1 begins."""
    beta1_warmup: NonNegativeInt | None = None
    """Steps over which b1's half-life grows; absent: the whole run."""
    bias_correction1: bool = False
    """Divide the sum by the sum of its weights."""
    bias_correction2: bool = True
    """Correct the second moment's bias."""
    eps: Epsilon = 1e-8
    """Added to the root of the second moment."""
    weight_decay: NonNegativeFloat = 0.1
    """Decoupled decay of matrices, multiplied by the learning rate."""

    def check(self, recipe: Any) -> list[str]:
        return no_share("optimizer", recipe, *(["beta1_warmup"] if self.beta1_warmup is None else []))

    def build(self, ctx: Context) -> SimplifiedAdEMAMix:
        warmup = ctx.horizon if self.beta1_warmup is None else self.beta1_warmup
        return from_part(SimplifiedAdEMAMix, self, ctx, beta1_warmup=warmup)

    def cost(self, shapes: Sequence[Shape]) -> Cost:
        return elementwise(shapes, operations=13, floats=7)

    def state_bytes(self, shapes: Sequence[Shape]) -> int:
        return state_bytes(shapes, floats=2)

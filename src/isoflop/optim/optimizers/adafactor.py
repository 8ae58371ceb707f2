"""Adafactor as Adam with a rank-1 second moment (Shazeer and Stern 2018, arXiv 1804.04235; this form: Zhao et al. 2024,
arXiv 2407.07972): no clipping of updates, no relative step, momentum."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from ...core.context import Context
from ...core.contracts import OptimizerPart
from ...core.cost import Cost
from ...core.registry import Card, part
from ...core.roles import Shape, numel
from ..averages import wide
from ..groups import SMALLEST, Beta, Epsilon, Grid, elementwise, factor2
from ..method import Method, ParamsT, from_part, given, next_step
from ..rank_one import mean_squares, rank1_root
from ..shards import descend


class Adafactor(Method):
    """Adam whose v is the outer product of the averages of g^2 over all but one dimension, divided by their mean.

    Where memory is what is short: of Adam's two floats of state a parameter one is left. For a matrix
    v = r c' / mean(r), r and c the row and column means of g^2; a vector has one scalar v, as in the authors' code.

    Args:
        params: tensors, (name, tensor) pairs, or groups of them. Not sharded.
        lr: begin with AdamW's, 1e-3 where it has none; the authors' 3.16e-3.
        betas: decay of the first moment and of r, c; the authors' (0.9, 0.95).
        eps: added to the root of v.
        weight_decay: decoupled, multiplied by the rate.

    Example:
        >>> optimizer = Adafactor(model.parameters(), lr=1e-3)
        >>> model(x).square().mean().backward()
        >>> optimizer.step()
    """

    shardable = False

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(**given(locals()))

    def update(self, group: dict[str, Any], p: Tensor, state: dict[str, Any]) -> None:
        assert p.grad is not None
        lr, (b1, b2), t = float(group["lr"]), group["betas"], next_step(state)
        g, m = p.grad.to(wide(p.dtype)), self.buffer(p, "exp_avg")
        m.lerp_(g, 1 - b1)
        sizes = self.expected(p)
        factors = [state.setdefault(d, torch.zeros(n, dtype=m.dtype, device=p.device)) for d, n in sizes.items()]
        for d, factor in enumerate(factors):
            factor.lerp_(mean_squares(g, d), 1 - b2)
        if p.numel():
            correction = (1 - b2**t) ** 0.5
            eps = max(group["eps"] * correction, SMALLEST)
            root = rank1_root(factors).add_(eps).view(p.shape if p.ndim > 1 else ())
            descend(p, m, 1 - lr * group["weight_decay"], lr * correction / (1 - b1**t), root)

    def expected(self, p: Tensor) -> dict[str, torch.Size]:
        sizes = list(p.shape) if p.ndim > 1 else [1]
        return {f"exp_avg_sq_{d}": torch.Size([n]) for d, n in enumerate(sizes)}


def reference(
    p: Tensor,
    gradients: Iterable[Tensor],
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> Iterator[Tensor]:
    """``p`` after each step, plainly: the marginals are taken of an average of g^2 that is kept in full."""
    b1, b2 = betas
    m, v = torch.zeros_like(p), torch.zeros_like(p)
    for t, g in enumerate(gradients, start=1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        estimate = torch.ones_like(p) * v.mean() ** (1 - max(p.ndim, 1))
        for d in range(p.ndim) if p.ndim > 1 else ():
            estimate = estimate * v.mean(dim=[k for k in range(p.ndim) if k != d], keepdim=True)
        if p.ndim < 2:
            estimate = v.mean()
        direction = m / (1 - b1**t) / ((estimate / (1 - b2**t)).sqrt() + eps)
        p = p - lr * (direction + weight_decay * p)
        yield p


@part
class AdafactorPart(OptimizerPart):
    """Adafactor: Adam with a rank-1 second moment."""

    card = Card(
        summary="Adam whose second moment is a rank-1 product of row and column means",
        paper="Shazeer and Stern 2018, arXiv 1804.04235; Zhao et al. 2024, arXiv 2407.07972",
        equation="v = r c' / mean(r), r and c averages of the row and column means of g^2; Adam's step with it",
        defaults="lr 3.16e-3, betas (0.9, 0.95), eps 1e-15, weight_decay 0",
        differs="no decay on norms and biases, by role; torch's Adafactor is another rule",
        cost="no matmul FLOPs; 1 float of state a parameter and the vectors r, c",
    )
    search: ClassVar[Grid] = {"lr": factor2(1.25e-4, 3.2e-2)}

    lr: PositiveFloat = 4e-3
    """Peak learning rate."""
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    """Decay of the first and of the second moment."""
    eps: Epsilon = 1e-8
    """Added to the root of the second moment."""
    weight_decay: NonNegativeFloat = 0.1
    """Decoupled decay of matrices, multiplied by the learning rate."""

    def build(self, ctx: Context) -> Adafactor:
        return from_part(Adafactor, self, ctx)

    def cost(self, shapes: Sequence[Shape]) -> Cost:
        return elementwise(shapes, operations=13, floats=7)

    def state_bytes(self, shapes: Sequence[Shape]) -> int:
        vectors = sum(sum(s.shape) if len(s.shape) > 1 else 1 for s in shapes)
        return 4 * (numel(shapes) + vectors + len(shapes))

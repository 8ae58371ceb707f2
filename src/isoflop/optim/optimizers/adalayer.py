"""Adalayer: Adam with one second moment a layer (Zhao et al. 2024, arXiv 2407.07972, section 4)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from ...core.context import Context
from ...core.contracts import OptimizerPart
from ...core.cost import Cost
from ...core.registry import Card, part
from ...core.roles import Shape
from ..averages import wide
from ..groups import Beta, Epsilon, Grid, elementwise, factor2
from ..method import Limit, Method, ParamsT, from_part, given, next_step
from ..rank_one import mean_squares
from ..shards import descend

LARGE = 10000
"""Rows from which the authors take a matrix named like a head or an embedding to be one."""


class Adalayer(Method):
    """Adam whose v is one number a block: the average of the mean of g^2 over it.

    A probe of what Adam's second moment is needed for: its authors found that a language model does with one number a
    layer but for the head, which wants one a row, and the norms.

    A block is a tensor; each third of the rows of a fused query-key-value matrix; or each row (vocabulary token) of the
    last or first layer. Which parameter is which follows from the group's ``role`` where it
    has one, else from the authors' names: att_proj (fused), ff_out (last), wte (first), norm or ln_f.

    Args:
        params: tensors, (name, tensor) pairs, or groups of them. Not sharded; named, if names shall tell.
        lr: begin with AdamW's, 1e-3 where it has none.
        betas: decay of the first and of the second moment.
        eps: added to the root of v.
        weight_decay: decoupled, multiplied by the rate.
        att_correction: fused matrices have three blocks.
        lastlayer_correction: every row of the last layer is a block.
        firstlayer_correction: every row of the first layer is a block.
        update_last: whether the last layer's rows go on after ``t_freeze``.
        update_norm: whether the norms go on after ``t_freeze``.
        t_freeze: v is a plain mean over so many first steps (the authors rest meanwhile: lr 0), then fixed; None: it
            never is.
        no_norm_training: norms are not trained.

    Example:
        >>> optimizer = Adalayer(model.named_parameters(), lr=1e-3)
        >>> model(x).square().mean().backward()
        >>> optimizer.step()
    """

    shardable = False
    limits: ClassVar[dict[str, Limit]] = {"t_freeze": Limit()}

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        att_correction: bool = False,
        lastlayer_correction: bool = False,
        firstlayer_correction: bool = False,
        update_last: bool = True,
        update_norm: bool = False,
        t_freeze: int | None = None,
        no_norm_training: bool = False,
    ) -> None:
        super().__init__(**given(locals()))

    def update_group(self, group: dict[str, Any], params: list[Tensor]) -> None:
        names = dict(zip(group["params"], group.get("param_names", [""] * len(group["params"])), strict=True))
        for p in params:
            kind = _kind(group, names[p], p)
            if not (kind == "norm" and p.ndim == 1 and group["no_norm_training"]):
                self._step(group, p, kind)

    def _step(self, group: dict[str, Any], p: Tensor, kind: str) -> None:
        assert p.grad is not None
        state = self.state[p]
        lr, (b1, b2), t, freeze = float(group["lr"]), group["betas"], next_step(state), group["t_freeze"]
        g, m = p.grad.to(wide(p.dtype)), self.buffer(p, "exp_avg")
        m.lerp_(g, 1 - b1)
        blocks = {"fused": 3, "last": len(p) if p.ndim else 1, "first": len(p) if p.ndim else 1}.get(kind, 1)
        v = state.setdefault("exp_avg_sq", torch.zeros(blocks, dtype=m.dtype, device=p.device))
        if p.numel() == 0:
            return
        goes_on = {"last": group["update_last"], "norm": group["update_norm"], "first": True}.get(kind, False)
        if not freeze or t <= freeze or goes_on:
            mean = mean_squares(g.reshape(blocks, -1), 0)
            v.lerp_(mean, 1 / (t + 1) if freeze and t <= freeze else 1 - b2)
        root = v.sqrt().div_(1.0 if freeze else (1 - b2**t) ** 0.5).add_(group["eps"])
        rows = root.repeat_interleave(len(p) // blocks).view(-1, *[1] * (p.ndim - 1)) if blocks > 1 else root[0]
        descend(p, m, 1 - lr * group["weight_decay"], lr / (1 - b1**t), rows)

    def check_state(self, p: Tensor, state: dict[str, Any], where: str) -> None:
        super().check_state(p, {k: v for k, v in state.items() if k != "exp_avg_sq"}, where)


def _kind(group: dict[str, Any], name: str, p: Tensor) -> str:
    role = group.get("role", "")
    large = p.ndim > 0 and len(p) > LARGE
    if group["att_correction"] and "att_proj" in name:
        return "fused"
    if group["lastlayer_correction"] and (role == "head" or ("ff_out" in name and large)):
        return "last"
    if group["firstlayer_correction"] and (role == "embedding" or ("wte" in name and large)):
        return "first"
    return "norm" if role == "norm" or "norm" in name or "ln_f" in name else "plain"


def reference(
    p: Tensor,
    gradients: Iterable[Tensor],
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> Iterator[Tensor]:
    """One block: ``p`` after each step, plainly."""
    m, v = torch.zeros_like(p), 0.0
    for t, g in enumerate(gradients, start=1):
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * float((g**2).mean())
        direction = m / (1 - betas[0] ** t) / (math.sqrt(v / (1 - betas[1] ** t)) + eps)
        p = p - lr * (direction + weight_decay * p)
        yield p


@part
class AdalayerPart(OptimizerPart):
    """Adalayer: Adam with one second moment a layer."""

    card = Card(
        summary="Adam with one second moment a layer, and one a row of the head",
        paper="Zhao et al. 2024, arXiv 2407.07972",
        equation="v averages mean(g^2) over a block; Adam's step with it",
        defaults="lr 3.16e-3, betas (0.9, 0.95), eps 1e-15, weight_decay 0, head by rows",
        differs="head and embedding are known by role, not by name and size; no decay on norms and biases",
        cost="no matmul FLOPs; 1 float of state a parameter",
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
    lastlayer_correction: bool = True
    """One second moment a row of the head."""
    firstlayer_correction: bool = False
    """One second moment a row of the embedding."""

    def build(self, ctx: Context) -> Adalayer:
        return from_part(Adalayer, self, ctx)

    def cost(self, shapes: Sequence[Shape]) -> Cost:
        return elementwise(shapes, operations=8, floats=6)

    def state_bytes(self, shapes: Sequence[Shape]) -> int:
        by_row = {"head": self.lastlayer_correction, "embedding": self.firstlayer_correction}
        return 4 * sum(s.numel + (s.shape[0] if by_row.get(s.role) else 1) + 1 for s in shapes)

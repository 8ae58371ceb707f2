"""Muon: momentum, orthogonalised by Newton-Schulz, for matrices inside the blocks; AdamW for everything else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from ...core.context import Context
from ...core.contracts import OptimizerPart
from ...core.cost import ZERO, Cost
from ...core.registry import Card, part
from ...core.roles import Shape, numel
from ...ledger.formulas import newton_schulz
from ..base import Limit, Method, ParamsT, descend, local, whole_like
from ..chain import Chain
from ..groups import Beta, Epsilon, Grid, elementwise, factor2, split, split_shapes, torch_groups
from ..orthogonal import QUINTIC, Coefficients, orthogonalise, per_step
from ..state import OptimizerError, place
from .adamw import adamw_bytes, adamw_cost

AdjustLR = Literal["original", "match_rms_adamw"]


class Muon(Method):
    """p <- (1 - lr wd) p - lr scale(shape) NewtonSchulz(u), u the (Nesterov) average of gradients; matrices only.

    ``torch.optim.Muon`` does the same for plain 2-D parameters. This one also takes stacks of matrices (3-D), fused
    matrices and heads apart, another dtype and other coefficients, and shards.

    Args:
        params: 2-D, 3-D (a stack) or 4-D (convolutions); else OptimizerError. A 4-D parameter is one matrix, flattened
            behind its first dimension, and that matrix's shape gives the scale; the authors' code flattens it so too,
            but scales by the last two dimensions, the kernel's.
        lr: 0.02 with ``original``, AdamW's with ``match_rms_adamw``. weight_decay: decoupled. momentum, nesterov: of u.
        ns_steps, ns_coefficients, ns_dtype, eps: the iteration, see ``orthogonalise``. Coefficients may be one triple a
            step.
        adjust_lr_fn: scale(rows, columns): sqrt(max(1, rows / columns)) or 0.2 sqrt(max(rows, columns)).
        split_sizes: rows of the matrices that are fused in each parameter (query, key, value), orthogonalised apart.
        num_heads: heads whose rows are orthogonalised apart, in every one of the split matrices.
    """

    limits: ClassVar[dict[str, Limit]] = {"ns_steps": Limit(low=1), "num_heads": Limit(low=1)}

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.02,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        ns_coefficients: Coefficients = QUINTIC,
        ns_dtype: torch.dtype = torch.bfloat16,
        eps: float = 1e-7,
        adjust_lr_fn: AdjustLR | None = None,
        split_sizes: Sequence[int] | None = None,
        num_heads: int = 1,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            weight_decay=weight_decay,
            momentum=momentum,
            nesterov=nesterov,
            ns_steps=ns_steps,
            ns_coefficients=ns_coefficients,
            ns_dtype=str(ns_dtype).removeprefix("torch."),
            eps=eps,
            adjust_lr_fn=adjust_lr_fn,
            split_sizes=split_sizes,
            num_heads=num_heads,
        )

    def _check_group(self, index: int) -> None:
        super()._check_group(index)
        group = self.param_groups[index]
        per_step(group["ns_coefficients"], group["ns_steps"])
        for i, p in enumerate(group["params"]):
            sizes = group["split_sizes"] or [p.shape[0] if p.ndim else 1]
            where = place(group, index, i)
            if p.ndim not in (2, 3, 4):
                raise OptimizerError(f"Muon takes matrices, got shape {tuple(p.shape)}", where=where)
            if p.ndim == 2 and (sum(sizes) != p.shape[0] or any(size % group["num_heads"] for size in sizes)):
                what = f"{p.shape[0]} rows cannot be split into {list(sizes)} with {group['num_heads']} heads each"
                raise OptimizerError(what, where=where)

    def update(self, group: dict[str, Any], p: Tensor, state: dict[str, Any]) -> None:
        assert p.grad is not None
        lr, mu = float(group["lr"]), group["momentum"]
        m = self.buffer(p, "momentum_buffer")
        g = local(p.grad).to(m.dtype)
        local(m).lerp_(g, 1 - mu)
        u = g.lerp(local(m), mu) if group["nesterov"] else local(m)
        keep = 1 - lr * group["weight_decay"]
        descend(p, self._directions(group, whole_like(u, p)), keep, lr)

    def _directions(self, group: dict[str, Any], u: Tensor) -> Tensor:
        settings = (
            group["ns_steps"],
            group["ns_coefficients"],
            getattr(torch, group["ns_dtype"]),
            group["eps"],
        )
        if u.ndim == 2:
            pieces = torch.split(u, list(group["split_sizes"])) if group["split_sizes"] else [u]
            heads = group["num_heads"]
            stacks = [x.view(heads, -1, x.shape[1]) if heads > 1 else x for x in pieces]
        else:
            stacks = [u.flatten(1) if u.ndim == 4 else u]
        done = [_scale(x, group["adjust_lr_fn"]) * orthogonalise(x, *settings).to(u.dtype) for x in stacks]
        return torch.cat([x.reshape(-1, *u.shape[1:]) for x in done]) if len(done) > 1 else done[0].reshape(u.shape)


def _scale(x: Tensor, adjust: AdjustLR | None) -> float:
    rows, columns = x.shape[-2:]
    if adjust == "match_rms_adamw":
        return float(0.2 * max(rows, columns) ** 0.5)
    return float(max(1, rows / columns) ** 0.5)


def reference(
    p: Tensor,
    gradients: Iterable[Tensor],
    *,
    lr: float,
    weight_decay: float,
    momentum: float,
    ns_steps: int,
) -> Iterator[Tensor]:
    """One matrix with Nesterov momentum, iterated in the dtype of ``p``: ``p`` after each step, plainly."""
    m = torch.zeros_like(p)
    for g in gradients:
        m = momentum * m + (1 - momentum) * g
        x = momentum * m + (1 - momentum) * g
        x = x / (x.norm() + 1e-7)
        for _ in range(ns_steps):
            gram = x @ x.T
            x = QUINTIC[0] * x + (QUINTIC[1] * gram + QUINTIC[2] * gram @ gram) @ x
        p = (1 - lr * weight_decay) * p - lr * max(1, p.shape[0] / p.shape[1]) ** 0.5 * x
        yield p


@part
class MuonPart(OptimizerPart):
    """Muon on hidden matrices, AdamW on embeddings, head, norms and biases; one rate for both."""

    card = Card(
        summary="orthogonalised momentum for hidden matrices, AdamW for the rest",
        paper="Jordan et al. 2024, kellerjordan.github.io/posts/muon; rate matching: Liu et al. 2025, arXiv 2502.16982",
        equation="m <- mu m + (1 - mu) g; p <- (1 - lr wd) p - 0.2 sqrt(max(p.shape)) lr NewtonSchulz(g + mu (m - g))",
        defaults="lr 0.02 with factor sqrt(max(1, rows / columns)), momentum 0.95, weight_decay 0",
        differs="torch's implementation; the update's root mean square matches AdamW's, so that one rate serves both",
        cost="steps x (4 m^2 n + 2 m^3) FLOPs a matrix, m <= n; 1 float of state a parameter",
    )
    search: ClassVar[Grid] = {"lr": factor2(1.25e-4, 3.2e-2)}

    lr: PositiveFloat = 4e-3
    """Peak learning rate, of both sides."""
    momentum: Beta = 0.95
    """Decay of the momentum."""
    nesterov: bool = True
    """Look ahead by one momentum step."""
    ns_steps: PositiveInt = 5
    """Newton-Schulz iterations."""
    weight_decay: NonNegativeFloat = 0.1
    """Decoupled decay of matrices, multiplied by the learning rate."""
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    """AdamW side: decay of the first and of the second moment."""
    eps: Epsilon = 1e-8
    """AdamW side: added to the root of the second moment."""

    def build(self, ctx: Context) -> torch.optim.Optimizer:
        inner, rest = split(ctx.groups)
        members: list[torch.optim.Optimizer] = []
        if inner:
            members.append(
                torch.optim.Muon(
                    torch_groups(inner, self.weight_decay),
                    lr=self.lr,
                    momentum=self.momentum,
                    nesterov=self.nesterov,
                    ns_steps=self.ns_steps,
                    adjust_lr_fn="match_rms_adamw",
                )
            )
        if rest:
            groups = torch_groups(rest, self.weight_decay)
            members.append(torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, eps=self.eps, fused=True))
        return Chain(members)

    def cost(self, shapes: Sequence[Shape]) -> Cost:
        inner, rest = split_shapes(shapes)
        iterations = (newton_schulz(s.shape[0], s.shape[1], self.ns_steps) for s in inner)
        return sum(iterations, ZERO) + elementwise(inner, operations=6, floats=5) + adamw_cost(rest)

    def state_bytes(self, shapes: Sequence[Shape]) -> int:
        inner, rest = split_shapes(shapes)
        return 4 * numel(inner) + adamw_bytes(rest)

"""Muon: momentum, orthogonalised by Newton-Schulz, for matrices inside the blocks; AdamW for everything else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, Literal, get_args

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from ...core.context import Context
from ...core.contracts import OptimizerPart
from ...core.cost import ZERO, Cost
from ...core.registry import Card, part
from ...core.roles import Shape, numel
from ..averages import wide
from ..chain import Chain
from ..groups import Beta, Epsilon, Grid, elementwise, factor2, split, split_shapes, torch_groups
from ..method import Limit, Method, ParamsT, given
from ..orthogonal import ALIKE, HALVES_OF_ALL, QUINTIC, Coefficients, iteration_cost, orthogonalise_all, per_step
from ..shards import descend, local, whole_like
from ..state import OptimizerError, place
from .adamw import adamw_bytes, adamw_cost

AdjustLR = Literal["original", "match_rms_adamw"]


class Muon(Method):
    """p <- (1 - lr wd) p - lr scale(shape) NewtonSchulz(u), u the (Nesterov) average of gradients; matrices only.

    The cheapest of the matrix methods: one float of state, and products that bfloat16 serves. Every direction of a
    hidden matrix is moved alike, which pays most where a few dominate the gradient. Embeddings, head and vectors belong
    to AdamW: ``Chain`` makes the two one optimizer. ``torch.optim.Muon`` does the same for plain 2-D parameters; this
    one also takes stacks of matrices, fused matrices and heads apart, other coefficients, and shards.

    Args:
        params: 2-D, 3-D (a stack) or 4-D (convolutions); else OptimizerError. A 4-D parameter is one matrix, flattened
            behind its first dimension, and that matrix's shape gives the scale; the authors' code flattens it so too,
            but scales by the last two dimensions, the kernel's.
        lr: begin with 0.02 (the authors'; ``original``), or with ``match_rms_adamw`` with AdamW's.
        weight_decay: decoupled, multiplied by the rate; the authors' 0.
        momentum: decay of the average of gradients; the authors' 0.95.
        nesterov: look ahead by one step of the average.
        ns_steps: Newton-Schulz iterations; the authors' 5.
        ns_coefficients: (a, b, c), or one triple a step; the authors' quintic.
        ns_dtype: of the iteration; the authors' bfloat16.
        eps: added to the norm that a matrix is divided by first.
        adjust_lr_fn: scale(rows, columns): sqrt(max(1, rows / columns)) of "original", which None means too, or
            0.2 sqrt(max(rows, columns)) of "match_rms_adamw", which makes the update as large as AdamW's.
        split_sizes: rows of the matrices that are fused in each parameter (query, key, value), orthogonalised apart.
        num_heads: heads whose rows are orthogonalised apart, in every one of the split matrices.

    Example, with ``split`` of this package, which tells hidden matrices from the rest of any model:
        >>> hidden, rest = split(model)
        >>> optimizer = Chain([Muon(hidden, lr=0.02), torch.optim.AdamW(rest, lr=3e-3)])
        >>> model(x).square().mean().backward(); optimizer.step()
    """

    limits: ClassVar[dict[str, Limit]] = {"ns_steps": Limit(low=1), "num_heads": Limit(low=1)}
    choices: ClassVar[dict[str, tuple[Any, ...]]] = {"adjust_lr_fn": (None, *get_args(AdjustLR))}

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
        super().__init__(**given(locals()))

    def _check_group(self, index: int) -> None:
        super()._check_group(index)
        group = self.param_groups[index]
        try:
            per_step(group["ns_coefficients"], group["ns_steps"])
        except ValueError as error:
            raise OptimizerError(f"ns_coefficients: {error}", where=f"parameter group {index}") from None
        if any(not isinstance(size, int) or size < 1 for size in group["split_sizes"] or ()):
            what = f"split_sizes must be numbers of rows from 1 on, got {group['split_sizes']}"
            raise OptimizerError(what, where=f"parameter group {index}")
        for i, p in enumerate(group["params"]):
            sizes = group["split_sizes"] or [p.shape[0] if p.ndim else 1]
            where = place(group, index, i)
            if p.ndim not in (2, 3, 4):
                raise OptimizerError(f"Muon takes matrices, got shape {tuple(p.shape)}", where=where)
            if p.ndim == 2 and (sum(sizes) != p.shape[0] or any(size % group["num_heads"] for size in sizes)):
                what = f"{p.shape[0]} rows cannot be split into {list(sizes)} with {group['num_heads']} heads each"
                raise OptimizerError(what, where=where)

    def update_group(self, group: dict[str, Any], params: list[Tensor]) -> None:
        small = [p for p in params if p.numel() <= ALIKE]
        for together in (small, *([p] for p in params if p.numel() > ALIKE)):
            if together:
                self._update_together(group, together)

    def _update_together(self, group: dict[str, Any], params: list[Tensor]) -> None:
        lr, mu = float(group["lr"]), group["momentum"]
        averages = [local(self.buffer(p, "momentum_buffer")) for p in params]
        gradients = [local(p.grad).to(m.dtype) for p, m in zip(params, averages, strict=True) if p.grad is not None]
        torch._foreach_lerp_(averages, gradients, 1 - mu)
        ahead = torch._foreach_lerp(gradients, averages, mu) if group["nesterov"] else averages
        pieces = [_matrices(group, whole_like(u, p)) for u, p in zip(ahead, params, strict=True)]
        settings = (group["ns_steps"], group["ns_coefficients"], getattr(torch, group["ns_dtype"]), group["eps"])
        done = iter(orthogonalise_all([x for each in pieces for x in each], *settings))
        for p, each in zip(params, pieces, strict=True):
            turned = [next(done) for _ in each]
            scales = [_scale(x, group["adjust_lr_fn"]) for x in each]
            if len(set(scales)) > 1:  # fused matrices of several shapes
                turned = [x.to(wide(p.dtype)).mul_(scale) for x, scale in zip(turned, scales, strict=True)]
                scales = [1.0]
            whole = torch.cat(turned) if len(turned) > 1 else turned[0]
            descend(p, whole.reshape(p.shape), 1 - lr * group["weight_decay"], lr * scales[0])


def _matrices(group: dict[str, Any], u: Tensor) -> list[Tensor]:
    """What is orthogonalised apart in one parameter, from its first row to its last."""
    if u.ndim == 3:
        return list(u.unbind())
    whole = u.flatten(1)
    fused = torch.split(whole, list(group["split_sizes"])) if group["split_sizes"] and u.ndim == 2 else [whole]
    heads = group["num_heads"] if u.ndim == 2 else 1
    return [x for each in fused for x in (each.chunk(heads) if heads > 1 else [each])]


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
        differs="the update's root mean square matches AdamW's, so that one rate serves both; equal small matrices are "
        "iterated as a stack, large symmetric products computed by halves",
        cost="steps x (4 m^2 n + 2 m^3) FLOPs a matrix, m <= n; 1 float of state a parameter",
    )
    search: ClassVar[Grid] = {"lr": factor2(1.25e-4, 3.2e-2)}
    shardable = True
    version: ClassVar[int] = 2  # 1 trained torch.optim.Muon, whose products are rounded elsewhere

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
            muon = Muon(
                torch_groups(inner, self.weight_decay),
                lr=self.lr,
                momentum=self.momentum,
                nesterov=self.nesterov,
                ns_steps=self.ns_steps,
                adjust_lr_fn="match_rms_adamw",
            )
            muon.check_gradients = False  # the training loop has checked them
            members.append(muon)
        if rest:
            groups = torch_groups(rest, self.weight_decay)
            members.append(torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, eps=self.eps, fused=True))
        return Chain(members)

    def cost(self, shapes: Sequence[Shape]) -> Cost:
        inner, rest = split_shapes(shapes)
        iterations = (iteration_cost(s.shape, self.ns_steps, HALVES_OF_ALL) for s in inner)
        return sum(iterations, ZERO) + elementwise(inner, operations=6, floats=5) + adamw_cost(rest)

    def state_bytes(self, shapes: Sequence[Shape]) -> int:
        inner, rest = split_shapes(shapes)
        return 4 * numel(inner) + adamw_bytes(rest)

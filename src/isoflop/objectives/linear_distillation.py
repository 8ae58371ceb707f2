"""Distillation through two linear heads, chunk by chunk: neither model's logits of all tokens ever exist at once.

As in ``linear_cross_entropy``, the gradient is computed in the forward pass, while a chunk's logits are at hand.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from ..models.attend import softly_capped
from ..models.kernels import first_order
from . import linear_cross_entropy as plain


def linear_distillation(
    hidden: Tensor,
    weight: Tensor,
    teacher: tuple[Tensor, Tensor],
    targets: Tensor,
    mask: Tensor | None = None,
    *,
    temperature: float = 1.0,
    share: float = 1.0,
    caps: tuple[float | None, float | None] = (None, None),
) -> tuple[Tensor, Tensor, Tensor]:
    """(1 - share) hard + share soft, with hard = -log q(target) and soft = T^2 KL(p_T || q_T), summed over tokens.

    q is the student's softmax, q_T and p_T student's and teacher's at temperature T (Hinton et al. 2015, section 2: T^2
    keeps the soft gradient's size whatever T is).

    Args:
        hidden: the student's vectors (..., width), as for ``linear_cross_entropy``.
        weight: its head (vocab, width).
        teacher: vectors (..., width of its own) and head (vocab, width of its own) of the teacher; no gradient.
        targets: (...) int64.
        mask: (...) bool, the targets that count; None means all.
        temperature: T.
        share: of the soft loss.
        caps: what bounds the student's and the teacher's logits softly (``Model.cap``).

    Returns:
        the mixed loss, differentiable; hard; soft. All are sums in nats, fp32.
    """
    rows, labels = hidden.flatten(0, -2), targets.flatten()
    keep = None if mask is None else mask.flatten()
    other = (teacher[0].detach().flatten(0, -2), teacher[1].detach())
    if torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad):
        return _Distillation.apply(rows, weight, *other, labels, keep, temperature, share, caps)  # type: ignore[no-any-return, no-untyped-call]
    losses, _, _ = _chunks(
        rows.detach(), weight.detach(), other, labels, keep, temperature, share, caps, (False, False)
    )
    return _mixed(losses, share)


def reference_linear_distillation(
    hidden: Tensor,
    weight: Tensor,
    teacher: tuple[Tensor, Tensor],
    targets: Tensor,
    mask: Tensor | None = None,
    *,
    temperature: float = 1.0,
    share: float = 1.0,
    caps: tuple[float | None, float | None] = (None, None),
) -> Tensor:
    """The mixed loss in torch's operations, all logits at once: what the tests believe."""
    ours, theirs = F.linear(hidden, weight.to(hidden.dtype)), F.linear(teacher[0], teacher[1].to(teacher[0].dtype))
    capped = zip((ours, theirs), caps, strict=True)
    ours, theirs = (scores if cap is None else softly_capped(scores, cap) for scores, cap in capped)
    hard = plain.cross_entropy(ours, targets)
    log_q, log_p = (torch.log_softmax(scores.to(hard.dtype) / temperature, -1) for scores in (ours, theirs))
    soft = temperature**2 * (log_p.exp() * (log_p - log_q)).sum(-1)
    losses = (1 - share) * hard + share * soft
    return (losses if mask is None else losses * mask).sum()


def _mixed(losses: Tensor, share: float) -> tuple[Tensor, Tensor, Tensor]:
    hard, soft = losses.sum(0)
    return (1 - share) * hard + share * soft, hard, soft


def _chunks(
    hidden: Tensor,
    weight: Tensor,
    teacher: tuple[Tensor, Tensor],
    targets: Tensor,
    mask: Tensor | None,
    temperature: float,
    share: float,
    caps: tuple[float | None, float | None],
    wanted: tuple[bool, bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """(tokens, 2) hard and soft losses, and the gradients of the mixed sum for hidden and weight where ``wanted``."""
    dtype, (to_hidden, to_weight) = hidden.dtype, wanted
    heads = weight.to(dtype), teacher[1].to(teacher[0].dtype)
    losses = hidden.new_empty(len(hidden), 2, dtype=plain._accumulator(dtype))
    grad_hidden = torch.empty_like(hidden if to_hidden else hidden[:0])
    grad_weight = torch.zeros_like(weight if to_weight else weight[:0])
    most = plain.CHUNK if hidden.device.type == "cpu" else plain.LAUNCH
    size = max(1, most // (2 * dtype.itemsize * len(weight)))
    for start in range(0, len(hidden), size):
        chunk = slice(start, start + size)
        ours, theirs = hidden[chunk] @ heads[0].t(), teacher[0][chunk] @ heads[1].t()
        slopes = [None if c is None else plain.cap_in_place(x, c) for x, c in zip((ours, theirs), caps, strict=True)]
        keep = None if mask is None else mask[chunk]
        losses[chunk] = _losses_in_place(ours, theirs, targets[chunk], keep, temperature, share, any(wanted))
        if slopes[0] is not None and any(wanted):
            ours *= slopes[0]
        if to_hidden:
            torch.mm(ours, heads[0], out=grad_hidden[chunk])
        if to_weight and dtype == weight.dtype:
            grad_weight.addmm_(ours.t(), hidden[chunk])
        elif to_weight:
            grad_weight += ours.t() @ hidden[chunk]
    return losses, grad_hidden, grad_weight


def _losses_in_place(
    ours: Tensor, theirs: Tensor, targets: Tensor, mask: Tensor | None, temperature: float, share: float, gradient: bool
) -> Tensor:
    """Hard and soft losses of a chunk (rows, 2); with ``gradient`` the student's logits become their own gradient.

    That is (1 - share) (q - one-hot) + share T (q_T - p_T), exactly 0 where both models agree and share is 1.
    """
    exact = plain._accumulator(ours.dtype)
    losses = ours.new_empty(len(ours), 2, dtype=exact)
    size = max(1, plain.TILE // ours.shape[1]) if ours.device.type == "cpu" else len(ours)
    for start in range(0, len(ours), size):
        tile = slice(start, start + size)
        scores, column = ours[tile].to(exact), targets[tile, None]
        log_q = torch.log_softmax(scores, -1)
        losses[tile, 0] = -log_q.gather(1, column).squeeze(1)
        soft_q = log_q if temperature == 1 else torch.log_softmax(scores / temperature, -1)
        soft_p = torch.log_softmax(theirs[tile].to(exact) / temperature, -1)
        p = soft_p.exp()
        losses[tile, 1] = temperature**2 * (p * (soft_p - soft_q)).sum(-1)
        if gradient:
            slope = (soft_q.exp() - p).mul_(share * temperature)
            if share < 1:
                slope.add_(log_q.exp(), alpha=1 - share)
                slope.scatter_add_(1, column, slope.new_full((), share - 1).expand(column.shape))
            ours[tile] = slope if mask is None else slope * mask[tile, None]
    return losses if mask is None else losses * mask[:, None]


class _Distillation(Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        vectors: Tensor,
        head: Tensor,
        targets: Tensor,
        mask: Tensor | None,
        temperature: float,
        share: float,
        caps: tuple[float | None, float | None],
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.wanted = ctx.needs_input_grad[:2]
        losses, grad_hidden, grad_weight = _chunks(
            hidden, weight, (vectors, head), targets, mask, temperature, share, caps, ctx.wanted
        )
        ctx.save_for_backward(grad_hidden, grad_weight)
        mixed, hard, soft = _mixed(losses, share)
        ctx.mark_non_differentiable(hard, soft)
        return mixed, hard, soft

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> Any:
        grad_hidden, grad_weight = ctx.saved_tensors
        to_hidden, to_weight = ctx.wanted
        down = grad_hidden * grad.to(grad_hidden.dtype) if to_hidden else None
        return down, grad_weight * grad if to_weight else None, *(None,) * 7

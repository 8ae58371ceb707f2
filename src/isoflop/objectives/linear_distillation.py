"""Distillation through two linear heads, chunk by chunk: neither model's logits of all tokens ever exist at once.

As in ``linear_cross_entropy``, the gradient is computed in the forward pass, while a chunk's logits are at hand.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from ..models.attend import softly_capped
from ..models.kernels import first_order
from . import linear_cross_entropy as plain

Teacher = tuple[Tensor, Tensor]
"""Vectors (..., width of its own) and head (vocab, width of its own) of a teacher."""


@dataclass(frozen=True)
class Mixture:
    """What is minimised: (1 - share) hard + share T^2 ((1 - reverse) KL(p || q) + reverse KL(q || p)).

    Attributes:
        temperature: T, by which the logits of student and teachers are divided in the soft loss.
        share: of the soft loss.
        reverse: of the divergence from the student within it.
        caps: what bounds the logits of the student, then of each teacher softly (``Model.cap``).

    Example:
        >>> Mixture(temperature=2.0, reverse=0.5).share
        1.0
    """

    temperature: float = 1.0
    share: float = 1.0
    reverse: float = 0.0
    caps: tuple[float | None, ...] = ()

    def cap(self, number: int) -> float | None:
        """Of the student (0) or a teacher."""
        return self.caps[number] if number < len(self.caps) else None


def linear_distillation(
    hidden: Tensor,
    weight: Tensor,
    teacher: Teacher | Sequence[Teacher],
    targets: Tensor,
    mask: Tensor | None = None,
    *,
    temperature: float = 1.0,
    share: float = 1.0,
    reverse: float = 0.0,
    caps: tuple[float | None, ...] = (),
) -> tuple[Tensor, Tensor, Tensor]:
    """(1 - share) hard + share soft, with hard = -log q(target) and soft = T^2 KL(p_T || q_T), summed over tokens.

    q is the student's softmax, q_T and p_T student's and teacher's at temperature T (Hinton et al. 2015, section 2: T^2
    keeps the soft gradient's size whatever T is). Several teachers are an ensemble: p_T is the mean of theirs.

    Args:
        hidden: the student's vectors (..., width), as for ``linear_cross_entropy``.
        weight: its head (vocab, width).
        teacher: vectors (..., width of its own) and head (vocab, width of its own) of the teacher, or of each of
            several; no gradient.
        targets: (...) int64.
        mask: (...) bool, the targets that count; None means all.
        temperature: T.
        share: of the soft loss.
        reverse: share of KL(q_T || p_T) in the soft loss, which then seeks modes of the teacher and need not cover all.
        caps: what bounds the student's and each teacher's logits softly (``Model.cap``).

    Returns:
        the mixed loss, differentiable; hard; soft. All are sums in nats, fp32.
    """
    rows, labels = hidden.flatten(0, -2), targets.flatten()
    keep = None if mask is None else mask.flatten()
    others = [(vectors.detach().flatten(0, -2), head.detach()) for vectors, head in _several(teacher)]
    mixture = Mixture(temperature, share, reverse, caps)
    if torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad):
        flat = [tensor for other in others for tensor in other]
        return _Distillation.apply(rows, weight, labels, keep, mixture, *flat)  # type: ignore[no-any-return, no-untyped-call]
    losses, _, _ = _chunks(rows.detach(), weight.detach(), others, labels, keep, mixture, (False, False))
    return _mixed(losses, share)


def reference_linear_distillation(
    hidden: Tensor,
    weight: Tensor,
    teacher: Teacher | Sequence[Teacher],
    targets: Tensor,
    mask: Tensor | None = None,
    *,
    temperature: float = 1.0,
    share: float = 1.0,
    reverse: float = 0.0,
    caps: tuple[float | None, ...] = (),
) -> Tensor:
    """The mixed loss in torch's operations, all logits at once: what the tests believe."""
    mixture = Mixture(temperature, share, reverse, caps)
    pairs = [(hidden, weight), *_several(teacher)]
    scores = [F.linear(vectors, head.to(vectors.dtype)) for vectors, head in pairs]
    bounds = [mixture.cap(number) for number in range(len(scores))]
    ours, *theirs = [s if cap is None else softly_capped(s, cap) for s, cap in zip(scores, bounds, strict=True)]
    hard = plain.cross_entropy(ours, targets)
    log_q = torch.log_softmax(ours.to(hard.dtype) / temperature, -1)
    p = torch.stack([torch.softmax(each.to(hard.dtype) / temperature, -1) for each in theirs]).mean(0)
    forward, backward = ((a * (a.log() - b)).sum(-1) for a, b in ((p, log_q), (log_q.exp(), p.log())))
    soft = temperature**2 * ((1 - reverse) * forward + reverse * backward)
    losses = (1 - share) * hard + share * soft
    return (losses if mask is None else losses * mask).sum()


def _several(teacher: Teacher | Sequence[Teacher]) -> Sequence[Teacher]:
    return [teacher] if isinstance(teacher[0], Tensor) else teacher  # type: ignore[list-item,return-value]


def _mixed(losses: Tensor, share: float) -> tuple[Tensor, Tensor, Tensor]:
    hard, soft = losses.sum(0)
    return (1 - share) * hard + share * soft, hard, soft


def _chunks(
    hidden: Tensor,
    weight: Tensor,
    teachers: Sequence[Teacher],
    targets: Tensor,
    mask: Tensor | None,
    mixture: Mixture,
    wanted: tuple[bool, bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """(tokens, 2) hard and soft losses, and the gradients of the mixed sum for hidden and weight where ``wanted``."""
    dtype, (to_hidden, to_weight) = hidden.dtype, wanted
    cast = weight.to(dtype)
    heads = [head.to(vectors.dtype) for vectors, head in teachers]
    losses = hidden.new_empty(len(hidden), 2, dtype=plain._accumulator(dtype))
    grad_hidden = torch.empty_like(hidden if to_hidden else hidden[:0])
    grad_weight = torch.zeros_like(weight if to_weight else weight[:0])
    most = plain.CHUNK if hidden.device.type == "cpu" else plain.LAUNCH
    size = max(1, most // ((1 + len(teachers)) * dtype.itemsize * len(weight)))
    for start in range(0, len(hidden), size):
        chunk = slice(start, start + size)
        ours = hidden[chunk] @ cast.t()
        theirs = [vectors[chunk] @ head.t() for (vectors, _), head in zip(teachers, heads, strict=True)]
        slopes = [
            None if (cap := mixture.cap(number)) is None else plain.cap_in_place(x, cap)
            for number, x in enumerate((ours, *theirs))
        ]
        keep = None if mask is None else mask[chunk]
        losses[chunk] = _losses_in_place(ours, theirs, targets[chunk], keep, mixture, any(wanted))
        if slopes[0] is not None and any(wanted):
            ours *= slopes[0]
        if to_hidden:
            torch.mm(ours, cast, out=grad_hidden[chunk])
        if to_weight and dtype == weight.dtype:
            grad_weight.addmm_(ours.t(), hidden[chunk])
        elif to_weight:
            grad_weight += ours.t() @ hidden[chunk]
    return losses, grad_hidden, grad_weight


def _losses_in_place(
    ours: Tensor, theirs: Sequence[Tensor], targets: Tensor, mask: Tensor | None, mixture: Mixture, gradient: bool
) -> Tensor:
    """Hard and soft losses of a chunk (rows, 2); with ``gradient`` the student's logits become their own gradient.

    That is (1 - share) (q - one-hot) + share T (q_T - p_T), exactly 0 where both models agree and share is 1; the
    reverse divergence has q_T (log q_T - log p_T - KL(q_T || p_T)) in the place of q_T - p_T.
    """
    exact, share, reverse, temperature = (
        plain._accumulator(ours.dtype),
        mixture.share,
        mixture.reverse,
        mixture.temperature,
    )
    losses = ours.new_empty(len(ours), 2, dtype=exact)
    size = max(1, plain.TILE // ours.shape[1]) if ours.device.type == "cpu" else len(ours)
    for start in range(0, len(ours), size):
        tile = slice(start, start + size)
        scores, column = ours[tile].to(exact), targets[tile, None]
        log_q = torch.log_softmax(scores, -1)
        losses[tile, 0] = -log_q.gather(1, column).squeeze(1)
        soft_q = log_q if temperature == 1 else torch.log_softmax(scores / temperature, -1)
        soft_p = _log_mean([torch.log_softmax(each[tile].to(exact) / temperature, -1) for each in theirs])
        divergence, slope = _divergence(soft_q, soft_p, reverse)
        losses[tile, 1] = temperature**2 * divergence
        if gradient:
            slope.mul_(share * temperature)
            if share < 1:
                slope.add_(log_q.exp(), alpha=1 - share)
                slope.scatter_add_(1, column, slope.new_full((), share - 1).expand(column.shape))
            ours[tile] = slope if mask is None else slope * mask[tile, None]
    return losses if mask is None else losses * mask[:, None]


def _log_mean(logs: Sequence[Tensor]) -> Tensor:
    """The logarithm of the mean of probabilities whose logarithms are given."""
    return logs[0] if len(logs) == 1 else torch.logsumexp(torch.stack(list(logs)), 0) - math.log(len(logs))


def _divergence(log_q: Tensor, log_p: Tensor, reverse: float) -> tuple[Tensor, Tensor]:
    """(rows,) divergences of two (rows, vocab) logarithms of probabilities, and their gradients for q's logits."""
    p, q = log_p.exp(), log_q.exp()
    value, slope = (p * (log_p - log_q)).sum(-1), q - p
    if not reverse:
        return value, slope
    ratio = log_q - log_p
    back = (q * ratio).sum(-1)
    bend = q * (ratio - back[:, None])
    return (1 - reverse) * value + reverse * back, slope.mul_(1 - reverse).add_(bend, alpha=reverse)


class _Distillation(Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        mask: Tensor | None,
        mixture: Mixture,
        *teachers: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.wanted, ctx.others = ctx.needs_input_grad[:2], 3 + len(teachers)
        pairs = list(zip(teachers[::2], teachers[1::2], strict=True))
        losses, grad_hidden, grad_weight = _chunks(hidden, weight, pairs, targets, mask, mixture, ctx.wanted)
        ctx.save_for_backward(grad_hidden, grad_weight)
        mixed, hard, soft = _mixed(losses, mixture.share)
        ctx.mark_non_differentiable(hard, soft)
        return mixed, hard, soft

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> Any:
        grad_hidden, grad_weight = ctx.saved_tensors
        to_hidden, to_weight = ctx.wanted
        down = grad_hidden * grad.to(grad_hidden.dtype) if to_hidden else None
        return down, grad_weight * grad if to_weight else None, *(None,) * ctx.others

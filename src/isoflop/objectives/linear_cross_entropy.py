"""Cross-entropy of a linear head, chunk by chunk: the logits of all tokens never exist in fp32.

The gradient is computed in the forward pass, while a chunk's logits are at hand, so that the backward only scales.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from ..core.contracts import Pattern
from ..core.cost import Cost
from ..models.attend import softly_capped
from ..models.kernels import first_order, functional

CHUNK = 32 << 20
"""Most bytes of logits held at once on a CPU, in the products' dtype. Less costs products and sums of gradients: with
8 MiB a step took 4 % longer on a processor with matrix units."""
TILE = 1 << 18
"""Most logits at once in a CPU's softmax, in fp32: 1 MiB, which stays in the nearest cache between its passes."""
LAUNCH = 64 << 20
"""Most bytes of logits held at once, and not tiled, elsewhere: there every operation costs a launch."""


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    mask: Tensor | None = None,
    reduction: Literal["sum", "none"] = "sum",
    cap: float | None = None,
    best: Tensor | None = None,
) -> Tensor:
    """-log softmax(hidden @ weight')[target], in nats and fp32, without holding all logits.

    Args:
        hidden: (..., width), fp32 or bf16: the products' dtype.
        weight: (vocab, width), the fp32 parameter; cast to the products' dtype here.
        targets: (...) int64 in [0, vocab), also where they do not count.
        mask: (...) bool, the targets that count; None means all. The others' losses and gradients are 0.
        reduction: "sum" over tokens, differentiable; "none": (...) losses of each token, without gradient.
        cap: of a model that bounds its logits softly (``Model.cap``).
        best: (...) fp32, filled with the log of each token's largest probability, which costs nothing more.
    """
    if functional():
        assert best is None, "torch.func knows no tensors that are filled"
        losses = reference_linear_cross_entropy(hidden, weight, targets, mask, cap)
        return losses.sum() if reduction == "sum" else losses
    rows, labels = hidden.flatten(0, -2), targets.flatten()
    keep = None if mask is None else mask.flatten()
    if reduction == "sum" and torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad):
        return _LinearCrossEntropy.apply(rows, weight, labels, keep, cap, best)  # type: ignore[no-any-return, no-untyped-call]
    losses, *_ = _chunks(rows.detach(), weight.detach(), labels, keep, (False, False), cap, best)
    return losses.sum() if reduction == "sum" else losses.view(targets.shape)


def reference_linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, mask: Tensor | None = None, cap: float | None = None
) -> Tensor:
    """The losses of each token in torch's operations, all logits at once: what the tests believe, and what
    ``torch.func`` differentiates."""
    logits = F.linear(hidden, weight.to(hidden.dtype))
    return cross_entropy(logits if cap is None else softly_capped(logits, cap), targets, mask)


def cross_entropy(logits: Tensor, targets: Tensor, mask: Tensor | None = None) -> Tensor:
    """-log softmax(logits)[target] of each token, in nats and fp32, all logits (..., vocab) at once."""
    scores = logits.to(_accumulator(logits.dtype)).flatten(0, -2)
    losses = F.cross_entropy(scores, targets.flatten(), reduction="none").view(targets.shape)
    return losses if mask is None else losses * mask


def likeliest(hidden: Tensor, weight: Tensor) -> Tensor:
    """argmax of hidden @ weight', (..., width) -> int64 (...), chunk by chunk; without gradient.

    A cap changes no order.
    """
    rows, cast = hidden.detach().flatten(0, -2), weight.detach().to(hidden.dtype)
    chunks = torch.split(rows, _rows_at_once(hidden, len(weight)))
    return torch.cat([(chunk @ cast.t()).argmax(-1) for chunk in chunks]).view(hidden.shape[:-1])


def _rows_at_once(hidden: Tensor, vocab: int) -> int:
    """How many tokens' logits are held at once."""
    most = CHUNK if hidden.device.type == "cpu" else LAUNCH
    return max(1, most // (hidden.dtype.itemsize * vocab))


def _accumulator(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _chunks(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    mask: Tensor | None,
    wanted: tuple[bool, bool],
    cap: float | None,
    best: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses (tokens,), and the gradients of their sum for hidden and weight, each empty where it is not ``wanted``."""
    dtype, exact = hidden.dtype, _accumulator(hidden.dtype)
    cast = weight.to(dtype)
    losses = hidden.new_empty(len(hidden), dtype=exact)
    to_hidden, to_weight = wanted
    grad_hidden = torch.empty_like(hidden if to_hidden else hidden[:0])
    grad_weight = weight.new_empty(0)
    size = _rows_at_once(hidden, len(weight))
    for start in range(0, len(hidden), size):
        chunk = slice(start, start + size)
        logits = hidden[chunk] @ cast.t()
        slope = None if cap is None else cap_in_place(logits, cap)
        kept = None if mask is None else mask[chunk]
        largest = None if best is None else best.view(-1)[chunk]
        losses[chunk] = _softmax_in_place(logits, targets[chunk], kept, any(wanted), largest)
        if slope is not None and any(wanted):
            logits *= slope
        if to_hidden:
            torch.mm(logits, cast, out=grad_hidden[chunk])
        if not to_weight:
            continue
        if start == 0:
            grad_weight = (logits.t() @ hidden[chunk]).to(weight.dtype)
        elif dtype == weight.dtype:
            grad_weight.addmm_(logits.t(), hidden[chunk])
        else:
            grad_weight += logits.t() @ hidden[chunk]
    return losses, grad_hidden, grad_weight


def cap_of(model: Any) -> float | None:
    """What bounds a model's logits softly; None: nothing does."""
    return getattr(model, "cap", None)


def pass_cost(policy: Any, rows: int, fed: int, pattern: Pattern | None, predicted: int, ids: int) -> Cost:
    """What a forward pass costs whose logits are computed in part.

    Args:
        policy: a ``Model``.
        rows: of the batch.
        fed: positions of each.
        pattern: who sees whom among them.
        predicted: positions of each whose logits are computed.
        ids: of which so many are.
    """
    vocab, width = policy.head.shape
    left_out = 2 * rows * width * (fed * vocab - predicted * ids)
    forward: Cost = policy.flops(rows, fed, pattern).forward
    return forward - Cost(left_out, left_out)


def cap_in_place(logits: Tensor, cap: float) -> Tensor:
    """Bound logits softly; what is returned is the slope by which their gradient must be multiplied."""
    unit = logits.div_(cap).tanh_()
    slope = 1 - unit.square()
    logits.mul_(cap)
    return slope


def _softmax_in_place(
    logits: Tensor, targets: Tensor, mask: Tensor | None, gradient: bool, best: Tensor | None = None
) -> Tensor:
    """Losses of a chunk; with ``gradient`` its logits become their own gradient, softmax - one-hot.

    ``best`` is filled with the log of each token's largest probability.
    """
    exact = _accumulator(logits.dtype)
    losses = logits.new_empty(len(logits), dtype=exact)
    here = logits.device.type == "cpu"
    in_place = here and logits.dtype == exact
    size = max(1, TILE // logits.shape[1]) if here else len(logits)
    for start in range(0, len(logits), size):
        tile = slice(start, start + size)
        scores, column = logits[tile].to(exact), targets[tile, None]
        top, own = scores.amax(-1), scores.gather(1, column).squeeze(1)
        p = torch.softmax(scores, -1, out=scores if here else None)  # a CPU's kernel is done with a row as it writes it
        # log sum exp = largest score - log of its probability, which is at least 1 / vocab: no overflow, no log 0
        largest = p.amax(-1).log_()
        if best is not None:
            best[tile] = largest
        losses[tile] = top.sub_(largest).sub_(own)
        if gradient:
            p.scatter_add_(1, column, p.new_full((), -1.0).expand(column.shape))
            if mask is not None:
                p.mul_(mask[tile, None])
            if not in_place:
                logits[tile] = p
    return losses if mask is None else losses * mask


class _LinearCrossEntropy(Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        mask: Tensor | None,
        cap: float | None,
        best: Tensor | None,
    ) -> Tensor:
        ctx.wanted = ctx.needs_input_grad[:2]
        losses, grad_hidden, grad_weight = _chunks(hidden, weight, targets, mask, ctx.wanted, cap, best)
        ctx.save_for_backward(grad_hidden, grad_weight)
        return losses.sum()

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor) -> Any:
        grad_hidden, grad_weight = ctx.saved_tensors
        to_hidden, to_weight = ctx.wanted
        down = grad_hidden * grad.to(grad_hidden.dtype) if to_hidden else None
        return down, grad_weight * grad if to_weight else None, None, None, None, None

"""Where a handwritten gradient pays: the weights' cast, norm, rotation, causal attention, gated unit.

Each function has a plain form in torch's operations, ``reference_*``: the tests believe it, compiled code uses it (the
compiler fuses it better than by hand), and so does ``torch.func`` (which differentiates it in its own ways). Eager code
uses the handwritten form: fewer passes over memory, no copies of what autograd would keep; its gradient can be taken
once. Products run in the dtype of their operands (fp32 or bf16) and accumulate in fp32.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from ..ledger.formulas import causal_pairs

# torch's annotations of Function are untyped; every class below is private and reached through a typed function.
# mypy: disable-error-code="no-untyped-call, no-any-return, misc"


def plain() -> bool:
    """Whether the plain forms are wanted: while compiling, and inside ``torch.func`` (jvp, vmap, hessians)."""
    return torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is not None


def first_order(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Refuse a graph of the gradient itself (``create_graph=True``), which a handwritten backward does not record."""

    @functools.wraps(backward)
    def checked(ctx: Any, *grads: Tensor) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError("a handwritten gradient can be taken once; use torch.func for higher derivatives")
        return backward(ctx, *grads)

    return checked


def fuse(weights: tuple[Tensor, ...], dtype: torch.dtype) -> Tensor:
    """Matrices (n_i, d), stacked to (sum n_i, d) in ``dtype``: one product instead of several, one cast a step."""
    if weights[0].dtype == dtype:
        return weights[0] if len(weights) == 1 else torch.cat(weights)
    if plain():
        return torch.cat([weight.to(dtype) for weight in weights])
    return _Fuse.apply(dtype, *weights)


class _Fuse(Function):
    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *weights: Tensor) -> Tensor:
        ctx.rows, ctx.dtype = [weight.shape[0] for weight in weights], weights[0].dtype
        fused = weights[0].new_empty(sum(ctx.rows), weights[0].shape[1], dtype=dtype)
        for part, weight in zip(fused.split(ctx.rows), weights, strict=True):
            part.copy_(weight)
        return fused

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor) -> Any:
        return (None, *grad.to(ctx.dtype).split(ctx.rows))


# ---------------------------------------------------------------- norm


def rms_norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """x / rms(x) * weight over the last dimension, computed in x's dtype and returned in ``dtype``.

    Zhang and Sennrich 2019, arXiv 1910.07467, equation 4.
    """
    if plain():
        return reference_rms_norm(x, weight, eps, dtype)
    return _RmsNorm.apply(x, weight, eps, dtype)


def reference_rms_norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    return (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight).to(dtype)


class _RmsNorm(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        scale = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight).to(dtype)

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight, scale = ctx.saved_tensors
        grad = grad.to(x.dtype, copy=True)
        unit = x * scale
        product = grad * unit
        grad_weight = product.flatten(0, -2).sum(0)
        mean = product.mul_(weight).mean(-1, keepdim=True)
        grad_x = grad.mul_(weight).addcmul_(unit, mean, value=-1).mul_(scale)
        return grad_x, grad_weight, None, None


# ---------------------------------------------------------------- rotation


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the halves (a, b) of each vector by its position's angles: (a cos - b sin, b cos + a sin).

    Args:
        x: (batch, length, heads, d), d even, any strides.
        cos, sin: (length, d / 2).

    Returns:
        (heads, batch, length, d), contiguous: the layout in which attention is one batched product.
    """
    if plain():
        return reference_rotate(x, cos, sin)
    return _Rotate.apply(x, cos, sin)


def reference_rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.permute(2, 0, 1, 3).chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


def _turn(x: Tensor, cos: Tensor, sin: Tensor, out: Tensor, sign: int) -> None:
    (a, b), (turned_a, turned_b) = x.chunk(2, -1), out.chunk(2, -1)
    torch.mul(a, cos, out=turned_a).addcmul_(b, sin, value=-sign)
    torch.mul(b, cos, out=turned_b).addcmul_(a, sin, value=sign)


class _Rotate(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        batch, length, heads, d = x.shape
        out = x.new_empty(heads, batch, length, d)
        _turn(x.permute(2, 0, 1, 3), cos, sin, out, 1)
        return out

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor) -> Any:
        cos, sin = ctx.saved_tensors
        heads, batch, length, d = grad.shape
        out = grad.new_empty(batch, length, heads, d)
        _turn(grad, cos, sin, out.permute(2, 0, 1, 3), -1)
        return out, None, None


# ---------------------------------------------------------------- attention


def block_rows(length: int) -> int:
    """Queries of one block of explicit causal attention: a block meets only the keys up to its own end.

    Small blocks skip more of the masked half, large ones make better products; chosen by measurement.
    """
    return 64 if length <= 256 else 128


def block_pairs(length: int) -> int:
    """Pairs (query, key) that explicit causal attention executes on ``length`` tokens."""
    rows = block_rows(length)
    whole, rest = divmod(length, rows)
    return rows * rows * causal_pairs(whole) + rest * length


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k' / sqrt(d)) v, causal unless a mask is given.

    Args:
        q, k, v: (heads, batch, length, d), the same number of heads.
        mask: bool, True where a query (row) may see a key (column), broadcastable to (batch, length, length);
            each query must see at least one key.

    Returns:
        (heads, batch, length, d).
    """
    if q.device.type != "cpu":
        mask = None if mask is None else mask.unsqueeze(-3)
        q, k, v = (x.transpose(0, 1) for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None).transpose(0, 1)
    heads, batch, length, d = q.shape
    mask = None if mask is None else mask.expand(batch, length, length).repeat(heads, 1, 1)
    q, k, v = ((x.reshape(heads * batch, length, d)) for x in (q, k, v))
    out = reference_attend(q, k, v, mask) if plain() else _Attend.apply(q, k, v, mask)
    return out.view(heads, batch, length, d)


def _blocks(length: int, masked: bool) -> list[tuple[int, int, int]]:
    """(first query, end of queries, end of keys) of each block."""
    if masked:
        return [(0, length, length)]
    rows = block_rows(length)
    return [(start, min(start + rows, length), min(start + rows, length)) for start in range(0, length, rows)]


def _hide(scores: Tensor, start: int, mask: Tensor | None) -> Tensor:
    """Put -inf in place on what the block's queries, the first at ``start``, may not see."""
    if mask is not None:
        return scores.masked_fill_(~mask, -torch.inf)
    rows = scores.shape[1]
    future = torch.full((rows, rows), -torch.inf, dtype=scores.dtype, device=scores.device).triu_(1)
    scores[:, :, start:].add_(future)
    return scores


def _join(blocks: list[Tensor]) -> Tensor:
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks, 1)


def reference_attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    q, outs = q * q.shape[-1] ** -0.5, []
    for start, end, keys in _blocks(q.shape[1], mask is not None):
        scores = torch.bmm(q[:, start:end], k[:, :keys].transpose(1, 2))
        outs.append(torch.bmm(torch.softmax(_hide(scores, start, mask), -1), v[:, :keys]))
    return _join(outs)


class _Attend(Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        q, outs, probabilities = q * q.shape[-1] ** -0.5, [], []
        ctx.blocks = _blocks(q.shape[1], mask is not None)
        for start, end, keys in ctx.blocks:
            scores = torch.bmm(q[:, start:end], k[:, :keys].transpose(1, 2))
            p = torch.softmax(_hide(scores, start, mask), -1)
            outs.append(torch.bmm(p, v[:, :keys]))
            probabilities.append(p)
        ctx.save_for_backward(q, k, v, *probabilities)
        return _join(outs)

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor) -> Any:
        q, k, v, *probabilities = ctx.saved_tensors
        grads_q, grad_k, grad_v = [], k.new_empty(0), v.new_empty(0)
        for (start, end, keys), p in zip(reversed(ctx.blocks), reversed(probabilities), strict=True):
            block = grad[:, start:end]
            grad_p = torch.bmm(block, v[:, :keys].transpose(1, 2))
            grad_scores = torch._softmax_backward_data(grad_p, p, -1, p.dtype)
            grads_q.append(torch.bmm(grad_scores, k[:, :keys]))
            to_k, to_v = torch.bmm(grad_scores.transpose(1, 2), q[:, start:end]), torch.bmm(p.transpose(1, 2), block)
            if keys == k.shape[1]:  # the last block, which meets every key, comes first
                grad_k, grad_v = to_k, to_v
            else:
                grad_k[:, :keys] += to_k
                grad_v[:, :keys] += to_v
        return _join(grads_q[::-1]).mul_(q.shape[-1] ** -0.5), grad_k, grad_v, None


# ---------------------------------------------------------------- gated unit


def gated_silu(x: Tensor) -> Tensor:
    """silu(a) * b of the halves (a, b) of (..., 2f): (..., f). Shazeer 2020, arXiv 2002.05202, equation 5."""
    return reference_gated_silu(x) if plain() else _GatedSilu.apply(x)


def reference_gated_silu(x: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return F.silu(a) * b


class _GatedSilu(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        silu = F.silu(a)
        ctx.save_for_backward(x, silu)
        return silu * b

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, silu = ctx.saved_tensors
        out = torch.empty_like(x)
        (a, b), (grad_a, grad_b) = x.chunk(2, -1), out.chunk(2, -1)
        torch.mul(grad, silu, out=grad_b)
        torch.ops.aten.silu_backward.grad_input(grad * b, a, grad_input=grad_a)
        return out

"""Attention on a CPU: explicit products over blocks of queries, with a handwritten gradient.

Faster than torch's flash attention there at every length tried (three times at 256 tokens in bf16). A block of queries
meets only the keys from the first to the last that one of its queries sees, so most of what a pattern hides is never
computed: of the causal one's masked half, and of what lies outside a window. Everything is read from and written to the
layouts of the projections, so that autograd copies nothing.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from ..core.contracts.pattern import Bools, Causal, Documents, Pattern, Seen
from ..ledger.formulas import causal_pairs
from .kernels import first_order, functional, plain

# mypy: disable-error-code="no-untyped-call, no-any-return, misc"


def block_rows(length: int) -> int:
    """Queries of one block. Small blocks skip more of the masked half, large ones make better products.

    Chosen for CPUs; no stored timing compares sizes (``benchmarks/train_step.py`` times a step that holds them).
    """
    return 64 if length <= 128 else 128


def block_pairs(length: int, pattern: Pattern | None = None) -> int:
    """Pairs (query, key) that a head executes on ``length`` tokens; None is causal.

    Args:
        length: of the sequence.
        pattern: who sees whom; None is causal.

    Example:
        >>> block_pairs(256), 256 * 257 // 2, 256 * 256
        (49152, 32896, 65536)
    """
    if pattern is not None:
        return sum((block.end - block.start) * (block.last - block.first) for block in blocks(length, pattern))
    rows = block_rows(length)
    whole, rest = divmod(length, rows)
    return rows * rows * causal_pairs(whole) + rest * length


@dataclass(frozen=True)
class QueryBlock:
    """Queries ``start`` to ``end`` and the keys ``first`` to ``last`` that they meet.

    ``seen`` (queries, keys) marks those that they see; None: causal.

    Example:
        >>> first, second = blocks(256, None)
        >>> (second.start, second.end), (second.first, second.last)
        ((128, 256), (0, 256))
    """

    start: int
    end: int
    first: int
    last: int
    seen: Bools | None = None


def blocks(length: int, pattern: Pattern | None) -> list[QueryBlock]:
    """The blocks of queries in order; None is causal.

    Args:
        length: queries of a sequence.
        pattern: who sees whom.

    Example:
        >>> [(block.start, block.last) for block in blocks(256, None)]
        [(0, 128), (128, 256)]
    """
    if torch.compiler.is_compiling():  # the compiler traces a function once anyway, and warns of caches
        return _blocks(length, pattern)
    return _known_blocks(length, pattern)


def _blocks(length: int, pattern: Pattern | None) -> list[QueryBlock]:
    rows = block_rows(length)
    starts = range(0, length, rows)
    if pattern is None:
        return [QueryBlock(start, min(start + rows, length), 0, min(start + rows, length)) for start in starts]
    found = []
    for start in starts:
        end = min(start + rows, length)
        seen = pattern.rows(start, end, length)
        columns = np.flatnonzero(seen.any(0))
        first, last = int(columns[0]), int(columns[-1]) + 1
        found.append(QueryBlock(start, end, first, last, np.ascontiguousarray(seen[:, first:last])))
    return found


_known_blocks = functools.lru_cache(64)(_blocks)


Angles = tuple[Tensor, Tensor] | None
"""Cosine and sine (length, d / 2) of the angles by which each position's pairs turn; None: nothing turns."""


def attend(
    qkv: Tensor, angles: Angles, heads: int, seen: Seen = None, *, scale: float | None = None, cap: float | None = None
) -> Tensor:
    """softmax(s R q (R k)') v, where R turns the halves of a vector by its position's angles.

    Causal attention by hand, for CPUs: the half that a causal mask hides is mostly not computed, which no fused kernel
    there does. ``fused_attend`` serves other devices.

    Args:
        qkv: (batch, length, heads + 2 kv_heads, d): queries, keys, values. kv_heads divides heads; d is even where
            something turns.
        angles: of each position.
        heads: query heads.
        seen: who sees whom; None is causal. Each query must see at least one key.
        scale: s, by default 1 / sqrt(d).
        cap: bounds the scores softly, as cap tanh(scores / cap). Such scores have no handwritten gradient.

    Returns:
        (batch, length, heads, d).

    Example:
        >>> qkv = torch.randn(2, 5, 4 + 2 * 2, 8)
        >>> still = (torch.ones(5, 4), torch.zeros(5, 4))
        >>> attend(qkv, still, heads=4).shape
        torch.Size([2, 5, 4, 8])
    """
    scale = qkv.shape[-1] ** -0.5 if scale is None else scale
    if qkv.device.type != "cpu" and not functional() and cap is None:
        return fused_attend(qkv, angles, heads, seen, scale)
    plan, mask = plan_of(seen, qkv.shape[1])
    if plain() or cap is not None:
        return reference_attend(qkv, angles, heads, plan, mask, scale=scale, cap=cap)
    return _Attend.apply(qkv, *(angles or (None, None)), heads, plan, mask, scale)


def plan_of(seen: Seen, length: int) -> tuple[list[QueryBlock], Tensor | None]:
    """The blocks to compute, and a mask ((batch,) length, length) of what is hidden within them besides."""
    if isinstance(seen, Tensor):  # anything at all: one block of everything
        return [QueryBlock(0, length, 0, length, np.ones((length, length), bool))], seen
    if isinstance(seen, Documents):
        return blocks(length, seen.pattern), seen.same
    return blocks(length, seen), None


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the halves (a, b) of (batch, length, heads, d) vectors: (a cos - b sin, b cos + a sin).

    Su et al. 2021, arXiv 2104.09864, equation 34, with halves for its pairs.

    Args:
        x: (batch, length, heads, d), d even.
        cos: of the angles (length, d / 2).
        sin: of the angles (length, d / 2).

    Example:
        >>> quarter = torch.tensor([[0.0]]), torch.tensor([[1.0]])
        >>> rotate(torch.tensor([[[[1.0, 0.0]]]]), *quarter).tolist()
        [[[[0.0, 1.0]]]]
    """
    (a, b), cos, sin = x.chunk(2, -1), cos[:, None], sin[:, None]
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


def rotated(qkv: Tensor, angles: Angles, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries and keys, turned, and values: (batch, length, heads or kv_heads, d)."""
    kv_heads = (qkv.shape[2] - heads) // 2
    qk, v = torch.split(qkv, [heads + kv_heads, kv_heads], 2)
    q, k = torch.split(qk if angles is None else rotate(qk, *angles), [heads, kv_heads], 2)
    return q, k, v


def turn_(x: Tensor, cos: Tensor, sin: Tensor) -> None:
    """``rotate`` in place, for whom no gradient is wanted: (length, 1, d) tables (cos, cos) and (-sin, sin)."""
    halves_swapped = x.roll(x.shape[-1] // 2, -1)
    x.mul_(cos).addcmul_(halves_swapped, sin)


def fused_attend(qkv: Tensor, angles: Angles, heads: int, seen: Seen = None, scale: float | None = None) -> Tensor:
    """Whatever torch has for the device: flash attention on a GPU. Compiles, too."""
    q, k, v = (x.transpose(1, 2) for x in rotated(qkv, angles, heads))
    mask = None if seen is None else dense_mask(seen, qkv.shape[1], qkv.device).unsqueeze(-3)
    grouped = q.shape[1] > k.shape[1]
    out = F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None, scale=scale, enable_gqa=grouped)
    return out.transpose(1, 2)


def capped_attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None, cap: float) -> Tensor:
    """softmax(capped(s q k')) v of (batch, heads or kv_heads, length, d), which torch has no fused form of.

    ``mask`` (queries, keys) marks what is seen; None: everything.
    """
    copies = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(copies, 1), v.repeat_interleave(copies, 1)
    scores = softly_capped(q * (q.shape[-1] ** -0.5 if scale is None else scale) @ k.transpose(2, 3), cap)
    if mask is not None:
        scores.masked_fill_(~mask, -torch.inf)
    return torch.softmax(scores, -1) @ v


def dense_mask(seen: Seen, length: int, device: torch.device) -> Tensor:
    """Who sees whom as a bool tensor (length, length) or (batch, length, length)."""
    if isinstance(seen, Tensor):
        return seen
    if isinstance(seen, Documents):
        return seen.same & dense_mask(seen.pattern, length, device)
    if seen is None:
        return torch.ones(length, length, dtype=torch.bool, device=device).tril_()
    return torch.from_numpy(seen.dense(length).copy()).to(device)


def beyond_past(seen: Any) -> str:
    """What a layer that sees each position and those before it cannot obey, in words; empty where it can.

    Example:
        >>> beyond_past(Causal()), beyond_past(torch.ones(2, 2).bool())
        ('', 'a mask by which a position sees a later one, or does not see itself')
    """
    rule = seen.pattern if isinstance(seen, Documents) else seen
    if isinstance(rule, Tensor):
        past = not rule.triu(1).any() and bool(rule.diagonal(dim1=-2, dim2=-1).all())
        return "" if past else "a mask by which a position sees a later one, or does not see itself"
    return "" if rule is None or isinstance(rule, Causal) else f"the pattern {rule.name}"


def reference_attend(
    qkv: Tensor,
    angles: Angles,
    heads: int,
    plan: list[QueryBlock] | None = None,
    mask: Tensor | None = None,
    *,
    scale: float | None = None,
    cap: float | None = None,
) -> Tensor:
    batch, length, _, d = qkv.shape
    q, k, v = rotated(qkv, angles, heads)
    copies = heads // k.shape[2]
    q, k, v = q * (d**-0.5 if scale is None else scale), k.repeat_interleave(copies, 2), v.repeat_interleave(copies, 2)
    q, k, v = (x.transpose(1, 2).reshape(batch * heads, length, d) for x in (q, k, v))
    shown = None if mask is None else mask.expand(batch, length, length).repeat_interleave(heads, 0)
    outs = []
    for block in blocks(length, None) if plan is None else plan:
        queries, keys = slice(block.start, block.end), slice(block.first, block.last)
        scores = torch.bmm(q[:, queries], k[:, keys].transpose(1, 2))
        scores = _hide(scores if cap is None else softly_capped(scores, cap), block, shown)
        outs.append(torch.bmm(torch.softmax(scores, -1), v[:, keys]))
    return torch.cat(outs, 1).view(batch, heads, length, d).transpose(1, 2)


def softly_capped(scores: Tensor, cap: float) -> Tensor:
    """cap tanh(scores / cap): nearly the scores where they are small, between -cap and cap wherever they are.

    Gemma 2, arXiv 2408.00118, section 2.
    """
    return cap * torch.tanh(scores / cap)


def _hide(scores: Tensor, block: QueryBlock, mask: Tensor | None) -> Tensor:
    """Put -inf in place on what the block's queries may not see."""
    if block.seen is None:
        scores[:, :, block.start :].add_(_future(scores.shape[1], scores.dtype, scores.device))
    elif not block.seen.all():
        scores.masked_fill_(torch.from_numpy(~block.seen).to(scores.device), -torch.inf)
    if mask is not None:
        scores.masked_fill_(~mask[:, block.start : block.end, block.first : block.last], -torch.inf)
    return scores


def _future(rows: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """-inf (rows, rows) above the diagonal, 0 elsewhere."""
    if plain():  # what is made within a transform of torch.func must not outlive it
        return _made_future(rows, dtype, device)
    return _known_future(rows, dtype, device)


def _made_future(rows: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.full((rows, rows), -torch.inf, dtype=dtype, device=device).triu_(1)


_known_future = functools.lru_cache(16)(_made_future)


def _flat(x: Tensor) -> Tensor:
    """(batch, length, heads, d) -> (heads * batch, length, d), contiguous: the layout of batched products."""
    return x.permute(2, 0, 1, 3).reshape(-1, x.shape[1], x.shape[3])


def _unflat(x: Tensor, batch: int) -> Tensor:
    """The way back, as a view."""
    return x.view(-1, batch, *x.shape[1:]).permute(1, 2, 0, 3)


def _turn(x: Tensor, cos: Tensor, sin: Tensor, out: Tensor, sign: int = 1) -> Tensor:
    """``rotate`` by ``sign`` times the angles, into ``out`` (of any layout)."""
    (a, b), (turned_a, turned_b), cos, sin = x.chunk(2, -1), out.chunk(2, -1), cos[:, None], sin[:, None]
    torch.mul(a, cos, out=turned_a).addcmul_(b, sin, value=-sign)
    torch.mul(b, cos, out=turned_b).addcmul_(a, sin, value=sign)
    return out


def _turned(x: Tensor, cos: Tensor | None, sin: Tensor | None, scale: float = 1.0) -> Tensor:
    """(batch, length, heads, d), turned and scaled, as (heads * batch, length, d)."""
    if cos is None or sin is None:
        return _flat(x if scale == 1 else x * scale)
    if scale != 1:
        cos, sin = cos * scale, sin * scale
    batch, length, heads, d = x.shape
    out = x.new_empty(heads * batch, length, d)
    _turn(x, cos, sin, _unflat(out, batch))
    return out


def _turn_back(x: Tensor, cos: Tensor | None, sin: Tensor | None, out: Tensor, scale: float = 1.0) -> None:
    """The gradient of ``_turned``, in the layout of its input, into ``out``."""
    if cos is None or sin is None:
        out.copy_(x if scale == 1 else x * scale)
    elif scale == 1:
        _turn(x, cos, sin, out, -1)
    else:
        _turn(x, cos * scale, sin * scale, out, -1)


def _at(table: Tensor | None, rows: slice) -> Tensor | None:
    return None if table is None else table[rows]


class _Attend(Function):
    @staticmethod
    def forward(
        ctx: Any,
        qkv: Tensor,
        cos: Tensor | None,
        sin: Tensor | None,
        heads: int,
        plan: list[QueryBlock],
        mask: Tensor | None,
        scale: float,
    ) -> Tensor:
        batch, length, total, d = qkv.shape
        kv_heads = (total - heads) // 2
        copies = heads // kv_heads
        q, k, v = torch.split(qkv, [heads, kv_heads, kv_heads], 2)
        k, v = _turned(k, cos, sin), _flat(v)
        if copies > 1:
            k, v = (x.view(kv_heads, 1, -1, d).expand(-1, copies, -1, -1).reshape(-1, length, d) for x in (k, v))
        shown = None if mask is None else mask.expand(batch, length, length).repeat(heads, 1, 1)
        out, saved = qkv.new_empty(batch, length, heads, d), [cos, sin, k, v]
        for block in plan:
            queries, keys = slice(block.start, block.end), slice(block.first, block.last)
            turned = _turned(q[:, queries], _at(cos, queries), _at(sin, queries), scale)
            p = torch.softmax(_hide(torch.bmm(turned, k[:, keys].transpose(1, 2)), block, shown), -1)
            out[:, queries] = _unflat(torch.bmm(p, v[:, keys]), batch)
            saved += [turned, p]
        ctx.save_for_backward(*saved)
        ctx.copies, ctx.plan, ctx.scale = copies, plan, scale
        return out

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor) -> Any:
        cos, sin, k, v, *saved = ctx.saved_tensors
        batch, length, heads, d = grad.shape
        kv_heads = heads // ctx.copies
        grad_qkv = grad.new_empty(batch, length, heads + 2 * kv_heads, d)
        grad_q, grad_k, grad_v = torch.split(grad_qkv, [heads, kv_heads, kv_heads], 2)
        last = ctx.plan[-1]
        whole = last.first == 0 and last.last == length  # the last block meets every key, and comes first
        to_k, to_v = (torch.empty_like(x) if whole else torch.zeros_like(x) for x in (k, v))
        for block in reversed(ctx.plan):
            queries, keys = slice(block.start, block.end), slice(block.first, block.last)
            p, q = saved.pop(), saved.pop()
            above = _flat(grad[:, queries])
            grad_p = torch.bmm(above, v[:, keys].transpose(1, 2))
            grad_scores = torch._softmax_backward_data(grad_p, p, -1, p.dtype)
            to_q = _unflat(torch.bmm(grad_scores, k[:, keys]), batch)
            _turn_back(to_q, _at(cos, queries), _at(sin, queries), grad_q[:, queries], ctx.scale)
            if whole and block is last:
                torch.bmm(grad_scores.transpose(1, 2), q, out=to_k)
                torch.bmm(p.transpose(1, 2), above, out=to_v)
            else:
                to_k[:, keys] += torch.bmm(grad_scores.transpose(1, 2), q)
                to_v[:, keys] += torch.bmm(p.transpose(1, 2), above)
        if ctx.copies > 1:
            to_k, to_v = (x.view(kv_heads, ctx.copies, -1, length, d).sum(1).flatten(0, 1) for x in (to_k, to_v))
        _turn_back(_unflat(to_k, batch), cos, sin, grad_k)
        grad_v.copy_(_unflat(to_v, batch))
        return grad_qkv, None, None, None, None, None, None

"""HSTU: pointwise attention, whose weights are SiLU units and not shares (Zhai et al. 2024, arXiv 2402.17152)."""

from __future__ import annotations

from functools import partial
from typing import Any, Self

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.context import Context
from ...core.contracts import Cacheable, Gains, Kept, MixerPart, Pattern, Products, Seen, Step, places_of
from ...core.contracts.pattern import Positions
from ...core.cost import Cost, Work
from ...core.registry import Card, part
from ...core.roles import WIDTH, Axis, Shape
from ...ledger.formulas import causal_pairs
from ..attend import QueryBlock, block_pairs, plan_of
from ..cache import KeyValues, Padding
from ..cost import pointwise
from ..layers import Matrix, Product, exact, joined, matrix_shapes
from ..slots import SlotKeyValues


class Hstu(nn.Module):
    """Self-attention without softmax: how much a query finds is kept, not only what.

    Args:
        width: of the vectors.
        heads: of queries, keys and values.
        head_dim: numbers of a head.
        distances: how far apart positions are told apart.
        eps: added to the variance of what is gathered.

    Example, with ``ctx`` a context:
        >>> layer = HstuPart(heads=4).build(32, ctx)
        >>> layer(torch.zeros(2, 5, 32), layer.products(torch.float32)).shape
        torch.Size([2, 5, 32])
    """

    def __init__(self, width: int, heads: int, head_dim: int, distances: int, eps: float) -> None:
        super().__init__()
        self.heads, self.head_dim, self.eps = heads, head_dim, eps
        self.q, self.k, self.v, self.u = (Matrix(heads * head_dim, width) for _ in range(4))
        self.out = Matrix(width, heads * head_dim, residual=True)
        self.bias = nn.Parameter(torch.zeros(heads, distances))

    def products(self, dtype: torch.dtype) -> tuple[Product, Product]:
        """What ``forward`` multiplies by, with operands in ``dtype``: query-key-value-gate, and output."""
        return joined((self.q, self.k, self.v, self.u), dtype), self.out.product(dtype)

    def forward(
        self,
        x: Tensor,
        products: tuple[Product, Product],
        seen: Seen | Padding = None,
        cache: KeyValues | SlotKeyValues | None = None,
    ) -> Tensor:
        """(batch, length, width) -> same. With a cache, ``x`` continues what the cache holds and is added to it."""
        to_all, to_out = products
        batch, length, _ = x.shape
        split = F.silu(to_all(x)).view(batch, length, 4, self.heads, self.head_dim)
        q, k, v, u = (each.transpose(1, 2) for each in split.unbind(2))
        if cache is None:
            assert not isinstance(seen, Padding)
            found = self._attend(q, k, v, seen)
        else:
            padding = seen if isinstance(seen, Padding) else None
            both = torch.cat((k, v), 1).to(cache.dtype)
            found = cache.attend(q.to(cache.dtype), both, None, padding, kernel=partial(_cached, self.bias)).to(x.dtype)
        gathered = found.transpose(1, 2).flatten(2)
        normed = F.layer_norm(exact(gathered), (gathered.shape[-1],), eps=self.eps).to(x.dtype)
        return to_out(normed * u.transpose(1, 2).flatten(2))

    def make_cache(self, batch: int, capacity: int, dtype: torch.dtype) -> KeyValues:
        """Room for keys and values of ``capacity`` tokens at first; it grows as they come."""
        return KeyValues(batch, self.heads, capacity, self.head_dim, dtype, self.q.weight.device)

    def make_slots(self, dtype: torch.dtype) -> SlotKeyValues:
        """The same for sequences that come and go; none yet."""
        return SlotKeyValues(self.heads, self.head_dim, dtype, self.q.weight.device)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, seen: Any) -> Tensor:
        """(batch, heads, length, head_dim), each: a block of queries at a time over the keys that any of them sees."""
        length = q.shape[2]
        places = places_of(seen, length)
        plan, mask = plan_of(seen, length)
        at = torch.arange(length, device=q.device) if places is None else torch.from_numpy(places).to(q.device)
        outs = []
        for block in plan:
            queries, keys = slice(block.start, block.end), slice(block.first, block.last)
            shown = _shown(block, q.device)
            if mask is not None:
                shown = shown & mask[..., queries, keys]
            apart = at[queries, None] - at[None, keys]
            outs.append(pointwise_attend(q[:, :, queries], k[:, :, keys], v[:, :, keys], shown, apart, self.bias))
        return torch.cat(outs, 2)


def _shown(block: QueryBlock, device: torch.device) -> Tensor:
    """bool (queries, keys) of a block."""
    if block.seen is not None:
        return torch.from_numpy(block.seen.copy()).to(device)
    rows = block.end - block.start
    return torch.ones(rows, block.last - block.first, dtype=torch.bool, device=device).tril_(block.start - block.first)


def pointwise_attend(q: Tensor, k: Tensor, v: Tensor, shown: Tensor, apart: Tensor, bias: Tensor) -> Tensor:
    """silu(q k' + bias of the distance) v / count, over the keys that each query sees, of which there are ``count``.

    Args:
        q: (batch, heads, n, d).
        k: (batch, heads, m, d).
        v: (batch, heads, m, d).
        shown: bool ((batch,) n, m), whom each query sees.
        apart: int64 ((batch,) n, m), how far each key lies behind its query.
        bias: (heads, distances); distances beyond the last share it, and those on either side are alike.

    Returns:
        (batch, heads, n, d).
    """
    shown = shown if shown.ndim == 2 else shown[:, None]
    near = bias.to(q.dtype)[:, apart.abs().clamp_(max=bias.shape[1] - 1)]
    near = near if apart.ndim == 2 else near.transpose(0, 1)
    weights = F.silu(q @ k.transpose(2, 3) + near) * shown
    return (weights @ v) / shown.sum(-1, keepdim=True).clamp_(min=1).to(q.dtype)


def _cached(bias: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """The newest queries over keys up to them: each stands where the last key does that it sees; None: at the end."""
    new, keys = q.shape[2], torch.arange(k.shape[2], device=q.device)
    if mask is None:
        mask, places = torch.ones(new, len(keys), dtype=torch.bool, device=q.device), keys[-new:]
    else:
        mask = mask if mask.ndim == 2 else mask[:, 0]
        places = (mask * keys).amax(-1)
    return pointwise_attend(q, k, v, mask, places[..., None] - keys, bias)


@part
class HstuPart(MixerPart):
    """Pointwise attention with a gate: intensities instead of shares.

    Use it for streams of events, where how often something came matters, and not only that it came: softmax forgets
    counts. On text it has nothing to win.

    Example:
        >>> [shape.name for shape in HstuPart(heads=4).shapes(32)]
        ['bias', 'q.weight', 'k.weight', 'v.weight', 'u.weight', 'out.weight']
    """

    heads: PositiveInt = 4
    """Heads of queries, keys, values and gates."""
    head_dim: PositiveInt | None = None
    """Width of a head; by default the model's width / heads."""
    distances: PositiveInt = 128
    """Positions so far apart or further share one bias."""
    norm_eps: PositiveFloat = 1e-5
    """Added to the variance of what is gathered, over all heads."""
    card = Card(
        summary="Attention by SiLU units, divided by how many keys are seen, and gated",
        paper="Zhai et al. 2024, arXiv 2402.17152, equations 1 to 3",
        equation="u, v, q, k = silu(W x); a = silu(q k' + b(i - j)) / n; y = W_o (norm(a v) * u)",
        differs="n counts the keys that a query sees, not the longest sequence, so that steps and texts of any length "
        "agree; a bias of the distance for each head, none of the time; a feed-forward follows in its block",
        cost="5 projections, and 4 head_dim FLOPs for each head and pair of positions",
    )
    provides = frozenset({Cacheable})

    def build(self, width: int, ctx: Context) -> Hstu:
        return Hstu(width, *self.dimensions(width), self.distances, self.norm_eps)

    def dimensions(self, width: int) -> tuple[int, int]:
        """Heads and width of a head."""
        return self.heads, self.head_dim or width // self.heads

    def takes(self, pattern: Pattern | None) -> bool:
        return True

    def problems(self, width: int) -> list[str]:
        if self.head_dim is None and width % self.heads:
            return [f"heads: {self.heads} do not divide the width {width}; choose a divisor or give head_dim"]
        return []

    def shapes(self, width: int) -> list[Shape]:
        heads, head_dim = self.dimensions(width)
        inner, axis = heads * head_dim, Axis("heads", head_dim)
        bias = Shape("bias", "bias", (heads, self.distances), (Axis("heads"), Axis("distances")))
        found = [shape for name in "qkvu" for shape in matrix_shapes(name, inner, width, axes=(axis, WIDTH))]
        return [bias, *found, *matrix_shapes("out", width, inner, axes=(WIDTH, axis))]

    def sliced(self, kept: Kept, width: int) -> Self:
        heads, head_dim = self.dimensions(width)
        kept_heads, near = kept.get("heads", range(heads)), kept.get("distances", range(self.distances))
        return self.model_copy(update={"heads": len(kept_heads), "head_dim": head_dim, "distances": len(near)})

    def steps(self, batch: int, length: int, width: int, pattern: Pattern | None = None) -> list[Step]:
        heads, head_dim = self.dimensions(width)
        tokens, inner = batch * length, heads * head_dim
        return [
            Products(("q.weight", "k.weight", "v.weight", "u.weight")),
            pointwise(4 * tokens * inner, operations=4),
            Gains(("bias",), self._attending(batch, length, width, pattern)),
            pointwise(tokens * inner, operations=8),
            Products(("out.weight",)),
        ]

    def _attending(self, batch: int, length: int, width: int, pattern: Pattern | None) -> Work:
        heads, head_dim = self.dimensions(width)
        pairs = causal_pairs(length) if pattern is None else pattern.pairs(length)
        executed, many = block_pairs(length, pattern), batch * heads
        one = Cost(
            flops=4 * many * pairs * head_dim,
            executed=4 * many * executed * head_dim,
            elementwise=7 * many * executed,
            moved=4 * (2 * many * executed + 4 * many * length * head_dim),
        )
        return Work(forward=one, backward=2 * one)


def reference(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, shown: Tensor, places: Positions) -> Tensor:
    """What a head's queries (n, d) gather, pair by pair; ``bias`` (distances,), ``shown`` bool (n, n)."""
    out = torch.zeros_like(q)
    for i in range(len(q)):
        seen = [j for j in range(len(k)) if shown[i, j]]
        for j in seen:
            score = q[i] @ k[j] + bias[min(abs(int(places[i] - places[j])), len(bias) - 1)]
            out[i] += F.silu(score) * v[j] / len(seen)
    return out

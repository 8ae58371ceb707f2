"""Causal self-attention with rotary positions (Su et al. 2021, arXiv 2104.09864) and grouped key-value heads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.context import Context
from ...core.contracts import Cacheable, Documents, MixerPart, Pattern, Products, Seen, within
from ...core.cost import Work
from ...core.registry import Card, part
from ...core.roles import Shape
from ...core.slots import PatternSlot
from ...ledger import formulas
from ..attend import attend, block_pairs, dense_mask, rotated
from ..cost import pointwise
from ..layers import Matrix, Product, RmsNorm, joined


class Attention(nn.Module):
    """Self-attention of (batch, length, width) vectors.

    Queries, keys and values have separate weights, joined at the cast.
    """

    if TYPE_CHECKING:
        cos: Tensor
        sin: Tensor

    def __init__(
        self,
        width: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        *,
        theta: float = 10_000.0,
        qk_norm: bool = False,
        eps: float = 1e-5,
        length: int = 128,
        pattern: Pattern | None = None,
    ) -> None:
        super().__init__()
        self.pattern = pattern
        self.heads, self.kv_heads, self.head_dim, self.theta = heads, kv_heads, head_dim, theta
        self.q = Matrix(heads * head_dim, width)
        self.k = Matrix(kv_heads * head_dim, width)
        self.v = Matrix(kv_heads * head_dim, width)
        self.out = Matrix(width, heads * head_dim, residual=True)
        self.q_norm = RmsNorm(head_dim, eps) if qk_norm else None
        self.k_norm = RmsNorm(head_dim, eps) if qk_norm else None
        for name in ("cos", "sin"):
            self.register_buffer(name, torch.empty(0, head_dim // 2), persistent=False)
        self._reach(length)

    def products(self, dtype: torch.dtype) -> tuple[Product, Product]:
        """What ``forward`` multiplies by, with operands in ``dtype``: joined query-key-value, and output."""
        return joined((self.q, self.k, self.v), dtype), self.out.product(dtype)

    def forward(
        self, x: Tensor, products: tuple[Product, Product], seen: Seen = None, cache: KeyValues | None = None
    ) -> Tensor:
        """(batch, length, width) -> same. With a cache, ``x`` continues what the cache holds and is added to it."""
        to_qkv, to_out = products
        batch, length, _ = x.shape
        start = 0 if cache is None else cache.length
        cos, sin = self._angles(start, length, x.dtype)
        qkv = to_qkv(x).view(batch, length, -1, self.head_dim)
        if self.q_norm is not None and self.k_norm is not None:
            q, k, v = torch.split(qkv, [self.heads, self.kv_heads, self.kv_heads], 2)
            qkv = torch.cat((self.q_norm(q.float(), x.dtype), self.k_norm(k.float(), x.dtype), v), 2)
        if cache is None:
            mixed = attend(qkv, cos, sin, self.heads, self._restricted(seen))
        else:
            mixed = self._continue(qkv, cos, sin, cache)
        return to_out(mixed.flatten(2))

    def make_cache(self, batch: int, capacity: int, dtype: torch.dtype) -> KeyValues:
        """Room for keys and values of ``capacity`` tokens at first; it grows as they come."""
        self._reach(capacity)
        shape = (batch, self.kv_heads, capacity, self.head_dim)
        device = self.q.weight.device
        return KeyValues(torch.empty(shape, dtype=dtype, device=device), torch.empty(shape, dtype=dtype, device=device))

    def _continue(self, qkv: Tensor, cos: Tensor, sin: Tensor, cache: KeyValues) -> Tensor:
        """The newest queries over all keys, each seeing those up to itself."""
        q, k, v = (x.transpose(1, 2) for x in rotated(qkv, cos, sin, self.heads))
        k, v = cache.append(k, v)
        new, total = q.shape[2], k.shape[2]
        mask = None
        if self.pattern is not None:
            rows = within(self.pattern, None).rows(total - new, total, total)  # type: ignore[union-attr]
            mask = torch.from_numpy(rows.copy()).to(q.device)
        elif new > 1:
            mask = torch.ones(new, total, dtype=torch.bool, device=q.device).tril_(total - new)
        return F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=True).transpose(1, 2)

    def _restricted(self, seen: Seen) -> Seen:
        """Who sees whom, within this layer's own pattern."""
        if self.pattern is None:
            return seen
        if isinstance(seen, Tensor):
            return seen & dense_mask(self.pattern, seen.shape[-1], seen.device)
        if isinstance(seen, Documents):
            return Documents(seen.ids, within(self.pattern, seen.pattern))
        return within(self.pattern, seen)

    def _angles(self, start: int, length: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosine and sine (length, head_dim / 2) for positions from ``start``."""
        self._reach(start + length)
        return self.cos[start : start + length].to(dtype), self.sin[start : start + length].to(dtype)

    def _reach(self, length: int) -> None:
        """Make the tables cover ``length`` positions: twice as many as before at least, so that steps seldom do it."""
        if length <= self.cos.shape[0]:
            return
        length = max(length, 2 * self.cos.shape[0])
        half = self.head_dim // 2
        rates = self.theta ** -(torch.arange(half, dtype=torch.float64) / half)
        angles = torch.outer(torch.arange(length, dtype=torch.float64), rates)
        self.cos, self.sin = (table.float().to(self.cos.device) for table in (angles.cos(), angles.sin()))


class KeyValues:
    """Keys and values of the tokens seen so far: two (batch, kv_heads, capacity, head_dim) tensors, filled in order.

    When they are full they are doubled.
    """

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self._keys, self._values, self.length = keys, values, 0

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add (batch, kv_heads, n, head_dim) and return everything held."""
        end = self.length + keys.shape[2]
        if end > self._keys.shape[2]:
            self._keys, self._values = (self._larger(each, end) for each in (self._keys, self._values))
        self._keys[:, :, self.length : end] = keys
        self._values[:, :, self.length : end] = values
        self.length = end
        return self._keys[:, :, :end], self._values[:, :, :end]

    def _larger(self, held: Tensor, least: int) -> Tensor:
        shape = list(held.shape)
        shape[2] = max(least, 2 * shape[2])
        grown = held.new_empty(shape)
        grown[:, :, : self.length] = held[:, :, : self.length]
        return grown

    def truncate(self, length: int) -> None:
        """Forget all but the first ``length`` tokens."""
        self.length = min(self.length, length)


@part
class AttentionPart(MixerPart):
    """Multi-head causal self-attention with rotary positions."""

    heads: PositiveInt = 4
    """Query heads."""
    kv_heads: PositiveInt | None = None
    """Key-value heads, a divisor of ``heads``; by default as many."""
    head_dim: PositiveInt | None = None
    """Width of a head, even; by default the model's width / heads."""
    theta: PositiveFloat = 10_000.0
    """Base of the rotary wavelengths: the slowest turns once in 2 pi theta tokens."""
    qk_norm: bool = False
    """RMS-normalise each head's queries and keys before they are rotated."""
    norm_eps: PositiveFloat = 1e-5
    """Added to the mean square in that norm."""
    pattern: PatternSlot | None = None
    """What a position sees at most, e.g. ``window``; by default all that the objective lets it see."""
    card = Card(
        summary="Softmax attention over all earlier positions",
        paper="Vaswani et al. 2017, arXiv 1706.03762; RoPE: Su et al. 2021, arXiv 2104.09864; "
        "grouped key-value heads: Ainslie et al. 2023, arXiv 2305.13245; qk_norm: Henry et al. 2020, arXiv 2010.04245",
        equation="softmax(R q (R k)' / sqrt(head_dim), causal) v",
        differs="no biases; rotary halves (a, b) as in Llama; qk_norm is RMS with a gain shared by all heads",
        cost="4 projections, and 4 head_dim FLOPs for each head and pair of positions; on a CPU blocks of "
        "64 or 128 queries skip most of the masked half",
    )
    provides = frozenset({Cacheable})

    def build(self, width: int, ctx: Context) -> Attention:
        heads, kv_heads, head_dim = self.dimensions(width)
        return Attention(
            width,
            heads,
            kv_heads,
            head_dim,
            theta=self.theta,
            qk_norm=self.qk_norm,
            eps=self.norm_eps,
            length=ctx.length,
            pattern=self.pattern,
        )

    def dimensions(self, width: int) -> tuple[int, int, int]:
        """Query heads, key-value heads, width of a head."""
        return self.heads, self.kv_heads or self.heads, self.head_dim or width // self.heads

    def takes(self, pattern: Pattern | None) -> bool:
        return True

    def problems(self, width: int) -> list[str]:
        heads, kv_heads, head_dim = self.dimensions(width)
        found = []
        if self.head_dim is None and width % heads:
            found.append(f"heads: {heads} do not divide the width {width}; choose a divisor or give head_dim")
        elif head_dim % 2:
            found.append(f"head_dim: is {head_dim}, but rotary positions need an even one; change heads or head_dim")
        if heads % kv_heads:
            found.append(f"kv_heads: {kv_heads} do not divide heads = {heads}; choose a divisor")
        return found

    def shapes(self, width: int) -> list[Shape]:
        heads, kv_heads, head_dim = self.dimensions(width)
        found = [
            Shape("q.weight", "hidden", (heads * head_dim, width)),
            Shape("k.weight", "hidden", (kv_heads * head_dim, width)),
            Shape("v.weight", "hidden", (kv_heads * head_dim, width)),
            Shape("out.weight", "hidden", (width, heads * head_dim)),
        ]
        if self.qk_norm:
            found += [Shape("q_norm.weight", "norm", (head_dim,)), Shape("k_norm.weight", "norm", (head_dim,))]
        return found

    def steps(self, batch: int, length: int, width: int, pattern: Pattern | None = None) -> list[Products | Work]:
        heads, kv_heads, head_dim = self.dimensions(width)
        rotated = batch * length * (heads + kv_heads) * head_dim
        seen = within(self.pattern, pattern)
        pairs, executed = None if seen is None else seen.pairs(length), block_pairs(length, seen)
        return [
            Products(("q.weight", "k.weight", "v.weight")),
            pointwise(rotated, operations=3 + 4 * self.qk_norm),
            formulas.attention(batch, heads, head_dim, length, pairs=pairs, executed_pairs=executed),
            Products(("out.weight",)),
        ]

"""What a Transformer keeps of the tokens so far: keys and values, who may see which of them, weights laid out once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.contracts import Pattern, within
from ..core.contracts.pattern import Bools

Attends = Callable[[Tensor, Tensor, Tensor, "Tensor | None"], Tensor]
"""From queries, keys, values (batch, heads or kv_heads, n, d) and who sees whom to what the queries gather."""


class Padding:
    """Rows of one cache that begin at different places: row i's first ``pads[i]`` tokens are no part of it.

    Args:
        pads: tokens before each row's first one.
        device: where masks are wanted.

    Example:
        >>> padding = Padding([0, 2], torch.device("cpu"))
        >>> padding.seen(None, new=1, total=4).int().tolist()
        [[[[1, 1, 1, 1]]], [[[0, 0, 1, 1]]]]
    """

    def __init__(self, pads: Sequence[int], device: torch.device) -> None:
        self.pads, self.device = list(pads), device
        self._last: tuple[Any, Tensor] | None = None

    @property
    def tensor(self) -> Tensor:
        """The pads as int64 (batch,)."""
        return torch.tensor(self.pads, device=self.device)

    def seen(self, pattern: Pattern | None, new: int, total: int) -> Tensor:
        """Who sees whom: bool (batch, 1, new, total) for the last ``new`` of ``total`` tokens.

        Padding sees itself alone, so that nothing in it is undefined. Layers of one step share the answer.
        """
        asked = (pattern, new, total)
        if self._last is None or self._last[0] != asked:
            rows = {pad: _row(pattern, new, total, pad) for pad in set(self.pads)}
            self._last = asked, torch.from_numpy(np.stack([rows[pad] for pad in self.pads])[:, None]).to(self.device)
        return self._last[1]

    def blanked(self, x: Tensor, start: int) -> Tensor:
        """Vectors (batch, n, width) of the tokens from ``start`` on, those of padding as 0."""
        if start >= max(self.pads):
            return x
        places = torch.arange(start, start + x.shape[1], device=x.device)
        return x.masked_fill((places < self.tensor[:, None])[..., None], 0)

    def select(self, rows: Sequence[int]) -> Padding:
        return Padding([self.pads[row] for row in rows], self.device)


def _row(pattern: Pattern | None, new: int, total: int, pad: int) -> Bools:
    """(new, total), positions counted from behind the padding."""
    seen = np.eye(new, total, total - new, dtype=bool)
    within_row = min(new, total - pad)
    seen[new - within_row :, pad:] = pattern_rows(pattern, within_row, total - pad)
    return seen


def pattern_rows(pattern: Pattern | None, new: int, total: int) -> Bools:
    """The last ``new`` of ``total`` rows of a pattern within the causal one."""
    if pattern is None:
        return np.tri(new, total, total - new, dtype=bool)
    return within(pattern, None).rows(total - new, total, total)  # type: ignore[union-attr]


def reach(seen: Bools) -> tuple[int, Bools | None]:
    """The first key that any query sees, and who sees whom from there, (queries, keys); None: all see all."""
    first = int(np.flatnonzero(seen.any(0))[0])
    return first, None if seen[:, first:].all() else seen[:, first:].copy()


@functools.lru_cache(256)
def _reach(pattern: Pattern | None, new: int, total: int) -> tuple[int, Bools | None]:
    return reach(pattern_rows(pattern, new, total))


class HeldKeyValues:
    """Keys and values of a layer: (rows, 2 kv_heads, capacity, head_dim), keys before values.

    On a CPU numbers are fp32 whatever the products' dtype: torch's attention is several times quicker there, and one
    query's is bound by calls and not by memory.

    Args:
        rows: sequences.
        heads: key-value heads.
        capacity: tokens of each.
        head_dim: numbers of a head.
        dtype: of products.
        device: where to keep them.

    Attributes:
        turns: what the mixer keeps for its positions, if anything.

    Example:
        >>> HeldKeyValues(1, 2, 4, 8, torch.bfloat16, torch.device("cpu")).dtype
        torch.float32
    """

    def __init__(
        self, rows: int, heads: int, capacity: int, head_dim: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        dtype = torch.float32 if device.type == "cpu" else dtype
        self._held = torch.empty(rows, 2 * heads, capacity, head_dim, dtype=dtype, device=device)
        self.turns: Tensor | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Of keys and values, and so of attention."""
        return self._held.dtype

    @property
    def device(self) -> torch.device:
        """Where they lie."""
        return self._held.device

    @property
    def capacity(self) -> int:
        """Tokens of each row that there is room for."""
        return self._held.shape[2]


class KeyValues(HeldKeyValues):
    """Those of the tokens seen so far, filled in order; when there is no room left it is doubled.

    Args:
        batch: sequences.
        heads: key-value heads.
        capacity: tokens that there is room for at first.
        head_dim: numbers of a head.
        dtype: of products.
        device: where to keep them.

    Attributes:
        length: tokens seen.

    Example:
        >>> cache = KeyValues(1, 2, 4, 8, torch.float32, torch.device("cpu"))
        >>> keys, values = cache.append(torch.ones(1, 4, 3, 8))
        >>> keys.shape, cache.length, cache.capacity
        (torch.Size([1, 2, 3, 8]), 3, 4)
    """

    def __init__(
        self, batch: int, heads: int, capacity: int, head_dim: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__(batch, heads, capacity, head_dim, dtype, device)
        self.length = 0

    def places(self, new: int) -> tuple[slice | Tensor, int]:
        """Positions of the next ``new`` tokens, padding included, and a number above the largest of them."""
        return slice(self.length, self.length + new), self.length + new

    def append(self, both: Tensor) -> tuple[Tensor, Tensor]:
        """Add the keys and values of n tokens, and return all keys and all values held.

        Args:
            both: (batch, 2 kv_heads, n, head_dim), keys before values.
        """
        end = self.length + both.shape[2]
        if end > self.capacity:
            self._held = self._larger(end)
        self._held[:, :, self.length : end] = both
        self.length = end
        keys, values = self._held[:, :, :end].chunk(2, 1)
        return keys, values

    def attend(
        self,
        q: Tensor,
        both: Tensor,
        pattern: Pattern | None = None,
        padding: Padding | None = None,
        scale: float | None = None,
        kernel: Attends | None = None,
    ) -> Tensor:
        """Add the newest keys and values, and let the newest queries look at everything that they may see.

        Args:
            q: (batch, heads, n, head_dim).
            both: (batch, 2 kv_heads, n, head_dim), keys before values.
            pattern: what a position sees at most, besides itself and those before it.
            padding: where rows begin; None: all at the first token.
            scale: factor on the scores, by default 1 / sqrt(head_dim).
            kernel: what attends, with a scale of its own; by default torch's.
        """
        k, v = self.append(both)
        new, total = q.shape[2], k.shape[2]
        kernel = kernel or functools.partial(fused, scale=scale)
        if padding is not None:
            return kernel(q, k, v, padding.seen(pattern, new, total))
        first, rows = _reach(pattern, new, total) if pattern is not None or new > 1 else (0, None)
        mask = None if rows is None else torch.from_numpy(rows).to(q.device)
        return kernel(q, k[:, :, first:], v[:, :, first:], mask) if first else kernel(q, k, v, mask)

    def _larger(self, least: int) -> Tensor:
        shape = list(self._held.shape)
        shape[2] = max(least, 2 * shape[2])
        grown = self._held.new_empty(shape)
        grown[:, :, : self.length] = self._held[:, :, : self.length]
        return grown

    def truncate(self, length: int) -> None:
        """Forget all but the first ``length`` tokens."""
        self.length = min(self.length, length)

    def select(self, rows: Tensor) -> None:
        """Keep these rows of the batch, in this order; a row may be taken several times."""
        self._held = self._held[rows.to(self._held.device)]


def fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
    """torch's attention. Heads that share keys are queries of one head where all see the same: nothing is copied."""
    batch, heads, new, d = q.shape
    kv_heads = k.shape[1]
    if heads > kv_heads and (new == 1 or mask is None):
        out = F.scaled_dot_product_attention(q.reshape(batch, kv_heads, -1, d), k, v, mask, scale=scale)
        return out.view(batch, heads, new, d)
    return F.scaled_dot_product_attention(q, k, v, mask, scale=scale, enable_gqa=heads > kv_heads)


@dataclass
class Cache:
    """What the tokens so far left behind, layer by layer, and the weights laid out once for all steps.

    Args:
        layers: what each mixer keeps.
        products: what each block multiplies by.
        head: from vectors to logits.
        padding: where rows begin; None: all at the first token.

    Example, with ``model`` a Transformer of 257 tokens:
        >>> cache = model.make_cache(2, 16)
        >>> logits = model.step(torch.tensor([[1, 2, 3], [4, 5, 6]]), cache)
        >>> cache.truncate(1)
        >>> cache.select([1, 1, 0])  # as three samples begin
        >>> cache.length, model.step(torch.tensor([[7], [8], [9]]), cache).shape
        (1, torch.Size([3, 1, 257]))
    """

    layers: list[Any]
    products: list[tuple[Any, Any]]
    head: Callable[[Tensor], Tensor]
    padding: Padding | None = None

    def __post_init__(self) -> None:
        for layer in self.layers:
            if hasattr(layer, "join"):
                layer.join(self.layers)

    @property
    def length(self) -> int:
        """Tokens seen, padding included."""
        return int(self.layers[0].length)

    def places(self, new: int) -> tuple[slice | Tensor, int]:
        """Positions of the next ``new`` tokens, (n,) or (batch, n), and a number above the largest of them."""
        end = self.length + new
        if self.padding is None:
            return slice(self.length, end), end
        pads = self.padding.tensor
        counted = torch.arange(self.length, end, device=pads.device) - pads[:, None]
        return counted.clamp_(min=0), end - min(self.padding.pads)

    def truncate(self, length: int) -> None:
        """Forget all but the first ``length`` tokens; UsageError, and nothing is forgotten, where a layer cannot."""
        for layer in self.layers:
            if hasattr(layer, "reach_back"):
                layer.reach_back(length)
        for layer in self.layers:
            layer.truncate(length)

    def select(self, rows: Sequence[int]) -> None:
        """Keep these rows of the batch, in this order; a row may be taken several times."""
        taken = torch.tensor(rows)
        for layer in self.layers:
            layer.select(taken)
        self.padding = None if self.padding is None else self.padding.select(rows)

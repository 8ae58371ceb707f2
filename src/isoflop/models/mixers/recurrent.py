"""The Recurrent Transformer's mixer: attention to what the layer itself gave at earlier positions."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.context import Context
from ...core.contracts import Around, Cacheable, Documents, DrivingMixerPart, Kept, Pattern, Products, Seen, Step
from ...core.contracts.pattern import Causal
from ...core.cost import Cost, Work
from ...core.errors import UsageError
from ...core.registry import Card, part
from ...core.roles import WIDTH, Axis, Shape
from ..attend import beyond_past
from ..cache import Padding
from ..cost import pointwise
from ..kernels import functional
from ..layers import Matrix, Product, exact, joined, matrix_shapes
from ..recurrence import RecurrentCache, RecurrentSlots, Steps, recur, sequential, traffic

Memory = RecurrentCache | RecurrentSlots
"""What becomes of keys and values while text is written."""


class Alone:
    """Nothing around a mixer: its own output is what later positions see.

    Args:
        mixer: which drives nothing.
        dtype: of its products.

    Example:
        >>> Alone(nn.Linear(2, 2), torch.float32).trained
        True
    """

    def __init__(self, mixer: nn.Module, dtype: torch.dtype) -> None:
        self.mixer, self.dtype = mixer, dtype

    def reads(self, x: Tensor) -> Tensor:
        return x

    def closes(self, x: Tensor, mixed: Tensor) -> Tensor:
        return mixed

    @property
    def trained(self) -> bool:
        return any(p.requires_grad for p in self.mixer.parameters())


class Recurrent(nn.Module):
    """Attention whose keys and values of earlier positions are made of the block's output there.

    Args:
        width: of the vectors.
        heads: of queries, keys and values.
        head_dim: numbers of a head.
        eps: added to the mean squares of queries and keys.

    Example, with ``ctx`` a context:
        >>> layer = RecurrentPart(heads=4).build(32, ctx)
        >>> layer(torch.zeros(2, 5, 32), layer.products(torch.float32)).shape
        torch.Size([2, 5, 32])
    """

    def __init__(self, width: int, heads: int, head_dim: int, eps: float) -> None:
        super().__init__()
        self.heads, self.head_dim, self.eps = heads, head_dim, eps
        self.q, self.k, self.v = (Matrix(heads * head_dim, width) for _ in range(3))
        self.out = Matrix(width, heads * head_dim, residual=True)

    def products(self, dtype: torch.dtype) -> tuple[Product, Product, Product]:
        """What it multiplies by, with operands in ``dtype``: query-key-value, key-value, and output."""
        return joined((self.q, self.k, self.v), dtype), joined((self.k, self.v), dtype), self.out.product(dtype)

    def forward(self, x: Tensor, products: Any, seen: Seen | Padding = None, cache: Memory | None = None) -> Tensor:
        """(batch, length, width) -> same, where nothing is around it. With a cache, ``x`` continues what it holds."""
        return self.drive(x, Alone(self, x.dtype), products, seen, cache)  # type: ignore[no-any-return]

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def drive(
        self, x: Tensor, around: Around, products: Any, seen: Seen | Padding = None, cache: Memory | None = None
    ) -> Tensor:
        """The output of the block ``around``, of which ``x`` (batch, length, width) is the input."""
        steps, (batch, length, _) = self._steps(around, products), x.shape
        if isinstance(cache, RecurrentSlots):
            return cache.recur(x, steps)
        if cache is None:
            shown = self._shown(seen, length, x.device)
            if functional():
                return sequential(x, steps, shown)
            cache = RecurrentCache(batch, self.heads, length, self.head_dim, like=exact(x[:0]))
            gradient = torch.is_grad_enabled() and (x.requires_grad or around.trained)
            return recur(x, steps, cache, shown, gradient=gradient)
        padding = seen if isinstance(seen, Padding) else None
        rows = None if padding is None else padding.seen(None, length, cache.length + length)
        return recur(x, steps, cache, None if rows is None else self._by_head(rows[:, 0]))

    def make_cache(self, batch: int, capacity: int, dtype: torch.dtype) -> RecurrentCache:
        """Room for keys and values of ``capacity`` tokens at first; it grows as they come."""
        return RecurrentCache(batch, self.heads, capacity, self.head_dim, like=exact(self.q.weight.detach()))

    def make_slots(self, dtype: torch.dtype) -> RecurrentSlots:
        """The same for sequences that come and go; none yet."""
        return RecurrentSlots(self.heads, self.head_dim, like=exact(self.q.weight.detach()))

    def _steps(self, around: Around, products: Any) -> Steps:
        to_qkv, to_kv, to_out = products

        def opens(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            q, k, v = self._heads(to_qkv(around.reads(x)), 3)
            return self._unit(q) * self.head_dim**-0.5, self._unit(k), v

        def closes(x: Tensor, mixed: Tensor) -> Tensor:
            rows = mixed.view(len(x), self.heads, -1, self.head_dim).transpose(1, 2).flatten(2)
            return around.closes(x, to_out(rows.to(around.dtype)))

        def keeps(z: Tensor) -> tuple[Tensor, Tensor]:
            k, v = self._heads(to_kv(around.reads(z)), 2)
            return self._unit(k), v

        return Steps(opens, closes, keeps)

    def _heads(self, joint: Tensor, count: int) -> tuple[Tensor, ...]:
        """(batch, n, count * width) -> ``count`` times (batch * heads, n, head_dim), in fp32 at least."""
        batch, n, _ = joint.shape
        apart = exact(joint).view(batch, n, count, self.heads, self.head_dim)
        return apart.permute(2, 0, 3, 1, 4).flatten(1, 2).unbind()

    def _unit(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (self.head_dim,), eps=self.eps)

    def _shown(self, seen: Any, length: int, device: torch.device) -> Tensor | None:
        """Which earlier positions each one sees, bool (batch * heads or 1, length, length); None: all."""
        if what := beyond_past(seen):
            raise UsageError(
                f"recurrent attention sees what was finished before it, and cannot obey {what}",
                where="model.mixer",
                fix="use the causal pattern, or the mixer attention",
            )
        if isinstance(seen, Documents):
            return self._by_head(seen.same)
        if isinstance(seen, Tensor):
            return self._by_head(seen if seen.ndim == 3 else seen[None])
        return None

    def _by_head(self, rows: Tensor) -> Tensor:
        return rows if len(rows) == 1 else rows.repeat_interleave(self.heads, 0)


@part
class RecurrentPart(DrivingMixerPart):
    """Attention to what the layer itself gave at earlier positions: depth that grows with the text.

    Use it to get by with fewer layers: a layer's later positions build on its own results. It trains more slowly, since
    the layer's positions follow one another. No positions are added: order tells itself.

    Example:
        >>> part = RecurrentPart(heads=4)
        >>> [(shape.name, shape.shape) for shape in part.shapes(32)][:2]
        [('q.weight', (32, 32)), ('k.weight', (32, 32))]
    """

    heads: PositiveInt = 4
    """Heads of queries, keys and values."""
    head_dim: PositiveInt | None = None
    """Width of a head; by default the model's width / heads."""
    norm_eps: PositiveFloat = 1e-6
    """Added to the mean squares of queries and keys."""
    card = Card(
        summary="Attention to the layer's own output at earlier positions, exact, by tiles",
        paper="Recurrent Transformer, geniucos/recurrent-transformer",
        equation="y_i = x_i + W_o attn(q_i; k_1, v_1 ... k_{i-1}, v_{i-1}, W_k norm(x_i), W_v norm(x_i)), "
        "z_i = y_i + feed_forward(norm(y_i)), k_i = rms(W_k norm(z_i)), v_i = W_v norm(z_i)",
        defaults="ALiBi, residual branches scaled by 1 / sqrt(layers)",
        differs="no ALiBi, and no such scale beyond the initial weights'; norms of queries and keys have no gain",
        cost="an ordinary layer's products and two projections more, position by position; N log N reads of keys and "
        "values; in training what stands behind attention three times forward",
    )
    provides = frozenset({Cacheable})
    version: ClassVar[int] = 2  # 1 summed what a tile gives into what was there, head by head: other roundings

    def build(self, width: int, ctx: Context) -> Recurrent:
        return Recurrent(width, *self.dimensions(width), self.norm_eps)

    def dimensions(self, width: int) -> tuple[int, int]:
        """Heads and width of a head."""
        return self.heads, self.head_dim or width // self.heads

    def takes(self, pattern: Pattern | None) -> bool:
        return pattern is None or isinstance(pattern, Causal)

    def problems(self, width: int) -> list[str]:
        heads, head_dim = self.dimensions(width)
        if self.head_dim is None and width % heads:
            return [f"heads: {heads} do not divide the width {width}; choose a divisor or give head_dim"]
        if head_dim > LARGEST_HEAD:
            return [f"head_dim: is {head_dim}, more than sums of plain exponentials bear; use {LARGEST_HEAD} at most"]
        return []

    def shapes(self, width: int) -> list[Shape]:
        heads, head_dim = self.dimensions(width)
        inner, axis = heads * head_dim, Axis("heads", head_dim)
        found = [shape for name in "qkv" for shape in matrix_shapes(name, inner, width, axes=(axis, WIDTH))]
        return [*found, *matrix_shapes("out", width, inner, axes=(WIDTH, axis))]

    def sliced(self, kept: Kept, width: int) -> Self:
        heads, head_dim = self.dimensions(width)
        return self.model_copy(update={"heads": len(kept.get("heads", range(heads))), "head_dim": head_dim})

    def opening(self, batch: int, length: int, width: int) -> list[Step]:
        return [Products(("q.weight", "k.weight", "v.weight")), self._units(batch * length, width, 2)]

    def between(self, batch: int, length: int, width: int) -> Work:
        heads, head_dim = self.dimensions(width)
        many, pairs = batch * heads, length * (length - 1) // 2
        product, moved = 2 * many * pairs * head_dim, 4 * many * head_dim * traffic(length)
        forward = Cost(2 * product, 2 * product + 2 * many * pairs, 2 * many * pairs, moved)  # a 1 behind each value
        backward = Cost(4 * product, 4 * product, 4 * many * pairs, 2 * moved)
        return Work(forward, backward, Cost(executed=product, elementwise=2 * many * pairs))

    def closing(self, batch: int, length: int, width: int) -> list[Step]:
        return [Products(("out.weight",))]

    def keeping(self, batch: int, length: int, width: int) -> list[Step]:
        return [Products(("k.weight", "v.weight")), self._units(batch * length, width, 1)]

    def _units(self, tokens: int, width: int, count: int) -> Work:
        heads, head_dim = self.dimensions(width)
        return pointwise(count * tokens * heads * head_dim, operations=5)


LARGEST_HEAD = 2048
"""exp(sqrt(2048)) is 4.5e19: fp32 sums as many of them as memory holds."""

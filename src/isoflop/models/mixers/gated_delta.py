"""Gated DeltaNet's mixer (Yang, Kautz, Hatamizadeh 2024, arXiv 2412.06464): a linear recurrence with gates."""

from __future__ import annotations

import math
from typing import Any

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.context import Context
from ...core.contracts import Cacheable, Documents, Gains, MixerPart, Pattern, Products, Seen, Step
from ...core.contracts.pattern import Causal
from ...core.errors import UsageError
from ...core.registry import Card, part
from ...core.roles import Role, Shape
from ..attend import beyond_past
from ..cache import Padding
from ..cost import pointwise
from ..delta_rule import GONE, delta_work, gated_delta, gated_delta_step
from ..delta_state import DeltaSlots, DeltaState
from ..layers import Matrix, Product, RmsNorm, exact, joined, matrix_shapes
from ..short_convolution import ShortConvolution, shapes, work

EPS = 1e-6
"""Added to the squared lengths of queries and keys."""


class Fade(nn.Module):
    """Logarithms of decays, -exp(rate) softplus(x + shift), of a rate and a shift of each head.

    At the start a token's decay is about exp(-1/1000) in the first head and exp(-1/10) in the last one, with equal
    factors between them.

    Args:
        heads: how many.

    Example:
        >>> [round(decay, 6) for decay in Fade(heads=3)(torch.zeros(3)).tolist()]
        [-0.001, -0.01, -0.1]
    """

    role: Role = "bias"

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.zeros(heads))
        self.shift = nn.Parameter(torch.logspace(-3, -1, heads, dtype=torch.float64).expm1().log().float())

    def forward(self, x: Tensor) -> Tensor:
        """(..., heads) -> same."""
        return -self.rate.exp() * F.softplus(x + self.shift)


class GatedDelta(nn.Module):
    """What queries find in memories that the gated delta rule changes, of (batch, length, width) vectors.

    Projections are in the products' dtype, all between them is fp32.

    Args:
        width: of the vectors.
        heads: memories.
        sizes: of a head's keys, and of its values.
        taps: of the short convolutions.
        eps: added to the mean square of what a head finds.

    Example, with ``ctx`` a context:
        >>> layer = GatedDeltaPart(heads=4).build(32, ctx)
        >>> layer(torch.zeros(2, 5, 32), layer.products(torch.float32)).shape
        torch.Size([2, 5, 32])
    """

    def __init__(self, width: int, heads: int, sizes: tuple[int, int], taps: int, eps: float) -> None:
        super().__init__()
        self.heads, (self.key_dim, self.value_dim) = heads, sizes
        keys, values = (heads * size for size in sizes)
        self.q, self.k, self.v = Matrix(keys, width), Matrix(keys, width), Matrix(values, width)
        self.beta, self.decay, self.gate = Matrix(heads, width), Matrix(heads, width), Matrix(values, width)
        self.short = ShortConvolution(2 * keys + values, taps)
        self.fade = Fade(heads)
        self.norm = RmsNorm(self.value_dim, eps)
        self.out = Matrix(width, values, residual=True)

    def products(self, dtype: torch.dtype) -> tuple[Product, Product]:
        """What ``forward`` multiplies by, with operands in ``dtype``: joined all that read, and output."""
        return joined((self.q, self.k, self.v, self.beta, self.decay, self.gate), dtype), self.out.product(dtype)

    def forward(
        self,
        x: Tensor,
        products: tuple[Product, Product],
        seen: Seen | Padding = None,
        cache: DeltaState | DeltaSlots | None = None,
    ) -> Tensor:
        """(batch, length, width) -> same. With a cache, ``x`` continues what the cache holds and is added to it."""
        to_all, to_out = products
        joint = exact(to_all(x))
        inputs, gate = joint[..., : self._channels], joint[..., self._channels :]
        if cache is None:
            assert not isinstance(seen, Padding)
            found = self._train(inputs, seen)
        else:
            found = cache.extend(inputs, seen if isinstance(seen, Padding) else None)
        normed = self.norm(found, found.dtype).flatten(2) * F.silu(gate)
        return to_out(normed.to(x.dtype))

    def make_cache(self, batch: int, capacity: int, dtype: torch.dtype) -> DeltaState:
        """Memories of no token; they do not grow."""
        return DeltaState(self._memories(batch), self.short.taps - 1, self._channels, self._advance)

    def make_slots(self, dtype: torch.dtype) -> DeltaSlots:
        """The same for sequences that come and go; none yet."""
        return DeltaSlots(self._memories(0), self.short.taps - 1, self._channels, self._advance)

    @property
    def _channels(self) -> int:
        """Numbers of what a memory is told of a position: queries, keys, values, beta and decay."""
        return len(self.short.weight) + 2 * self.heads

    def _memories(self, batch: int) -> Tensor:
        return exact(self.q.weight.detach()).new_zeros(batch, self.heads, self.key_dim, self.value_dim)

    def _train(self, inputs: Tensor, seen: Seen) -> Tensor:
        """What whole rows (batch, length, channels) find: (batch, length, heads, value_dim)."""
        (batch, length, _), convolved = inputs.shape, len(self.short.weight)
        documents = _documents(seen)
        told = self._told(self.short(inputs[..., :convolved], documents), inputs[..., convolved:])
        if documents is not None:
            begins = F.pad(documents.ids.diff(dim=1) != 0, (1, 0)).expand(batch, -1)
            told = *told[:-1], told[-1].masked_fill(begins.repeat_interleave(self.heads, 0), GONE)
        found, _ = gated_delta(*told)
        return found.view(batch, self.heads, length, -1).transpose(1, 2)

    def _advance(self, inputs: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """See ``delta_state.Advance``."""
        before, channels = self.short.taps - 1, len(self.short.weight)
        qkv, gates, new = inputs[..., :channels], inputs[:, before:, channels:], inputs.shape[1] - before
        if new == 1:
            convolved, rule = (qkv * self.short.weight.t()).sum(1, keepdim=True), gated_delta_step
        else:
            convolved, rule = self.short(qkv)[:, before:], gated_delta
        found, memories = rule(*self._told(convolved, gates), memory.flatten(0, 1))
        return found.view(len(inputs), self.heads, new, -1).transpose(1, 2), memories.view_as(memory)

    def _told(self, convolved: Tensor, gates: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Queries, keys and values (batch * heads, length, size), beta and decay (batch * heads, length)."""
        (batch, length, _), heads, units = convolved.shape, self.heads, 2 * self.heads * self.key_dim
        convolved = F.silu(convolved)
        qk = unit(convolved[..., :units].view(batch, length, 2 * heads, -1))
        v = convolved[..., units:].view(batch, length, heads, -1)
        beta, decay = gates[..., :heads].sigmoid(), self.fade(gates[..., heads:])
        found = (x.transpose(1, 2).flatten(0, 1) for x in (qk[:, :, :heads], qk[:, :, heads:], v, beta, decay))
        return tuple(found)  # type: ignore[return-value]


def unit(x: Tensor) -> Tensor:
    """Vectors (..., d) of length 1, but for those that are next to 0."""
    size = x.shape[-1]
    scaled: Tensor = F.rms_norm(x, (size,), eps=EPS / size)
    return scaled / math.sqrt(size)


def _documents(seen: Any) -> Documents | None:
    """Which documents lie side by side in each row; None: one."""
    if isinstance(seen, Tensor):
        mask = seen if seen.ndim == 3 else seen[None]
        found = Documents(F.pad(~mask.diagonal(-1, 1, 2), (1, 0)).cumsum(1))
        if torch.equal(found.same.tril(), mask):
            return found
        what = "a mask other than that of texts side by side"
    elif not (what := beyond_past(seen)):
        return seen if isinstance(seen, Documents) else None
    raise UsageError(
        f"a memory holds all earlier positions of a text and no others; it cannot obey {what}",
        where="model.mixer",
        fix="use the causal pattern, or the mixer attention",
    )


@part
class GatedDeltaPart(MixerPart):
    """Memories of fixed size, changed at each position by the delta rule, that fade: a linear recurrence.

    For long texts, and where many tokens are written one by one: a step costs the same at any position, in time and in
    memory. What attention looks up exactly among all positions, a memory holds as far as it has room for it. Order
    tells itself: no positions are added.

    Example:
        >>> part = GatedDeltaPart(heads=2, value_dim=32)
        >>> [(shape.name, shape.shape) for shape in part.shapes(32)][2:5]
        [('v.weight', (64, 32)), ('beta.weight', (2, 32)), ('decay.weight', (2, 32))]
    """

    heads: PositiveInt = 4
    """Memories."""
    head_dim: PositiveInt | None = None
    """Numbers of a head's queries and keys; by default the model's width / heads."""
    value_dim: PositiveInt | None = None
    """Numbers of a head's values; by default as many as of its keys. The paper has twice as many."""
    taps: PositiveInt = 4
    """Of the short convolutions of queries, keys and values; 1: a gain alone."""
    norm_eps: PositiveFloat = 1e-5
    """Added to the mean square of what a head finds."""
    card = Card(
        summary="Gated DeltaNet: a linear recurrence of memories that fade and are corrected key by key",
        paper="Yang, Kautz, Hatamizadeh 2024, arXiv 2412.06464; in chunks: Yang et al. 2024, arXiv 2406.06484",
        equation="S_t = alpha_t (I - beta_t k_t k_t') S_(t-1) + beta_t k_t v_t', y = W_o (rms(S_t' q_t) * silu(W x)), "
        "with q, k, v = silu(short_conv(W x)), q and k of length 1",
        defaults="keys of 3/4 width / heads, values twice as wide",
        differs="keys and values of width / heads; queries are not divided by sqrt(head_dim), which a norm follows; "
        "decays begin between exp(-1/1000) and exp(-1/10), by equal factors from head to head, and are not drawn",
        cost="6 projections, two of them tiny, and 6 head_dim value_dim FLOPs for each head and position; in training "
        "64 (5 head_dim + 3 value_dim) more at most, within chunks of 64 positions",
    )
    provides = frozenset({Cacheable})

    def build(self, width: int, ctx: Context) -> GatedDelta:
        heads, *sizes = self.dimensions(width)
        return GatedDelta(width, heads, (sizes[0], sizes[1]), self.taps, self.norm_eps)

    def dimensions(self, width: int) -> tuple[int, int, int]:
        """Heads, numbers of a head's keys, and of its values."""
        keys = self.head_dim or width // self.heads
        return self.heads, keys, self.value_dim or keys

    def takes(self, pattern: Pattern | None) -> bool:
        return pattern is None or isinstance(pattern, Causal)

    def problems(self, width: int) -> list[str]:
        if self.head_dim is None and width % self.heads:
            return [f"heads: {self.heads} do not divide the width {width}; choose a divisor or give head_dim"]
        return []

    def shapes(self, width: int) -> list[Shape]:
        heads, key_dim, value_dim = self.dimensions(width)
        keys, values = heads * key_dim, heads * value_dim
        rows = {"q": keys, "k": keys, "v": values, "beta": heads, "decay": heads, "gate": values}
        return [
            *(shape for name, count in rows.items() for shape in matrix_shapes(name, count, width)),
            *shapes("short", 2 * keys + values, self.taps),
            *(Shape(f"fade.{name}", "bias", (heads,)) for name in ("rate", "shift")),
            Shape("norm.weight", "norm", (value_dim,)),
            *matrix_shapes("out", width, values),
        ]

    def steps(self, batch: int, length: int, width: int, pattern: Pattern | None = None) -> list[Step]:
        heads, key_dim, value_dim = self.dimensions(width)
        tokens, channels = batch * length, heads * (2 * key_dim + value_dim)
        gram, rest = delta_work(batch * heads, length, key_dim, value_dim)
        return [
            Products(tuple(f"{name}.weight" for name in ("q", "k", "v", "beta", "decay", "gate"))),
            Gains(("short.weight",), *work(batch, length, channels, self.taps)),
            pointwise(tokens * channels, operations=7),
            gram,
            Gains(("fade.rate", "fade.shift"), pointwise(tokens * heads, operations=8)),
            rest,
            Gains(("norm.weight",), pointwise(tokens * heads * value_dim, operations=5)),
            pointwise(tokens * heads * value_dim, operations=5),
            Products(("out.weight",)),
        ]

"""Causal self-attention with rotary positions (Su et al. 2021, arXiv 2104.09864) and grouped key-value heads."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Self

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from ...core.context import Context
from ...core.contracts import (
    Cacheable,
    Documents,
    Gains,
    Kept,
    MixerPart,
    Pattern,
    PositionPart,
    Products,
    Seen,
    Step,
    places_of,
    within,
)
from ...core.contracts.pattern import Positions
from ...core.documents import Later
from ...core.errors import UsageError
from ...core.registry import Card, part
from ...core.roles import WIDTH, Axis, Shape
from ...core.slots import NormSlot, PatternSlot, PositionSlot
from ...ledger import formulas
from .. import short_convolution
from ..attend import Angles, attend, block_pairs, capped_attend, dense_mask, turn_
from ..cache import KeyValues, Padding
from ..cost import pointwise
from ..kernels import in_dtype
from ..layers import Matrix, Product, exact, joined, matrix_shapes
from ..sheet import SheetKeyValues
from ..short_convolution import ConvolvedKeyValues, ConvolvedSlotKeyValues, ShortConvolution
from ..slots import SlotKeyValues

Memory = KeyValues | SlotKeyValues | SheetKeyValues
"""What becomes of keys and values while text is written."""


class Attention(nn.Module):
    """Self-attention of (batch, length, width) vectors.

    Queries, keys and values have separate weights, joined at the cast.

    Args:
        width: of the vectors.
        heads: query heads.
        kv_heads: key-value heads; it divides ``heads``.
        head_dim: numbers of a head.
        position: how positions enter.
        theta: base of the rotary wavelengths.
        biases: whether queries, keys and values have one, and whether the output has one.
        norms: of queries and of keys, if they have one.
        whole: those norms are of all heads together, not of each one.
        scores: factor on them, by default 1 / sqrt(head_dim), and what bounds them softly, if anything does.
        length: positions to prepare for; more are prepared when they come.
        pattern: what a position sees at most.

    Attributes:
        convolution: over queries, keys and values; None: there is none.

    Example, with ``ctx`` a context:
        >>> layer = AttentionPart(heads=4).build(32, ctx)
        >>> layer(torch.zeros(2, 5, 32), layer.products(torch.float32)).shape
        torch.Size([2, 5, 32])
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
        position: PositionPart,
        theta: float = 10_000.0,
        biases: tuple[bool, bool] = (False, False),
        norms: tuple[nn.Module | None, nn.Module | None] = (None, None),
        whole: bool = False,
        scores: tuple[float | None, float | None] = (None, None),
        length: int = 128,
        pattern: Pattern | None = None,
    ) -> None:
        super().__init__()
        self.pattern, self.position = pattern, position
        self.heads, self.kv_heads, self.head_dim, self.theta = heads, kv_heads, head_dim, theta
        self.whole, (self.scale, self.cap) = whole, scores
        bias, out_bias = biases
        self.q = Matrix(heads * head_dim, width, bias=bias)
        self.k = Matrix(kv_heads * head_dim, width, bias=bias)
        self.v = Matrix(kv_heads * head_dim, width, bias=bias)
        self.out = Matrix(width, heads * head_dim, residual=True, bias=out_bias)
        self.convolution: ShortConvolution | None = None
        self.q_norm, self.k_norm = norms
        self.turns = position.rates(head_dim, theta) is not None
        for name in ("cos", "sin"):
            self.register_buffer(name, torch.empty(0, head_dim // 2, device="cpu"), persistent=False)
        self._reach(length)

    def products(self, dtype: torch.dtype) -> tuple[Product, Product]:
        """What ``forward`` multiplies by, with operands in ``dtype``: joined query-key-value, and output."""
        return joined((self.q, self.k, self.v), dtype), self.out.product(dtype)

    def forward(
        self,
        x: Tensor,
        products: tuple[Product, Product],
        seen: Seen | Padding = None,
        cache: Memory | None = None,
    ) -> Tensor:
        """(batch, length, width) -> same. With a cache, ``x`` continues what the cache holds and is added to it."""
        to_qkv, to_out = products
        batch, length, _ = x.shape
        padding = seen if isinstance(seen, Padding) else None
        seen = None if isinstance(seen, Padding) else self._restricted(seen)
        qkv = self._convolved(to_qkv(x), seen, cache, padding)
        qkv = self._normed(qkv.view(batch, length, -1, self.head_dim))
        if cache is None:
            angles = self._angles(places_of(seen, length), length, x.dtype)
            mixed = attend(qkv, angles, self.heads, seen, scale=self.scale, cap=self.cap)
        else:
            mixed = self._continue(in_dtype(qkv, cache.dtype), cache, padding)
        return to_out(in_dtype(mixed, x.dtype).flatten(2))

    def _convolved(self, qkv: Tensor, seen: Seen, cache: Any, padding: Padding | None) -> Tensor:
        """Queries, keys and values behind their convolution."""
        if self.convolution is None:
            return qkv
        if cache is None:
            return self.convolution(qkv, seen)  # type: ignore[no-any-return]
        mixed: Tensor = cache.convolved(qkv.to(cache.dtype), self.convolution, self.pattern, padding)
        return mixed.to(qkv.dtype)

    def _normed(self, qkv: Tensor) -> Tensor:
        """Queries and keys behind their norms."""
        if self.q_norm is None or self.k_norm is None:
            return qkv
        q, k, v = torch.split(qkv, [self.heads, self.kv_heads, self.kv_heads], 2)
        if self.whole:
            shapes = q.shape, k.shape
            q, k = self.q_norm(exact(q.flatten(2)), qkv.dtype), self.k_norm(exact(k.flatten(2)), qkv.dtype)
            return torch.cat((q.view(shapes[0]), k.view(shapes[1]), v), 2)
        return torch.cat((self.q_norm(exact(q), qkv.dtype), self.k_norm(exact(k), qkv.dtype), v), 2)

    def make_cache(self, batch: int, capacity: int, dtype: torch.dtype) -> KeyValues:
        """Room for keys and values of ``capacity`` tokens at first; it grows as they come."""
        sizes = batch, self.kv_heads, capacity, self.head_dim, dtype, self.q.weight.device
        return KeyValues(*sizes) if self.convolution is None else ConvolvedKeyValues(*sizes, *self._channels())

    def make_slots(self, dtype: torch.dtype) -> SlotKeyValues:
        """The same for sequences that come and go; none yet."""
        sizes = self.kv_heads, self.head_dim, dtype, self.q.weight.device
        return SlotKeyValues(*sizes) if self.convolution is None else ConvolvedSlotKeyValues(*sizes, *self._channels())

    def _channels(self) -> tuple[int]:
        return ((self.heads + 2 * self.kv_heads) * self.head_dim,)

    @property
    def by_place(self) -> bool:
        """Whether what a place holds reaches others through keys and values alone, so that ``make_sheet`` serves it."""
        return self.convolution is None

    def make_sheet(self, rows: int, length: int, dtype: torch.dtype) -> SheetKeyValues:
        """The same for texts that are written in any order."""
        return SheetKeyValues(rows, self.kv_heads, length, self.head_dim, dtype, self.q.weight.device)

    def _continue(self, qkv: Tensor, cache: Memory, padding: Padding | None) -> Tensor:
        """The newest queries over all keys, each seeing those up to itself. ``qkv`` is overwritten."""
        if self.turns:
            turn_(qkv[:, :, : self.heads + self.kv_heads], *self._turns(cache, qkv.shape[1]))
        q, both = torch.split(qkv.transpose(1, 2), [self.heads, 2 * self.kv_heads], 1)
        kernel = None if self.cap is None else partial(capped_attend, scale=self.scale, cap=self.cap)
        return cache.attend(q, both, self.pattern, padding, scale=self.scale, kernel=kernel).transpose(1, 2)

    def _turns(self, cache: Memory, length: int) -> tuple[Tensor, Tensor]:
        """What ``turn_`` takes for the next positions, from tables that the cache keeps."""
        places, end = cache.places(length)
        if cache.turns is None or end > cache.turns.shape[1]:
            self._reach(max(end, cache.capacity))
            cos, sin = self.cos.to(cache.dtype), self.sin.to(cache.dtype)
            cache.turns = torch.stack((torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)))[:, :, None]
        cos, sin = cache.turns[:, places].unbind()
        return cos, sin

    def _restricted(self, seen: Seen) -> Seen:
        """Who sees whom, within this layer's own pattern."""
        if self.pattern is None:
            return seen
        if isinstance(seen, Tensor):
            return seen & dense_mask(self.pattern, seen.shape[-1], seen.device)
        if isinstance(seen, Documents):
            return Documents(seen.ids, within(self.pattern, seen.pattern))
        return within(self.pattern, seen)

    def _angles(self, places: Positions | None, length: int, dtype: torch.dtype) -> Angles:
        """Cosine and sine (length, head_dim / 2) of the positions' places; None where nothing turns."""
        if not self.turns:
            return None
        self._reach(length)  # no place lies beyond the number of positions
        chosen = slice(length) if places is None else torch.from_numpy(places).to(self.cos.device)
        return self.cos[chosen].to(dtype), self.sin[chosen].to(dtype)

    def _reach(self, length: int) -> None:
        """Make the tables cover ``length`` positions: twice as many as before at least, so that steps seldom do it."""
        if not self.turns or length <= self.cos.shape[0]:
            return
        length = max(length, 2 * self.cos.shape[0])
        rates = self.position.rates(self.head_dim, self.theta)
        assert rates is not None
        angles = torch.outer(torch.arange(length, dtype=torch.float64, device="cpu"), rates)
        tables, size = (angles.cos(), angles.sin()), self.position.magnitude
        self.cos, self.sin = ((table if size == 1 else table * size).float().to(self.cos.device) for table in tables)


@part
class AttentionPart(MixerPart):
    """Multi-head causal self-attention with rotary positions.

    The mixer of the default model, and with its switches that of most published ones: grouped key-value heads, other
    positions, norms of queries and keys, biases, capped scores.

    Example:
        >>> part = AttentionPart(heads=4, kv_heads=2)
        >>> part.dimensions(32), [(shape.name, shape.shape) for shape in part.shapes(32)][:2]
        ((4, 2, 8), [('q.weight', (32, 32)), ('k.weight', (16, 32))])
    """

    heads: PositiveInt = 4
    """Query heads."""
    kv_heads: PositiveInt | None = None
    """Key-value heads, a divisor of ``heads``; by default as many."""
    head_dim: PositiveInt | None = None
    """Width of a head, even where it turns; by default the model's width / heads."""
    position: Annotated[PositionSlot, Later()] = "rotary"  # type: ignore[assignment]
    """What tells a query how far away a key is."""
    theta: PositiveFloat = 10_000.0
    """Base of the rotary wavelengths: the slowest turns once in 2 pi theta tokens."""
    bias: Annotated[bool, Later()] = False
    """Whether queries, keys and values have a bias."""
    out_bias: Annotated[bool, Later()] = False
    """Whether the output has a bias."""
    qk_norm: bool = False
    """Normalise queries and keys before they are rotated."""
    qk_norm_by: Annotated[NormSlot, Later()] = "rms"  # type: ignore[assignment]
    """Which norm that is."""
    qk_norm_whole: Annotated[bool, Later()] = False
    """Normalise all heads' numbers together, with a gain for each, not those of each head, with one gain for all."""
    norm_eps: PositiveFloat = 1e-5
    """Added to the mean square in that norm."""
    scale: Annotated[PositiveFloat | None, Later()] = None
    """Factor on the scores; by default 1 / sqrt(head_dim)."""
    cap: Annotated[PositiveFloat | None, Later()] = None
    """Bounds the scores softly, as cap tanh(score / cap)."""
    pattern: PatternSlot | None = None
    """What a position sees at most, e.g. ``window``; by default all that the objective lets it see."""
    convolution: Annotated[Annotated[int, Field(ge=2)] | None, Later()] = None
    """Taps of a depthwise convolution over queries, keys and values, its own position and those before it, as Primer's
    3; by default there is none."""
    card = Card(
        summary="Softmax attention over all earlier positions",
        paper="Vaswani et al. 2017, arXiv 1706.03762; RoPE: Su et al. 2021, arXiv 2104.09864; "
        "grouped key-value heads: Ainslie et al. 2023, arXiv 2305.13245; qk_norm: Henry et al. 2020, arXiv 2010.04245; "
        "cap: Gemma 2, arXiv 2408.00118; convolution: Primer, So et al. 2021, arXiv 2109.08668",
        equation="softmax(R q (R k)' / sqrt(head_dim), causal) v",
        differs="no biases by default; rotary halves (a, b) as in Llama; qk_norm has one gain for all heads",
        cost="4 projections, and 4 head_dim FLOPs for each head and pair of positions; on a CPU blocks of "
        "64 or 128 queries skip most of the masked half",
    )
    provides = frozenset({Cacheable})

    def build(self, width: int, ctx: Context) -> Attention:
        heads, kv_heads, head_dim = self.dimensions(width)
        norms = [self.qk_norm_by.build(size, self.norm_eps) for size in self._normed(width)]
        made = Attention(
            width,
            heads,
            kv_heads,
            head_dim,
            position=self.position,
            theta=self.theta,
            biases=(self.bias, self.out_bias),
            norms=(norms[0], norms[1]) if norms else (None, None),
            whole=self.qk_norm_whole,
            scores=(self.scale, self.cap),
            length=ctx.length,
            pattern=self.pattern,
        )
        if self.convolution is not None:
            made.convolution = ShortConvolution((heads + 2 * kv_heads) * head_dim, self.convolution)
        return made

    def dimensions(self, width: int) -> tuple[int, int, int]:
        """Query heads, key-value heads, width of a head."""
        return self.heads, self.kv_heads or self.heads, self.head_dim or width // self.heads

    def _normed(self, width: int) -> tuple[int, ...]:
        """Widths of the norms of queries and of keys; none where they have none."""
        heads, kv_heads, head_dim = self.dimensions(width)
        if not self.qk_norm:
            return ()
        return (heads * head_dim, kv_heads * head_dim) if self.qk_norm_whole else (head_dim, head_dim)

    def takes(self, pattern: Pattern | None) -> bool:
        """Any; but a convolution takes neighbours for neighbours in the text, which two copies of a text are not."""
        return self.convolution is None or pattern is None or pattern.places(2) is None

    def instead(self) -> str:
        return "leave out its convolution"

    def problems(self, width: int) -> list[str]:
        heads, kv_heads, head_dim = self.dimensions(width)
        found = []
        if self.head_dim is None and width % heads:
            found.append(f"heads: {heads} do not divide the width {width}; choose a divisor or give head_dim")
        else:
            found += self.position.problems(head_dim)
        if self.theta <= 1:
            found.append(f"theta: is {self.theta}, but wavelengths grow from pair to pair by a base above 1")
        if heads % kv_heads:
            found.append(f"kv_heads: {kv_heads} do not divide heads = {heads}; choose a divisor")
        return found

    def shapes(self, width: int) -> list[Shape]:
        heads, kv_heads, head_dim = self.dimensions(width)
        queries, keys = Axis("heads", head_dim), Axis("kv_heads", head_dim)
        found = [
            *matrix_shapes("q", heads * head_dim, width, self.bias, (queries, WIDTH)),
            *matrix_shapes("k", kv_heads * head_dim, width, self.bias, (keys, WIDTH)),
            *matrix_shapes("v", kv_heads * head_dim, width, self.bias, (keys, WIDTH)),
            *matrix_shapes("out", width, heads * head_dim, self.out_bias, (WIDTH, queries)),
        ]
        if self.convolution is not None:
            found += short_convolution.shapes("convolution", (heads + 2 * kv_heads) * head_dim, self.convolution)
        for name, axis, size in zip(("q_norm", "k_norm"), (queries, keys), self._normed(width), strict=False):
            own = axis if self.qk_norm_whole else Axis("head_dim")
            found += [Shape(f"{name}.{s.name}", s.role, s.shape, (own,)) for s in self.qk_norm_by.shapes(size)]
        return found

    def sliced(self, kept: Kept, width: int) -> Self:
        heads, kv_heads, head_dim = self.dimensions(width)
        queries, keys = kept.get("heads", range(heads)), kept.get("kv_heads", range(kv_heads))
        groups = [sum(head * kv_heads // heads == key for head in queries) for key in keys]
        if len(set(groups)) > 1 or sum(groups) < len(queries):
            what = f"heads {list(queries)} of {heads} leave the {len(keys)} key-value heads {groups} each"
            raise UsageError(what, where="heads", fix="keep as many of each group")
        return self.model_copy(update={"heads": len(queries), "kv_heads": len(keys), "head_dim": head_dim})

    def steps(self, batch: int, length: int, width: int, pattern: Pattern | None = None) -> list[Step]:
        heads, kv_heads, head_dim = self.dimensions(width)
        rotated = batch * length * (heads + kv_heads) * head_dim
        seen = within(self.pattern, pattern)
        pairs, executed = None if seen is None else seen.pairs(length), block_pairs(length, seen)
        gains = tuple(shape.name for shape in self.shapes(width) if shape.name.startswith(("q_norm.", "k_norm.")))
        return [
            Products(("q.weight", "k.weight", "v.weight")),
            *self._convolving(batch, length, width),
            Gains(gains, pointwise(rotated, operations=3 + 4 * self.qk_norm)),
            formulas.attention(batch, heads, head_dim, length, pairs=pairs, executed_pairs=executed),
            Products(("out.weight",)),
        ]

    def _convolving(self, batch: int, length: int, width: int) -> list[Step]:
        if self.convolution is None:
            return []
        heads, kv_heads, head_dim = self.dimensions(width)
        work, own = short_convolution.work(batch, length, (heads + 2 * kv_heads) * head_dim, self.convolution)
        return [Gains(("convolution.weight",), work, own)]

"""A decoder Transformer: a stack of blocks that read normalised vectors from a residual stream and add to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.contracts import Rounds, Seen, around_mixer, places_of
from ..core.contracts.pattern import Positions
from ..core.cost import Work
from ..core.errors import UsageError
from .attend import softly_capped
from .cache import Cache, Padding
from .checkpointing import checkpointed
from .decoding import WeightLayout, Weights, laid_out
from .kernels import decoding, fuse, in_dtype
from .layers import Matrix, exact
from .sheet import WritingSheet
from .slots import Slots


class Block(nn.Module):
    """Norms, a mixer and a feed-forward around a residual stream, arranged by ``rounds`` (``ArrangementPart``).

    The residual stream ``x`` is fp32, norms are computed in fp32, products are in ``dtype``.

    Example, with ``model`` a Transformer of 257 tokens:
        >>> block = next(iter(model.blocks))
        >>> block(torch.zeros(2, 5, 32)).shape
        torch.Size([2, 5, 32])
    """

    def __init__(
        self,
        mixer: nn.Module,
        feed_forward: nn.Module,
        rounds: Rounds,
        norm: Callable[[], nn.Module],
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.dtype, self.rounds = dtype, rounds
        self.mixer: Any
        self.feed_forward: Any
        layers = {"mixer": mixer, "feed_forward": feed_forward}
        for name in dict.fromkeys(name for paths in rounds for path in paths for name in path):
            self.add_module(name, layers[name] if name in layers else norm())

    def products(self) -> tuple[Any, Any]:
        """What mixer and feed-forward multiply by, cast once."""
        return self.mixer.products(self.dtype), self.feed_forward.products(self.dtype)

    def forward(self, x: Tensor, seen: Seen | Padding = None, products: Any = None, cache: Any = None) -> Tensor:
        products = products or self.products()
        if hasattr(self.mixer, "drive"):
            driven: Tensor = self.mixer.drive(x, AroundMixer(self, products[1]), products[0], seen, cache)
            return driven

        def mix(read: Tensor) -> Tensor:
            return self.mixer(in_dtype(read, self.dtype), products[0], seen, cache)  # type: ignore[no-any-return]

        for paths in self.rounds:
            x = self.round(x, paths, products[1], mix)
        return x

    def round(
        self, x: Tensor, paths: Sequence[tuple[str, ...]], products: Any, mix: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """The stream behind one round of paths; ``mix`` stands for the mixer, ``products`` are the feed-forward's."""
        read = x
        for path in paths:
            x = x + self.along(path, read, products, mix)
        return x

    def along(self, path: Sequence[str], x: Tensor, products: Any, mix: Callable[[Tensor], Tensor]) -> Tensor:
        """What the modules of one path make of ``x``."""
        for name in path:
            if name == "mixer":
                x = mix(x)
            elif name == "feed_forward":
                x = self.feed_forward(in_dtype(x, self.dtype), products)
            else:
                x = getattr(self, name)(exact(x), self.dtype)
        return x


class AroundMixer:
    """A block around a mixer that drives it; see ``core.contracts.Around``.

    Args:
        block: whose mixer stands in its first round.
        products: what its feed-forward multiplies by.

    Example, with ``model`` a Transformer of 257 tokens:
        >>> block = next(iter(model.blocks))
        >>> around = AroundMixer(block, block.products()[1])
        >>> around.closes(torch.zeros(2, 1, 32), torch.zeros(2, 1, 32)).abs().max().item()
        0.0
    """

    def __init__(self, block: Block, products: Any) -> None:
        self.block, self.products, self.dtype = block, products, block.dtype
        self.before, self.rounds = around_mixer(block.rounds)

    def reads(self, x: Tensor) -> Tensor:
        return self.block.along(self.before, x, self.products, lambda read: read).to(self.block.dtype)

    def closes(self, x: Tensor, mixed: Tensor) -> Tensor:
        for paths in self.rounds:
            x = self.block.round(x, paths, self.products, lambda read: mixed)
        return x

    @property
    def trained(self) -> bool:
        return any(p.requires_grad for p in self.block.parameters())


class Transformer(nn.Module):
    """A causal language model over token ids; see ``core.contracts.Model``.

    Args:
        vocab_size: rows of the embedding.
        width: of the residual stream.
        blocks: (mixer, feed-forward) of each layer.
        tied: the embedding is the head as well.
        embedding_scale: factor on vectors that enter the residual stream; by default sqrt(width) where tied, else 1.
        positions: rows of a learned table that is added to embedded tokens; 0: there is none.
        cap: bounds the logits softly, as cap tanh(logit / cap); None: nothing does.
        rounds: how each block's norms, mixer and feed-forward are arranged.
        norm: makes a norm of vectors of that width.
        dtype: of products; weights and residual stream are fp32.
        work: exact work of one forward and backward of (batch, length).
        checkpointing: each block keeps its input alone for the backward pass, which computes the rest again (Chen et
            al. 2016, arXiv 1604.06174).

    Example, with ``model`` a Transformer of 257 tokens:
        >>> isinstance(model, Transformer), model(torch.zeros(2, 16, dtype=torch.int64)).shape
        (True, torch.Size([2, 16, 257]))
    """

    def __init__(
        self,
        vocab_size: int,
        width: int,
        blocks: list[tuple[nn.Module, nn.Module]],
        *,
        tied: bool,
        embedding_scale: float | None = None,
        positions: int = 0,
        cap: float | None = None,
        rounds: Rounds,
        norm: Callable[[], nn.Module],
        dtype: torch.dtype,
        work: Callable[..., Work],
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.dtype, self.flops, self.cap, self.checkpointing = dtype, work, cap, checkpointing
        # The stream enters the blocks with unit variance. A tied embedding has the head's scale, so it is multiplied on
        # entering (Vaswani et al. 2017, section 3.4). Without that factor it learns far more slowly, also from GPT-2's
        # standard deviation of 0.02: benchmarks/results/tied_start.json. What it means to the head: ``layers.oppose``.
        self.scale = embedding_scale or (width**0.5 if tied else 1.0)
        self.embedding = Matrix(vocab_size, width, role="embedding", std=1 / (width**0.5 if tied else self.scale))
        # Enters with a quarter of the tokens' variance: enough to be told apart, too little to drown them.
        std = self.embedding.std * self.scale / 2
        self.positions = Matrix(positions, width, role="embedding", std=std) if positions else None
        made = (Block(mixer, feed_forward, rounds, norm, dtype) for mixer, feed_forward in blocks)
        self.blocks: Iterable[Block] = nn.ModuleList(made)  # type: ignore[assignment]
        self.norm = norm()
        self.unembedding = None if tied else Matrix(vocab_size, width, role="head")

    @property
    def head(self) -> Tensor:
        """Weight (vocab, width) that turns ``hidden`` into logits."""
        return (self.embedding if self.unembedding is None else self.unembedding).read()

    @property
    def longest(self) -> int | None:
        """Tokens that it has learned positions for; None: it takes any number."""
        return None if self.positions is None else len(self.positions.read())

    def hidden(self, tokens: Tensor, seen: Seen = None) -> Tensor:
        """(batch, length) ids -> (batch, length, width) vectors before the head, in the products' dtype.

        ``seen`` says who sees whom (``core.contracts.pattern``); None is causal.
        """
        x = self._embed(tokens, places=places_of(seen, tokens.shape[1]))
        for block in self.blocks:
            x = checkpointed(block, x, seen) if self.checkpointing and torch.is_grad_enabled() else block(x, seen)
        return self.norm(x, self.dtype)  # type: ignore[no-any-return]

    def _embed(
        self, tokens: Tensor, cache: Cache | Slots | WritingSheet | None = None, places: Positions | None = None
    ) -> Tensor:
        """Vectors that enter the blocks; ``cache`` holds what the tokens follow, ``places`` says where they stand."""
        x = exact(F.embedding(tokens, self.embedding.read()))
        x = x if self.scale == 1.0 else x * self.scale
        if self.positions is None:
            return x
        weight = self.positions.read()
        if places is not None:
            return x + exact(F.embedding(torch.from_numpy(places).to(tokens.device), weight))
        new = tokens.shape[1]
        among, last = (slice(0, new), new) if cache is None else cache.places(new)
        if last > len(weight):
            what = f"{last} tokens are more than the {len(weight)} positions that the model has learned"
            raise UsageError(what, where="model.positions", fix="use shorter texts, or a model with rotary positions")
        return x + exact(weight[among] if isinstance(among, slice) else F.embedding(among, weight))

    def forward(self, tokens: Tensor, seen: Seen = None) -> Tensor:
        """(batch, length) ids -> logits (batch, length, vocab) in the products' dtype. ``seen`` as in ``hidden``."""
        return self._capped(F.linear(self.hidden(tokens, seen), fuse((self.head,), self.dtype)))

    def _capped(self, logits: Tensor) -> Tensor:
        return logits if self.cap is None else softly_capped(logits, self.cap)


class CachingTransformer(Transformer):
    """One whose mixers all continue a cache; see ``core.contracts.Cacheable``.

    Example, with ``model`` a Transformer of 257 tokens:
        >>> cache = model.make_cache(1, 16)
        >>> model.step(torch.tensor([[1, 2, 3]]), cache).shape, cache.length
        (torch.Size([1, 3, 257]), 3)
    """

    def make_cache(self, batch: int, capacity: int, *, pads: Sequence[int] | None = None) -> Cache:
        """A cache for ``step``, with the weights as they are now.

        Args:
            batch: sequences.
            capacity: tokens of each at first.
            pads: how many of each sequence's first tokens are padding; None: none.
        """
        return self.prepared(batch).make_cache(batch, capacity, pads=pads)

    @decoding()
    def prepared(self, rows: int, weights: Weights | None = None) -> Prepared:
        """This model with its weights as they are now, laid out once for many caches.

        Args:
            rows: sequences that are to decode together, about.
            weights: "int8" rounds them to 8 bits each; None keeps them.
        """
        layout = WeightLayout(rows, weights)
        twin = laid_out(self, layout)
        head = layout.linear(fuse((twin.head,), self.dtype))
        return Prepared(self, [layout.of(block.products()) for block in twin.blocks], head)

    @decoding()
    def step(self, tokens: Tensor, cache: Cache | Slots | WritingSheet, last: int | Tensor | None = None) -> Tensor:
        """(batch, n) ids that follow those in the cache -> logits (batch, n, vocab); the cache grows by n.

        With ``last`` only the logits of so many last tokens are computed, or those of the tokens that it indexes.
        """
        x = self._embed(tokens, cache)
        for block, products, layer in zip(self.blocks, cache.products, cache.layers, strict=True):
            x = block.forward(x, cache.padding, products, layer)
        if last is not None:
            x = x[:, last] if isinstance(last, Tensor) else x[:, -last:]
        return self._capped(cache.head(self.norm(x, self.dtype)))


@dataclass(frozen=True)
class Prepared:
    """A model whose weights are laid out for decoding: prepare it anew after they have changed.

    What is laid out is a copy; embeddings, gains, biases and what lies right as it is remain the model's own.

    Args:
        model: what it was made of.
        products: what each block multiplies by.
        to_logits: the product with the head.

    Example, with ``model`` a Transformer of 257 tokens:
        >>> ready = model.prepared(rows=2)
        >>> cache = ready.make_cache(2, 16, pads=[0, 1])
        >>> ready.step(torch.tensor([[1, 2, 3], [0, 4, 5]]), cache, last=1).shape
        torch.Size([2, 1, 257])
    """

    model: CachingTransformer
    products: list[tuple[Any, Any]]
    to_logits: Callable[[Tensor], Tensor]

    @property
    def head(self) -> Tensor:
        """The model's."""
        return self.model.head

    @decoding()
    def make_cache(self, batch: int, capacity: int, *, pads: Sequence[int] | None = None) -> Cache:
        """An empty cache for ``step``; see ``CachingTransformer.make_cache``."""
        layers = [block.mixer.make_cache(batch, capacity, self.model.dtype) for block in self.model.blocks]
        padding = Padding(pads, self.head.device) if pads is not None and any(pads) else None
        return Cache(layers, self.products, self.to_logits, padding)

    @decoding()
    def make_slots(self) -> Slots:
        """Sequences that the model continues together, none yet.

        Raises:
            UsageError: a mixer has no ``make_slots``.
        """
        for block in self.model.blocks:
            if not hasattr(block.mixer, "make_slots"):
                raise UsageError(
                    f"{type(block.mixer).__name__} continues sequences that stand at one position, not any",
                    where="model.mixer",
                    fix="give each sequence a cache of its own (make_cache), or use the mixer gated_delta",
                )
        layers = [block.mixer.make_slots(self.model.dtype) for block in self.model.blocks]
        return Slots(self, layers, self.products, self.to_logits)

    def step(self, tokens: Tensor, cache: Cache | Slots | WritingSheet, last: int | Tensor | None = None) -> Tensor:
        """The model's."""
        return self.model.step(tokens, cache, last)

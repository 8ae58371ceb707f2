"""The contracts of a model and of what it is made of."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from ..context import Context
from ..cost import Work
from ..registry import Part
from ..roles import Shape
from .pattern import Pattern, Seen

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@runtime_checkable
class Model(Protocol):
    """A ``torch.nn.Module`` over token ids.

    ``forward(tokens, seen)`` gives logits (batch, length, vocab); ``hidden`` the (batch, length, width) vectors before
    the head, and ``head`` its weight (vocab, width), for losses that never hold all logits. ``seen`` says who sees
    whom; None is causal. ``flops(batch, length, pattern)`` is the exact work of one forward and backward.
    """

    def forward(self, tokens: Tensor, seen: Seen = None) -> Tensor: ...
    def hidden(self, tokens: Tensor, seen: Seen = None) -> Tensor: ...
    def flops(self, batch: int, length: int, pattern: Pattern | None = None) -> Work: ...


@runtime_checkable
class Cacheable(Protocol):
    """A model that can decode step by step.

    A cache has room for ``capacity`` tokens of each of ``batch`` sequences at first, and grows with what is added.
    """

    def make_cache(self, batch: int, capacity: int) -> Any: ...
    def step(self, tokens: Tensor, cache: Any) -> Tensor: ...


class ModelPart(Part):
    """An architecture: parameters, work and memory are known before anything is built."""

    slot: ClassVar[str] = "model"

    @abstractmethod
    def build(self, ctx: Context) -> torch.nn.Module: ...

    @abstractmethod
    def work(self, batch: int, length: int, vocab_size: int, pattern: Pattern | None = None) -> Work:
        """Exact work of one forward and backward of a micro-batch, without building the model.

        Args:
            batch, length: rows of the micro-batch, and positions of each.
            vocab_size: rows of the head.
            pattern: who sees whom; None is causal.
        """

    @abstractmethod
    def shapes(self, vocab_size: int) -> list[Shape]:
        """Names, roles and shapes of all parameters, without building the model."""


class LayerPart(Part):
    """What a layer of a model is made of: a module over (batch, length, width) vectors.

    The module has ``weights(dtype)``, the matrices cast for products, which ``forward`` is given.
    """

    @abstractmethod
    def build(self, width: int, ctx: Context) -> torch.nn.Module: ...

    @abstractmethod
    def shapes(self, width: int) -> list[Shape]:
        """Names, roles and shapes of its parameters, without building it."""

    def problems(self, width: int) -> list[str]:
        """Why it cannot be built at this width, each "key: what; what to do"."""
        return []


class MixerPart(LayerPart):
    """Sub-slot of a model: what moves information between positions.

    Its module has ``forward(x, weights, seen, cache)``; a Cacheable one ``make_cache(batch, capacity, dtype)``, whose
    result has ``length`` and ``truncate(length)``.
    """

    slot: ClassVar[str] = "mixer"

    @abstractmethod
    def work(self, batch: int, length: int, width: int, pattern: Pattern | None = None) -> Work:
        """Exact work of one forward and backward; ``pattern`` says who sees whom, None is causal."""

    def takes(self, pattern: Pattern | None) -> bool:
        """Whether it can obey the pattern (None: causal); by default only the causal one."""
        return pattern is None


class FeedForwardPart(LayerPart):
    """Sub-slot of a model: what is computed at each position. Its module has ``forward(x, weights)``."""

    slot: ClassVar[str] = "feed_forward"

    @abstractmethod
    def work(self, batch: int, length: int, width: int) -> Work:
        """Exact work of one forward and backward."""

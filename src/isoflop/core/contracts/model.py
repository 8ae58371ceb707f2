"""The contracts of a model: what its module can do, and what is known of it before it is built."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self, runtime_checkable

from pydantic import PrivateAttr

from ..context import Context
from ..cost import Work
from ..registry import Part
from ..roles import Shape
from .parametrization import Treatment
from .pattern import Pattern, Seen

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@runtime_checkable
class Model(Protocol):
    """A ``torch.nn.Module`` over token ids.

    ``forward(tokens, seen)`` gives logits (batch, length, vocab); ``hidden`` the (batch, length, width) vectors before
    the head, and ``head`` its weight (vocab, width), for losses that never hold all logits; a model whose logits are
    bounded softly, cap tanh(hidden head' / cap), has that number as its attribute ``cap``. ``seen`` says who sees
    whom; None is causal. ``flops(batch, length, pattern)`` is the exact work of one forward and backward.
    """

    def forward(self, tokens: Tensor, seen: Seen = None) -> Tensor: ...
    def hidden(self, tokens: Tensor, seen: Seen = None) -> Tensor: ...
    def flops(self, batch: int, length: int, pattern: Pattern | None = None) -> Work: ...


@runtime_checkable
class Cacheable(Protocol):
    """A model that can decode step by step.

    A cache has room for ``capacity`` tokens of each of ``batch`` sequences at first, and grows with what is added. It
    has ``length``, ``truncate(length)`` (forget all but the first tokens) and ``select(rows)`` (keep these sequences,
    in this order; one may be taken several times).
    """

    def make_cache(self, batch: int, capacity: int, *, pads: Sequence[int] | None = None) -> Any:
        """An empty cache, which keeps the weights as they are now.

        Args:
            batch: sequences.
            capacity: tokens of each at first.
            pads: how many of each sequence's first tokens are padding, which nothing else sees; None: none.
        """

    def step(self, tokens: Tensor, cache: Any, last: int | None = None) -> Tensor:
        """(batch, n) ids that follow those in the cache -> logits (batch, n, vocab); the cache grows by n.

        With ``last`` only the logits of so many last tokens are computed. No gradient can be taken.
        """


@runtime_checkable
class Preparable(Protocol):
    """A Cacheable model that lays its weights out for decoding, once for many caches."""

    def prepared(self, rows: int, weights: Literal["int8"] | None = None) -> Cacheable:
        """The model with its weights as they are now.

        Args:
            rows: sequences that are to decode together, about.
            weights: "int8" computes with weights of 8 bits; None with their own.
        """


@runtime_checkable
class Varies(Protocol):
    """A module of a model that computes in one of several variants, small ones first, the last one whole.

    In training the step says which (it is ``Timed``, too), by the model's ``Turns`` from the stream ``VARIANT``;
    otherwise it is whole, unless it was told to ``take`` another.

    Attributes:
        variants: how many there are.
        taken: the one that it was told to take; None: none.
    """

    variants: int
    taken: int | None

    @property
    def variant(self) -> int:
        """The present one."""

    def take(self, variant: int | None) -> None:
        """Compute in this variant from now on; None: as the step says."""


VARIANT = "variant"
"""The stream of a run's random numbers by which the variants of its steps are drawn."""


class ModelPart(Part):
    """An architecture: parameters, work and memory are known before anything is built."""

    slot: ClassVar[str] = "model"

    _treatment: Treatment = PrivateAttr(Treatment())

    def treated(self, treatment: Treatment) -> Self:
        """The same architecture with some weights frozen or parametrized: ``build`` and ``work`` obey it."""
        copy = self.model_copy()
        copy._treatment = treatment
        return copy

    @property
    def treatment(self) -> Treatment:
        """What is frozen and parametrized."""
        return self._treatment

    @abstractmethod
    def build(self, ctx: Context) -> torch.nn.Module: ...

    @abstractmethod
    def work(self, batch: int, length: int, vocab_size: int, pattern: Pattern | None = None) -> Work:
        """Exact work of one forward and backward of a micro-batch, without building the model.

        Args:
            batch: rows of the micro-batch.
            length: positions of each.
            vocab_size: rows of the head.
            pattern: who sees whom; None is causal.
        """

    @abstractmethod
    def shapes(self, vocab_size: int) -> list[Shape]:
        """Names, roles and shapes of the architecture's own parameters, without building the model."""

    @property
    def variants(self) -> int:
        """In how many variants a step may train it; see ``Varies``. By default one, the whole."""
        return 1

    def varied(self, variant: int) -> Self:
        """This architecture as it is priced in one of its variants."""
        return self

    def idle(self) -> frozenset[str]:
        """Names of its own parameters that its variant has no use for: they get no gradient. By default none."""
        return frozenset()

    def joined(self, tensors: Mapping[str, Tensor]) -> tuple[Self, Mapping[str, Tensor]]:
        """The same model in as few pieces as use needs, where training needs more: its part and its tensors.

        By default it is what it was.
        """
        return self, tensors

    def all_shapes(self, vocab_size: int) -> list[Shape]:
        """Those of the built model: the architecture's own, and what parametrizations add."""
        return self.treatment.shapes(self.shapes(vocab_size))

    def trained_shapes(self, vocab_size: int) -> list[Shape]:
        """Those of the parameters that are trained."""
        return [shape for shape in self.all_shapes(vocab_size) if self.treatment.trains(shape)]

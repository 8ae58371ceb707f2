"""The contracts of a model and of what it is made of."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self, TypeAlias, runtime_checkable

from pydantic import PrivateAttr

from ..context import Context
from ..cost import Cost, Work
from ..errors import UsageError
from ..registry import Part
from ..roles import Shape
from .parametrization import Treatment
from .pattern import Pattern, Seen

if TYPE_CHECKING:
    import torch
    from torch import Tensor


Kept = Mapping[str, Sequence[int]]
"""By axis the units of it that stay, ascending; axes that are not given stay whole."""


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


@dataclass(frozen=True)
class Products:
    """Weights that a layer applies to the same vectors, one of each position: their names within the layer.

    The bias of ``q.weight``, if there is one, is ``q.bias``; it needs no naming.

    Args:
        names: of the weights.
        vectors: how many each of them is applied to; by default all, as many as there are positions.

    Example:
        >>> Products(("gate.weight", "up.weight")).names
        ('gate.weight', 'up.weight')
    """

    names: tuple[str, ...]
    vectors: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Gains:
    """Parameters that a layer applies number by number, as gains: their names within the layer, and the exact work.

    Where products make the parameters' gradient, as a convolution's, ``own`` is its cost, and the backward of ``work``
    the vectors' alone.

    Example:
        >>> Gains(("weight",), Work()).names
        ('weight',)
    """

    names: tuple[str, ...]
    work: Work
    own: Cost | None = None


@dataclass(frozen=True)
class Beside:
    """What a layer computes from constants, beside its vectors: a filter from positions, for example.

    Example:
        >>> Beside(16, (Products(("filter.weight",)),)).vectors
        16
    """

    vectors: int
    """How many constant vectors enter; products of its steps are with so many."""
    steps: tuple[Step, ...]
    """What is computed of them, in order; what follows in the layer reads it together with the layer's vectors."""


Step: TypeAlias = Products | Gains | Work | Beside
"""What a layer computes at one point: products with weights, something with gains, something without parameters, or
several of these beside its vectors."""


class LayerPart(Part):
    """What a layer of a model is made of: a module over (batch, length, width) vectors.

    The module has ``products(dtype)``, callables x -> x W' with operands in ``dtype``, which ``forward`` is given. They
    come from ``models.layers.joined`` or ``Matrix.product``, so that a parametrization can take a weight's place.
    """

    @abstractmethod
    def build(self, width: int, ctx: Context) -> torch.nn.Module: ...

    @abstractmethod
    def shapes(self, width: int) -> list[Shape]:
        """Names, roles and shapes of its parameters, without building it."""

    @abstractmethod
    def steps(self, batch: int, length: int, width: int, pattern: Pattern | None = None) -> list[Step]:
        """What it computes, in order: products with its weights, and the exact work of what lies between them.

        Args:
            batch: rows.
            length: positions of each.
            width: of the vectors.
            pattern: who sees whom, for a mixer; None is causal.
        """

    def problems(self, width: int) -> list[str]:
        """Why it cannot be built at this width, each "key: what; what to do"."""
        return []

    def sliced(self, kept: Kept, width: int) -> Self:
        """The same layer with fewer units on some of its axes; all sizes that follow from the width are then said.

        Args:
            kept: by axis, as its shapes name them, the units that stay.
            width: of the vectors before anything is cut.

        Raises:
            UsageError: it cannot be cut so.
        """
        raise UsageError(f"{self.slot} {self.name} cannot be cut", where="model", fix="leave it whole")

    @property
    def variants(self) -> int:
        """In how many variants a step may train it; its module ``Varies`` then. By default one, the whole."""
        return 1

    def varied(self, variant: int) -> Self:
        """This part as it is priced in one of its variants."""
        return self

    def idle(self, width: int) -> frozenset[str]:
        """Names, as in ``shapes``, of parameters that its variant has no use for; by default none."""
        return frozenset()


class NormPart(Part):
    """Sub-slot of a model: what keeps vectors at one scale, before each layer and before the head.

    Its module has ``forward(x, dtype)``: fp32 vectors (..., width) -> the same shape in ``dtype``. Where a tied head
    follows, its gain must be the parameter ``weight`` (width,), since such a model starts with gains of both signs; a
    gain that is counted from another number than 0, as 1 + ``weight``, says so in the module's attribute ``origin``.
    """

    slot: ClassVar[str] = "norm"

    @abstractmethod
    def build(self, width: int, eps: float) -> torch.nn.Module:
        """The norm of vectors of ``width`` numbers; ``eps`` is added to what it divides by, squared."""

    @abstractmethod
    def shapes(self, width: int) -> list[Shape]:
        """Names, roles and shapes of its parameters, without building it."""

    @abstractmethod
    def work(self, tokens: int, width: int) -> Work:
        """Exact work of one forward and backward on ``tokens`` vectors."""


class MixerPart(LayerPart):
    """Sub-slot of a model: what moves information between positions.

    Its module has ``forward(x, products, seen, cache)``; a Cacheable one ``make_cache(batch, capacity, dtype)``, whose
    result has ``length``, ``truncate(length)`` and ``select(rows)``, rows an index tensor. With a cache ``seen`` is
    None or a ``models.cache.Padding``, which says where each row begins. A result may have ``join(layers)``, which is
    told what all mixers of the model keep: layers that step in turn can share work.

    Class attributes:
        isolates: whether it can keep the documents of one row apart (``Documents``).
    """

    slot: ClassVar[str] = "mixer"
    isolates: ClassVar[bool] = True

    @property
    def longest(self) -> int | None:
        """Positions that it can take at most; None: any number."""
        return None

    def takes(self, pattern: Pattern | None) -> bool:
        """Whether it can obey the pattern (None: causal); by default only the causal one."""
        return pattern is None

    def instead(self) -> str:
        """What to do where it cannot."""
        return "use another mixer"


@runtime_checkable
class Around(Protocol):
    """What a block does around its mixer, each position by itself, as a mixer sees it that drives the block."""

    dtype: torch.dtype
    """Of the block's products."""

    def reads(self, x: Tensor) -> Tensor:
        """What the mixer reads of vectors (batch, n, width) of the residual stream, in the products' dtype."""

    def closes(self, x: Tensor, mixed: Tensor) -> Tensor:
        """The block's output, where ``x`` comes in and the mixer gives ``mixed``, both (batch, n, width)."""

    @property
    def trained(self) -> bool:
        """Whether a parameter of the block is trained."""


class DrivingMixerPart(MixerPart):
    """A mixer that drives its block: what it gives at one position depends on the block's output at earlier ones.

    Its module has ``drive(x, around, products, seen, cache)`` as well, which gives the block's output: ``x`` is what
    comes in, ``around`` an ``Around``. ``forward`` is the same with nothing around it: its own output is what later
    positions see. So that its gradient needs no more than one of each part of the block, the block's outputs are found
    first, without a gradient; what follows from them is then computed once more, for all positions at once.
    """

    @abstractmethod
    def opening(self, batch: int, length: int, width: int) -> list[Step]:
        """What it computes of what it reads, all positions at once."""

    @abstractmethod
    def between(self, batch: int, length: int, width: int) -> Work:
        """What positions give one another, and its gradient."""

    @abstractmethod
    def closing(self, batch: int, length: int, width: int) -> list[Step]:
        """What it computes of what it gathered, before the rest of the block."""

    @abstractmethod
    def keeping(self, batch: int, length: int, width: int) -> list[Step]:
        """What it computes of what it reads of the block's output."""

    def steps(self, batch: int, length: int, width: int, pattern: Pattern | None = None) -> list[Step]:
        sizes = batch, length, width
        return [*self.opening(*sizes), self.between(*sizes), *self.closing(*sizes), *self.keeping(*sizes)]


Rounds = tuple[tuple[tuple[str, ...], ...], ...]
"""See ``ArrangementPart``."""


class ArrangementPart(Part):
    """Sub-slot of a model: where a block's norms stand, and what its mixer and feed-forward read.

    A new arrangement is one table, from which both the module and its price are made.

    Class attributes:
        rounds: a block's rounds in order. In each, every path reads the residual stream, which then grows by the sum of
            what the paths give. A path names modules in order: "mixer", "feed_forward", and norms, by any other name.

    Example:
        >>> class Usual(ArrangementPart):
        ...     rounds = ((("mixer_norm", "mixer"),), (("feed_forward_norm", "feed_forward"),))
        >>> Usual().modules()
        ('mixer_norm', 'mixer', 'feed_forward_norm', 'feed_forward')
    """

    slot: ClassVar[str] = "arrangement"
    rounds: ClassVar[Rounds] = ()

    def modules(self) -> tuple[str, ...]:
        """Names of a block's modules, in order, each once."""
        return tuple(dict.fromkeys(name for paths in self.rounds for path in paths for name in path))


class PositionPart(Part):
    """Sub-slot of attention: what tells a query how far away a key is."""

    slot: ClassVar[str] = "position"

    @abstractmethod
    def rates(self, head_dim: int, theta: float) -> Tensor | None:
        """Radians by which each of a head's pairs turns from one position to the next.

        Args:
            head_dim: numbers of a head. Number i and number i + head_dim / 2 are a pair.
            theta: base of the wavelengths.

        Returns:
            float64 (head_dim / 2,); None: queries and keys stay as they are, and ``head_dim`` may be odd.
        """

    @property
    def magnitude(self) -> float:
        """Factor on what is turned."""
        return 1.0

    def problems(self, head_dim: int) -> list[str]:
        """Why heads of that size cannot have it, each "key: what; what to do"."""
        return []


class FeedForwardPart(LayerPart):
    """Sub-slot of a model: what is computed at each position. Its module has ``forward(x, products)``."""

    slot: ClassVar[str] = "feed_forward"

    def joined(self, tensors: Mapping[str, Tensor], width: int) -> tuple[FeedForwardPart, Mapping[str, Tensor]]:
        """The same layer in as few pieces as use needs; see ``ModelPart.joined``. By default it is what it was.

        Args:
            tensors: the layer's, by name within it.
            width: of the model's vectors.
        """
        return self, tensors

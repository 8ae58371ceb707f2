"""The contracts of what a model is made of: mixers, feed-forwards, norms, and how a block joins them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, Self, TypeAlias, runtime_checkable

from ..context import Context
from ..cost import Cost, Work
from ..errors import UsageError
from ..registry import Part
from ..roles import Shape
from .pattern import Pattern

if TYPE_CHECKING:
    import torch
    from torch import Tensor


Kept = Mapping[str, Sequence[int]]
"""By axis the units of it that stay, ascending; axes that are not given stay whole."""


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


def around_mixer(rounds: Rounds) -> tuple[tuple[str, ...], Rounds]:
    """What a mixer of the first round reads through, and the rounds from that mixer on.

    Example:
        >>> around_mixer(((("mixer_norm", "mixer"),), (("feed_forward",),)))
        (('mixer_norm',), ((('mixer',),), (('feed_forward',),)))
    """
    path = next(path for path in rounds[0] if "mixer" in path)
    place = path.index("mixer")
    behind = tuple(path[place:] if each is path else each for each in rounds[0])
    return path[:place], (behind, *rounds[1:])


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

"""What a model's pass costs when some weights are frozen or parametrized: only gradients that are needed are computed.

Walking through a model in order, a vector is *live* once something before it is trained. A product's gradient for its
input is computed where the input is live, its gradient for the weight where the weight is trained, and a mixing's where
what it mixes is live: exactly what autograd executes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from ..core.contracts import Gains, LayerPart, NormPart, Pattern, Products, Rounds, Treatment
from ..core.cost import ZERO, Work
from ..core.roles import Shape
from ..ledger import formulas


class Walk:
    """The bill of a walk through a model, step by step.

    Args:
        treatment: what is frozen and parametrized.
        shapes: the model's own parameters.

    Attributes:
        live: whether the present vectors need a gradient.
        work: the bill so far.

    Example:
        >>> walk = Walk(Treatment(None, ()), [])
        >>> walk.live
        False
    """

    def __init__(self, treatment: Treatment, shapes: Sequence[Shape]) -> None:
        self.treatment, self.live, self.work = treatment, False, Work()
        self._plain, self._needed = True, ZERO
        self._shapes: Mapping[str, Shape] = {shape.name: shape for shape in shapes}

    @contextmanager
    def block(self) -> Iterator[None]:
        """What happens inside is computed again in the backward pass if activations are checkpointed.

        It ends where autograd kept something last: a product's operands are kept and not its result, so that one at
        the block's end is not computed again. A parametrized weight may keep things in any order; a block with one is
        computed again to its end. See ``models.checkpointing``.
        """
        before = self.work.forward
        self._plain, self._needed = True, before
        yield
        if self.treatment.checkpointing and self.live:
            again = (self._needed if self._plain else self.work.forward) - before
            # The mathematics needs none of it, so it counts as executed alone.
            self.work += Work(recompute=replace(again, flops=0))

    def looked_up(self, name: str) -> None:
        """An embedding ``name`` gives the vectors."""
        self.live = self.live or self.treatment.trains(self._shapes[name])

    def normed(self, part: NormPart, prefix: str, tokens: int, width: int) -> None:
        """A norm, whose parameters' names begin with ``prefix``."""
        self.scaled([f"{prefix}{shape.name}" for shape in part.shapes(width)], part.work(tokens, width))

    def scaled(self, names: Sequence[str], work: Work) -> None:
        """Parameters that are applied number by number."""
        self.live = self.live or any(self.treatment.trains(self._shapes[name]) for name in names)
        self.mixed(work)

    def mixed(self, work: Work) -> None:
        """Something without parameters."""
        self.work += work if self.live else Work(forward=work.forward)
        if self.live:
            self._needed = self.work.forward

    def multiplied(self, names: Sequence[str], tokens: int) -> None:
        """Weights that are applied to the same vectors side by side."""
        before, start = self.live, self.work.forward
        for name in names:
            shape = self._shapes[name]
            rows, columns = shape.shape
            trained, part = self.treatment.trains(shape), self.treatment.of(shape)
            if part is not None:
                own = self.treatment.own(shape)
                self.work += part.work(tokens, rows, columns, trained=trained, live=before, own=own)
                self.live = self.live or trained or bool(own)
            else:
                self.work += formulas.linear(tokens, columns, rows, input_gradient=before, weight_gradient=trained)
                self.live = self.live or trained
            bias = self._shapes.get(f"{name.removesuffix('weight')}bias")
            self.live = self.live or (bias is not None and self.treatment.trains(bias))
            self._plain = self._plain and part is None
        if self.live:
            self._needed = start if len(names) == 1 else self.work.forward

    def rounds(self, rounds: Rounds, take: Callable[[str], None]) -> None:
        """A block's rounds (``ArrangementPart``); ``take`` walks through the module of a name."""
        for paths in rounds:
            before = after = self.live
            for path in paths:
                self.live = before
                for name in path:
                    take(name)
                after = after or self.live
            self.live = after

    def layer(self, part: LayerPart, prefix: str, batch: int, length: int, width: int, pattern: Pattern | None) -> None:
        """A mixer or a feed-forward, whose parameters' names begin with ``prefix``."""
        for step in part.steps(batch, length, width, pattern):
            if isinstance(step, Products):
                self.multiplied([f"{prefix}{name}" for name in step.names], batch * length)
            elif isinstance(step, Gains):
                self.scaled([f"{prefix}{name}" for name in step.names], step.work)
            else:
                self.mixed(step)


def layer_work(part: LayerPart, batch: int, length: int, width: int, pattern: Pattern | None = None) -> Work:
    """Exact work of one forward and backward of a layer's part by itself, everything trained and live.

    Example:
        >>> from isoflop.models.feed_forwards.gelu import GeluPart
        >>> layer_work(GeluPart(hidden=64), batch=2, length=5, width=32).forward.flops == 2 * 2 * 5 * 2 * 32 * 64
        True
    """
    walk = Walk(Treatment(), part.shapes(width))
    walk.live = True
    walk.layer(part, "", batch, length, width, pattern)
    return walk.work

"""What a model's pass costs when some weights are frozen or parametrized: only gradients that are needed are computed.

Walking through a model in order, a vector is *live* once something before it is trained. A product's gradient for its
input is computed where the input is live, its gradient for the weight where the weight is trained, and a mixing's where
what it mixes is live: exactly what autograd executes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from ..core.contracts import (
    Beside,
    DrivingMixerPart,
    Gains,
    LayerPart,
    ModelPart,
    NormPart,
    Pattern,
    Products,
    Rounds,
    Step,
    Treatment,
    around_mixer,
    owned,
)
from ..core.cost import ZERO, Cost, Work
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

    def scaled(self, names: Sequence[str], work: Work, own: Cost | None = None) -> None:
        """Parameters that are applied number by number; ``own`` as in ``Gains``."""
        trained = any(self.trains(self._shapes[name]) for name in names)
        if own is not None:
            work = Work(forward=work.forward, backward=work.backward * self.live + own * trained)
        self.live = self.live or trained
        self.mixed(work)

    def mixed(self, work: Work) -> None:
        """Something without parameters."""
        self.work += work if self.live else Work(forward=work.forward)
        if self.live:
            self._needed = self.work.forward

    def multiplied(self, names: Sequence[str], tokens: int | Sequence[int]) -> None:
        """Weights that are applied to the same vectors side by side, one after the other."""
        before = self.live
        each = [tokens] * len(names) if isinstance(tokens, int) else tokens
        for name, tokens in zip(names, each, strict=True):
            last = self.work.forward
            shape = self._shapes[name]
            self.work += self.product(shape, tokens, before)
            bias = self._shapes.get(f"{name.removesuffix('weight')}bias")
            trained = self.trains(shape) or (bias is not None and self.trains(bias))
            self.live = self.live or trained
            self._plain = self._plain and self.treatment.of(shape) is None
        if self.live:
            self._needed = last

    def made(self, name: str) -> None:
        """A weight that is made ready once, to be ``applied`` several times: what a parametrization computes for it."""
        self.work += self._made(name)

    def applied(self, name: str, tokens: int) -> None:
        """One of several products with a weight that was ``made`` before."""
        before = self._made(name)
        self.multiplied([name], tokens)
        self.work -= before

    def _made(self, name: str) -> Work:
        shape = self._shapes[name]
        return Work() if self.treatment.of(shape) is None else self.product(shape, 0, self.live)

    def trains(self, shape: Shape) -> bool:
        """Whether a parameter, or what a parametrization adds to it, is trained."""
        return self.treatment.trains(shape) or bool(self.treatment.own(shape))

    def product(self, shape: Shape, tokens: int, before: bool) -> Work:
        """One weight applied to vectors, which need a gradient if ``before``."""
        rows, columns = shape.shape
        part = self.treatment.of(shape)
        if part is None:
            return formulas.linear(tokens, columns, rows, input_gradient=before, weight_gradient=self.trains(shape))
        trained, own = self.treatment.trains(shape), self.treatment.own(shape)
        return part.work(tokens, rows, columns, trained=trained, live=before, own=own)

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
        if isinstance(part, DrivingMixerPart):
            self.driven(part, prefix, batch, length, width)
        else:
            self.steps(part.steps(batch, length, width, pattern), prefix, batch * length)

    def steps(self, steps: Sequence[Step], prefix: str, tokens: int) -> None:
        """What a layer computes, in order."""
        for step in steps:
            if isinstance(step, Products):
                self.multiplied([f"{prefix}{name}" for name in step.names], step.vectors or tokens)
            elif isinstance(step, Gains):
                self.scaled([f"{prefix}{name}" for name in step.names], step.work, step.own)
            elif isinstance(step, Beside):
                before, self.live = self.live, False
                self.steps(step.steps, prefix, step.vectors)
                self.live = self.live or before
            else:
                self.mixed(step)

    def driven(
        self,
        part: DrivingMixerPart,
        prefix: str,
        batch: int,
        length: int,
        width: int,
        rounds: Rounds = ((("mixer",),),),
        take: Callable[[Walk, str], None] | None = None,
    ) -> None:
        """A block that its mixer drives; ``take`` walks through its other modules, by default there are none.

        What closes and keeps runs position by position, and where a gradient is wanted once more for all positions,
        whose inputs are then given: nothing goes back to what was gathered. A sweep does that, position by position,
        for which it computes both again. What lies between the mixer's own products is then differentiated twice.
        """
        sizes, tokens, came = (batch, length, width), batch * length, self.live
        before, behind = around_mixer(rounds)

        done: list[bool] = []  # whether all positions' pass has the vectors' gradient of its own products
        swept: list[Cost] = []

        def own(walk: Walk, steps: list[Step]) -> None:
            before, live = walk.work.backward, walk.live
            walk.steps(steps, prefix, tokens)
            if walk is self:
                done.append(live)
            else:
                swept.append(walk.work.backward - before)

        def go(walk: Walk, names: Sequence[str]) -> None:
            for name in names:
                if name == "mixer":
                    walk.live = walk is not self  # the sweep's are, those that are given are not
                    own(walk, part.closing(*sizes))
                elif take is not None:
                    take(walk, name)

        def rest(walk: Walk) -> bool:
            """What closes and keeps: whether anything there needs a gradient."""
            walk.rounds(behind, lambda name: go(walk, (name,)))
            closed, walk.live = walk.live, walk is not self
            go(walk, before)
            own(walk, part.keeping(*sizes))
            return closed or walk.live

        go(self, before)
        self.steps(part.opening(*sizes), prefix, tokens)
        opened, self.live = self.live, came
        self.live = rest(self) or opened
        between = part.between(*sizes)
        self.work += between if self.live else Work(forward=between.forward)
        if self.live:
            sweep = Sweep(self.treatment, list(self._shapes.values()))
            rest(sweep)
            needed = sum((cost for cost, again in zip(swept, done, strict=True) if not again), ZERO)
            passes = 2 + self.treatment.checkpointing
            again = passes * sweep.work.forward + sweep.work.backward - needed
            self.work += Work(backward=needed, recompute=replace(again, flops=0))
        self._plain = False


class Sweep(Walk):
    """The bill of products that are there already, where nothing but vectors' gradients is wanted.

    Example:
        >>> Sweep(Treatment(None, ()), []).live
        False
    """

    def trains(self, shape: Shape) -> bool:
        return False

    def product(self, shape: Shape, tokens: int, before: bool) -> Work:
        part = self.treatment.of(shape)
        if part is None:
            return super().product(shape, tokens, before)
        rows, columns = shape.shape
        each, made = (part.work(n, rows, columns, trained=False, live=before, own=frozenset()) for n in (tokens, 0))
        return each - made


def vectors_live(model: ModelPart, vocab_size: int) -> bool:
    """Whether a model's vectors before the head depend on something that is trained."""
    treatment = model.treatment
    below = [shape for shape in treatment.shapes(model.shapes(vocab_size)) if shape.role != "head"]
    return any(treatment.trains(shape) for shape in below if not owned(shape.name))


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

"""The decoder Transformer as a part: shapes, work and memory are known before anything is built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, TypeVar

from pydantic import Field, PositiveFloat, PositiveInt

from ...core.context import Context
from ...core.contracts import (
    LAYER,
    Cacheable,
    DrivingMixerPart,
    FeedForwardPart,
    Kept,
    LayerPart,
    MixerPart,
    ModelPart,
    Passes,
    Pattern,
)
from ...core.cost import Work
from ...core.documents import Later
from ...core.registry import Card, Part, part
from ...core.roles import VOCABULARY, WIDTH, Axis, Shape
from ...core.slots import ArrangementSlot, FeedForwardsSlot, MixersSlot, NormSlot
from ..cost import pointwise
from ..memory import beyond_memory
from ..pricing import Walk

if TYPE_CHECKING:
    from torch import Tensor

    from ...core.recipe import Recipe
    from ..transformer import Transformer

Inner = TypeVar("Inner", bound=Part)
MOST_LAYERS = 4096


@part
class TransformerPart(ModelPart):
    """Decoder Transformer.

    The model of nearly every recipe. Its sub-slots make it what published families are: another mixer, a list of
    feed-forwards that tiles over the layers, norms elsewhere. ``work`` prices it exactly before anything is built.

    Example, with ``ctx`` a context of 257 tokens:
        >>> part = TransformerPart(d_model=32, layers=2, mixer={"name": "attention", "heads": 4})
        >>> sum(shape.numel for shape in part.shapes(257)) == sum(p.numel() for p in part.build(ctx).parameters())
        True
        >>> part.work(batch=2, length=16, vocab_size=257).forward.flops
        2299904
    """

    d_model: PositiveInt = 64
    """Width of the residual stream."""
    layers: Annotated[int, Field(ge=1, le=MOST_LAYERS)] = 2
    """Blocks."""
    mixer: MixersSlot = "attention"  # type: ignore[assignment]
    """One for all blocks, or a list that repeats: [A, B] in 5 blocks is A B A B A."""
    feed_forward: FeedForwardsSlot = "swiglu"  # type: ignore[assignment]
    """One for all blocks, or a list that repeats."""
    norm: Annotated[NormSlot, Later()] = "rms"  # type: ignore[assignment]
    """Of each block, and before the head."""
    arrangement: Annotated[ArrangementSlot, Later()] = "pre_norm"  # type: ignore[assignment]
    """Where a block's norms stand, and what its mixer and feed-forward read."""
    tied: bool = False
    """Whether the embedding is the head as well."""
    embedding_scale: Annotated[PositiveFloat | None, Later()] = None
    """Factor on embedded tokens; by default sqrt(d_model) if tied (as in Gemma; in Llama and Qwen it is 1), else 1."""
    positions: Annotated[PositiveInt | None, Later()] = None
    """Rows of a learned table of positions, added to embedded tokens; longer texts are refused."""
    cap: Annotated[PositiveFloat | None, Later()] = None
    """Bounds the logits softly, as cap tanh(logit / cap)."""
    norm_eps: PositiveFloat = 1e-5
    """Added to what a norm divides by, squared."""
    init_std: PositiveFloat | None = None
    """Standard deviation of all initial matrices, as GPT-2's 0.02; by default each keeps the scale of its inputs."""
    card = Card(
        summary="Decoder Transformer: a norm before each mixer and feed-forward, and before the head",
        paper="Vaswani et al. 2017, arXiv 1706.03762; norms first: Xiong et al. 2020, arXiv 2002.04745",
        equation="x += mixer(norm(x)); x += feed_forward(norm(x)); logits = W norm(x)",
        defaults="GPT-2 and Llama draw every matrix with standard deviation 0.02",
        differs="embedding of unit variance, matrices of 1/columns, residual outputs 1/sqrt(2 layers) smaller; "
        "tied: embedding of variance 1/width times sqrt(width), gains of alternating sign before the head; "
        "no biases unless asked for, no dropout",
        cost="6 FLOPs a matrix parameter and token, and attention; 16 bytes a parameter in training",
    )
    version: ClassVar[int] = 2
    stack: ClassVar[str] = "blocks"

    def current_version(self) -> int:
        """2 where tied: version 1 started with all gains before the head at 1. Untied, nothing changed."""
        return type(self).version if self.tied else 1

    @property
    def abilities(self) -> frozenset[type]:
        """It caches if all of its mixers do."""
        return (
            frozenset({Cacheable}) if all(Cacheable in mixer.abilities for mixer in tiles(self.mixer)) else frozenset()
        )

    def blocks(self) -> list[tuple[MixerPart, FeedForwardPart]]:
        """Mixer and feed-forward of each block."""
        mixers, feed_forwards = tiles(self.mixer), tiles(self.feed_forward)
        return [(mixers[i % len(mixers)], feed_forwards[i % len(feed_forwards)]) for i in range(self.layers)]

    @property
    def variants(self) -> int:
        """Those of its layers; all that have several have as many."""
        return max(part.variants for part in self._layers())

    def varied(self, variant: int) -> Self:
        mixers, feed_forwards = zip(*self.blocks(), strict=True)
        inners = {"mixer": mixers, "feed_forward": feed_forwards}
        return self._with({key: [part.varied(variant) for part in parts] for key, parts in inners.items()})

    def idle(self) -> frozenset[str]:
        return frozenset(
            f"{self.stack}.{i}.{key}.{name}"
            for i, inners in enumerate(self.blocks())
            for key, part in zip(("mixer", "feed_forward"), inners, strict=True)
            for name in part.idle(self.d_model)
        )

    def joined(self, tensors: Mapping[str, Tensor]) -> tuple[Self, Mapping[str, Tensor]]:
        found, parts = dict(tensors), list[FeedForwardPart]()
        for i, (_, feed_forward) in enumerate(self.blocks()):
            prefix = f"{self.stack}.{i}.feed_forward."
            own = {name.removeprefix(prefix): found.pop(name) for name in tensors if name.startswith(prefix)}
            part, whole = feed_forward.joined(own, self.d_model)
            parts.append(part)
            found |= {f"{prefix}{name}": tensor for name, tensor in whole.items()}
        return self._with({"feed_forward": parts}), found

    def _with(self, inners: Mapping[str, Sequence[LayerPart]]) -> Self:
        """The same with other parts in the blocks."""
        return self.model_copy(update={key: self._alike(list(parts)) for key, parts in inners.items()})

    def _layers(self) -> list[LayerPart]:
        """Mixers and feed-forwards, each kind once."""
        return [*tiles(self.mixer), *tiles(self.feed_forward)]

    def _problems_of_variants(self, recipe: Recipe) -> list[str]:
        counts = sorted({part.variants for part in self._layers()} - {1})
        if len(counts) > 1:
            return [f"model.feed_forward: layers have {counts} widths, one of which a step draws for all; use as many"]
        if counts and recipe.optimizer.passes_of(1)(1 << 20) != Passes():
            what = f"{recipe.optimizer.name} makes passes of its own, whose price a width drawn each step would change"
            return [f"optimizer: {what}; use adamw, muon or soap"]
        return []

    def build(self, ctx: Context) -> Transformer:
        from ..layers import initialise, oppose
        from ..treat import treat

        model = self.skeleton(ctx)
        initialise(model, ctx.rng("init"), (2 * self.layers) ** -0.5, self.init_std)
        if self.tied and self.meant_version() > 1:
            oppose(model.norm, ctx.vocab_size)
        treat(model, self.treatment, ctx.rng("parametrization"))
        if ctx.compile:
            for block in model.blocks:
                block.compile()
        return model.to(ctx.device)

    def skeleton(self, ctx: Context) -> Transformer:
        """The model before anything is drawn, frozen or parametrized: its matrices hold anything at all."""
        import torch

        from ..transformer import CachingTransformer, Transformer

        kind = CachingTransformer if Cacheable in self.abilities else Transformer
        return kind(
            ctx.vocab_size,
            self.d_model,
            [(mixer.build(self.d_model, ctx), other.build(self.d_model, ctx)) for mixer, other in self.blocks()],
            tied=self.tied,
            embedding_scale=self.embedding_scale,
            positions=self.positions or 0,
            cap=self.cap,
            rounds=self.arrangement.rounds,
            norm=lambda: self.norm.build(self.d_model, self.norm_eps),
            dtype=torch.bfloat16 if ctx.precision == "bf16" else torch.float32,
            work=lambda batch, length, pattern=None: self.work(batch, length, ctx.vocab_size, pattern),
            checkpointing=self.treatment.checkpointing,
        )

    def work(self, batch: int, length: int, vocab_size: int, pattern: Pattern | None = None) -> Work:
        tokens = batch * length
        walk = Walk(self.treatment, self.shapes(vocab_size))
        walk.looked_up("embedding.weight")
        if self.positions is not None:
            walk.looked_up("positions.weight")
            walk.mixed(pointwise(tokens * self.d_model, operations=1))
        for layer, (mixer, feed_forward) in enumerate(self.blocks()):
            inners, rounds = {"mixer": mixer, "feed_forward": feed_forward}, self.arrangement.rounds

            def take(on: Walk, name: str, layer: int = layer, inners: Mapping[str, LayerPart] = inners) -> None:
                prefix = f"blocks.{layer}.{name}."
                if name in inners:
                    on.layer(inners[name], prefix, batch, length, self.d_model, pattern)
                else:
                    on.normed(self.norm, prefix, tokens, self.d_model)

            with walk.block():
                if isinstance(mixer, DrivingMixerPart):
                    walk.driven(mixer, f"blocks.{layer}.mixer.", batch, length, self.d_model, rounds, take)
                else:
                    walk.rounds(rounds, partial(take, walk))
        walk.normed(self.norm, "norm.", tokens, self.d_model)
        walk.multiplied(["embedding.weight" if self.tied else "unembedding.weight"], tokens)
        walk.mixed(pointwise(tokens * vocab_size, operations=4 + 3 * (self.cap is not None)))
        return walk.work

    def shapes(self, vocab_size: int) -> list[Shape]:
        table, axes = (vocab_size, self.d_model), (VOCABULARY, WIDTH)
        found = [Shape("embedding.weight", "embedding", table, axes)]
        if self.positions is not None:
            rows = (self.positions, self.d_model)
            found.append(Shape("positions.weight", "embedding", rows, (Axis("positions"), WIDTH)))
        for i, inners in enumerate(self.blocks()):
            found += [shape.within(f"{self.stack}.{i}") for shape in self._block_shapes(*inners)]
        found += self._norm_shapes("norm")
        return found if self.tied else [*found, Shape("unembedding.weight", "head", table, axes)]

    def sliced(self, kept: Kept) -> Self:
        """See ``Sliceable``. Of a tied model the factor on embedded tokens stays what it was."""
        blocks = self.blocks()
        layers = kept.get(LAYER, range(len(blocks)))
        sizes: dict[str, Any] = {"layers": len(layers)}
        for place, name in enumerate(("mixer", "feed_forward")):
            sizes[name] = self._alike(
                [self._cut_layer(blocks[i][place], f"{self.stack}.{i}.{name}.", kept) for i in layers]
            )
        if WIDTH.name in kept:
            sizes["d_model"] = len(kept[WIDTH.name])
            sizes["embedding_scale"] = self.embedding_scale or (self.d_model**0.5 if self.tied else None)
        return self.model_copy(update=sizes)

    def _cut_layer(self, layer: Inner, prefix: str, kept: Kept) -> Inner:
        own = {axis.removeprefix(prefix): units for axis, units in kept.items() if axis.startswith(prefix)}
        assert isinstance(layer, LayerPart)
        return layer.sliced(own, self.d_model) if own or WIDTH.name in kept else layer

    @staticmethod
    def _alike(parts: list[Inner]) -> Inner | tuple[Inner, ...]:
        """Parts of all blocks, as ``mixer`` and ``feed_forward`` say them."""
        period = next(n for n in range(1, len(parts) + 1) if all(part == parts[i % n] for i, part in enumerate(parts)))
        return parts[0] if period == 1 else tuple(parts[:period])

    def _block_shapes(self, mixer: MixerPart, feed_forward: FeedForwardPart) -> list[Shape]:
        """One block's parameters, named within it."""
        inners: dict[str, LayerPart] = {"mixer": mixer, "feed_forward": feed_forward}
        found: list[Shape] = []
        for name in self.arrangement.modules():
            own = inners[name].shapes(self.d_model) if name in inners else self.norm.shapes(self.d_model)
            found += [shape.within(name) for shape in own]
        return found

    def _norm_shapes(self, name: str) -> list[Shape]:
        return [shape.within(name) for shape in self.norm.shapes(self.d_model)]

    def check(self, recipe: Recipe) -> list[str]:
        mixers, feed_forwards = placed("model.mixer", self.mixer), placed("model.feed_forward", self.feed_forward)
        found = [
            f"{path}.{problem}" for path, inner in mixers + feed_forwards for problem in inner.problems(self.d_model)
        ]
        for key, parts in (("mixer", mixers), ("feed_forward", feed_forwards)):
            if len(parts) > self.layers:
                found.append(f"model.{key}: lists {len(parts)} parts for {self.layers} blocks; use as many at most")
        for path, mixer in mixers:
            for pattern in recipe.objective.patterns:
                if not mixer.takes(pattern):
                    found.append(
                        f"{path}: {mixer.name} cannot obey the pattern {pattern.name if pattern else 'causal'} "
                        f"of objective {recipe.objective.name}; {mixer.instead()}"
                    )
            if isinstance(mixer, DrivingMixerPart) and not any("mixer" in p for p in self.arrangement.rounds[0]):
                found.append(
                    f"{path}: {mixer.name} drives its block, whose mixer {self.arrangement.name} places behind its "
                    "first round; use another arrangement or mixer"
                )
            if recipe.train.isolate_documents and not mixer.isolates:
                found.append(
                    f"{path}: {mixer.name} cannot keep the documents of one row apart, as train.isolate_documents "
                    "asks; let it be false, or use another mixer"
                )
            if mixer.longest is not None and recipe.train.length > mixer.longest:
                found.append(
                    f"{path}.length: {mixer.longest} positions are fewer than train.length = {recipe.train.length}; "
                    "use more, or shorter texts"
                )
        found += self._problems_of_variants(recipe)
        if self.tied and ("norm.weight", (self.d_model,)) not in {(s.name, s.shape) for s in self._norm_shapes("norm")}:
            found.append(
                f"model.norm: {self.norm.name} has no gain, which a tied head needs at its start; use rms or tied=false"
            )
        filling = recipe.objective.filling(recipe.vocab_size)
        before = 0 if filling is None else filling.before
        if self.positions is not None and recipe.train.length + before > self.positions:
            more = f", and {recipe.objective.name} feeds one before it" if before else ""
            found.append(
                f"model.positions: {self.positions} are fewer than train.length = {recipe.train.length}{more}; use "
                "more, or shorter texts"
            )
        if found:
            return found
        return beyond_memory(self.shapes(recipe.vocab_size), recipe, "a smaller d_model or fewer layers")


def tiles(parts: Inner | tuple[Inner, ...]) -> tuple[Inner, ...]:
    """The parts that repeat over the blocks."""
    return parts if isinstance(parts, tuple) else (parts,)


def placed(key: str, parts: Inner | tuple[Inner, ...]) -> list[tuple[str, Inner]]:
    """Each part with its key path."""
    return [(f"{key}.{i}", part) for i, part in enumerate(parts)] if isinstance(parts, tuple) else [(key, parts)]

"""One convolutional cell for all positions and all layers, of which there are the more, the longer the text is."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.context import Context
from ...core.contracts import ModelPart, Pattern, Seen
from ...core.contracts.pattern import Causal
from ...core.cost import Work
from ...core.errors import UsageError
from ...core.registry import Card, part
from ...core.roles import VOCABULARY, WIDTH, Shape
from ..attend import beyond_past
from ..checkpointing import checkpointed
from ..cost import pointwise
from ..kernels import fuse
from ..layers import Matrix, Product, RmsNorm, exact, initialise, matrix_shapes
from ..memory import beyond_memory
from ..norms.rms import RmsPart
from ..pricing import Walk
from ..short_convolution import seen_taps
from ..treat import treat

if TYPE_CHECKING:
    from ...core.recipe import Recipe


class ConvolutionCell(nn.Module):
    """What a round makes of a position's state: a gated mixture with what it and the states just before it suggest.

    h = relu(V [s_i; s_{i-1}; ...; s_{i-kernel+1}] + U x_i), and s_i moves towards tanh(W_new h) by sigmoid(W_gate h),
    where x_i is the embedded token, which every round sees again: what many rounds have spoilt can be put right.

    Args:
        width: of a state.
        hidden: units of the cell.
        kernel: positions that it reads.

    Example:
        >>> cell = ConvolutionCell(width=8, hidden=16, kernel=2)
        >>> sum(p.numel() for p in cell.parameters()) == 16 * (2 * 8) + (16 * 8 + 16) + (2 * 8 * 16 + 2 * 8)
        True
    """

    def __init__(self, width: int, hidden: int, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.window = Matrix(hidden, kernel * width)
        self.token = Matrix(hidden, width, bias=True)
        self.out = Matrix(2 * width, hidden, bias=True)

    def forward(
        self, state: Tensor, given: Tensor, products: tuple[Product, Product], shown: Tensor | None, dtype: torch.dtype
    ) -> Tensor:
        """One round: states (batch, length, width) -> the same, in fp32.

        Args:
            state: of all positions.
            given: (batch, length, hidden), what the tokens give to every round.
            products: with ``window`` and with ``out``.
            shown: bool ((batch,) length, kernel), which of the positions up to it each one may read; None: all.
            dtype: of the products.
        """
        to_hidden, to_out = products
        taps = [state]
        for back in range(1, self.kernel):
            tap = F.pad(state, (0, 0, back, 0))[:, : state.shape[1]]
            taps.append(tap if shown is None else tap * shown[..., -1 - back, None])
        hidden = F.relu(to_hidden(torch.cat(taps, -1).to(dtype)) + given)
        gate, new = exact(to_out(hidden)).chunk(2, -1)
        return torch.lerp(state, torch.tanh(new), torch.sigmoid(gate))


class SharedConvolution(nn.Module):
    """A causal language model that is one cell, applied again and again; see ``core.contracts.Model``.

    Args:
        vocab_size: rows of the embedding.
        width: of a state.
        hidden: units of the cell.
        kernel: positions that a round reads: its own, and those just before it.
        rounds: from a text's length to how often the cell is applied.
        eps: added to the mean squares of the norm before the head.
        dtype: of products; weights and states are fp32.
        work: exact work of one forward and backward of (batch, length).
        checkpointing: each round keeps its input alone for the backward pass.

    Example, with ``ctx`` a context of 257 tokens:
        >>> model = SharedConvolutionPart(d_model=32).build(ctx)
        >>> model(torch.zeros(2, 16, dtype=torch.int64)).shape, model.rounds(16), model.rounds(160)
        (torch.Size([2, 16, 257]), 16, 160)
    """

    def __init__(
        self,
        vocab_size: int,
        width: int,
        hidden: int,
        kernel: int,
        *,
        rounds: Callable[[int], int],
        eps: float,
        dtype: torch.dtype,
        work: Callable[..., Work],
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.rounds, self.dtype, self.flops, self.checkpointing = rounds, dtype, work, checkpointing
        self.embedding = Matrix(vocab_size, width, role="embedding", std=1.0)
        self.cell = ConvolutionCell(width, hidden, kernel)
        self.norm = RmsNorm(width, eps)
        self.unembedding = Matrix(vocab_size, width, role="head")

    @property
    def head(self) -> Tensor:
        """Weight (vocab, width) that turns ``hidden`` into logits."""
        return self.unembedding.read()

    def hidden(self, tokens: Tensor, seen: Seen = None) -> Tensor:
        """(batch, length) ids -> (batch, length, width) vectors before the head, in the products' dtype.

        ``seen`` says who sees whom (``core.contracts.pattern``); None is causal. Nothing but the past can be seen.
        """
        shown = _shown(seen, self.cell.kernel, tokens.shape[1], tokens.device)
        state = exact(F.embedding(tokens, self.embedding.read()))
        given = self.cell.token.product(self.dtype)(state.to(self.dtype))
        products = self.cell.window.product(self.dtype), self.cell.out.product(self.dtype)
        kept = self.checkpointing and torch.is_grad_enabled()
        for _ in range(self.rounds(tokens.shape[1])):
            rest = given, products, shown, self.dtype
            state = checkpointed(self.cell, state, *rest) if kept else self.cell(state, *rest)
        return self.norm(state, self.dtype)  # type: ignore[no-any-return]

    def forward(self, tokens: Tensor, seen: Seen = None) -> Tensor:
        """(batch, length) ids -> logits (batch, length, vocab) in the products' dtype. ``seen`` as in ``hidden``."""
        return F.linear(self.hidden(tokens, seen), fuse((self.head,), self.dtype))


def _shown(seen: Seen, kernel: int, length: int, device: torch.device) -> Tensor | None:
    """Which of the ``kernel`` positions up to it each one may read, as ``seen_taps`` tells it; None: all."""
    if what := beyond_past(seen):
        raise UsageError(
            f"shared_convolution sees what lies just before a position, and cannot obey {what}",
            where="model",
            fix="use the causal pattern, or the model transformer",
        )
    return seen_taps(seen, length, kernel, device)


@part
class SharedConvolutionPart(ModelPart):
    """One small convolutional cell for every position and every layer, with as many layers as the text asks for.

    Use it where an algorithm is to be learned that goes on for as long as its input is: the number of parameters is
    fixed, while work grows as length times rounds, by default as the square of the length. How often the cell is
    applied depends on how long the text is, so that a prefix's states change when the text grows: nothing can be
    cached, and ``generate`` refuses it. What it writes is measured in one pass (``accuracy_by_length``, ``accuracy``).

    Example, with ``ctx`` a context of 257 tokens:
        >>> part = SharedConvolutionPart(d_model=32, kernel=2)
        >>> sum(shape.numel for shape in part.shapes(257)) == sum(p.numel() for p in part.build(ctx).parameters())
        True
        >>> [part.work(1, length, 257).forward.flops // 10**6 for length in (64, 128, 256)]
        [68, 271, 1079]
    """

    d_model: PositiveInt = 64
    """Width of a position's state."""
    hidden: PositiveInt | None = None
    """Units of the cell; by default twice the width."""
    kernel: Annotated[int, Field(ge=2, le=1024)] = 2
    """Positions that a round reads: its own, and those just before it."""
    per_token: NonNegativeFloat = 1.0
    """Rounds for each token of a text; 0: as many for any text."""
    rounds: PositiveInt = 1
    """Rounds at least. A text is read as a whole where they are length / (kernel - 1) or more."""
    norm_eps: PositiveFloat = 1e-5
    """Added to what the norm before the head divides by, squared."""
    init_std: PositiveFloat | None = None
    """Standard deviation of all initial matrices; by default each keeps the scale of its inputs."""
    card = Card(
        summary="Recurrent convolutional network: one cell, shared by all positions and by all layers",
        paper="Goel et al. 2022, arXiv 2209.00735; gates: Kaiser and Sutskever 2016, arXiv 1511.08228; tokens seen "
        "again: Bansal et al. 2022, arXiv 2202.05826",
        equation="h_i = relu(V [s_i; ...; s_{i-k+1}] + U x_i); s_i += sigmoid(W_g h_i) (tanh(W_n h_i) - s_i), T times",
        differs="the paper proves that some cell of constant size learns whatever a constant-size program learns, and "
        "draws it at random: this one is trained by gradients, gated, causal, and sees its token again in every round",
        cost="T(length) rounds of 2 (kernel + 2) width hidden FLOPs a token, forward; no cache",
    )

    def units(self) -> int:
        """Units of the cell."""
        return self.hidden or 2 * self.d_model

    def rounds_of(self, length: int) -> int:
        """How often the cell is applied to a text of so many tokens.

        Example:
            >>> SharedConvolutionPart(per_token=0.5, rounds=12).rounds_of(10)
            12
        """
        return max(self.rounds, math.ceil(round(self.per_token * length, 6)))  # 0.1 * 30 is a little above 3

    def build(self, ctx: Context) -> SharedConvolution:
        model = SharedConvolution(
            ctx.vocab_size,
            self.d_model,
            self.units(),
            self.kernel,
            rounds=self.rounds_of,
            eps=self.norm_eps,
            dtype=torch.bfloat16 if ctx.precision == "bf16" else torch.float32,
            work=lambda batch, length, pattern=None: self.work(batch, length, ctx.vocab_size, pattern),
            checkpointing=self.treatment.checkpointing,
        )
        initialise(model, ctx.rng("init"), 1.0, self.init_std)
        treat(model, self.treatment, ctx.rng("parametrization"))
        if ctx.compile:
            model.cell.compile()
        return model.to(ctx.device)

    def work(self, batch: int, length: int, vocab_size: int, pattern: Pattern | None = None) -> Work:
        tokens, width = batch * length, self.d_model
        walk = Walk(self.treatment, self.shapes(vocab_size))
        walk.looked_up("embedding.weight")
        state = walk.live
        walk.multiplied(["cell.token.weight"], tokens)
        given = walk.live
        for name in ("window", "out"):
            walk.made(f"cell.{name}.weight")
        rounds, each = self.rounds_of(length), list[Work]()
        for _ in range(min(rounds, 2)):  # from the second round on all are alike
            before, walk.live = walk.work, state
            with walk.block():
                walk.applied("cell.window.weight", tokens)
                walk.live = walk.live or given
                walk.mixed(pointwise(tokens * self.units(), operations=2))
                walk.applied("cell.out.weight", tokens)
                walk.mixed(pointwise(tokens * width, operations=11))
            each.append(walk.work - before)
            state = walk.live
        walk.work += each[-1] * (rounds - len(each))
        walk.normed(RmsPart(), "norm.", tokens, width)
        walk.multiplied(["unembedding.weight"], tokens)
        walk.mixed(pointwise(tokens * vocab_size, operations=4))
        return walk.work

    def shapes(self, vocab_size: int) -> list[Shape]:
        table, axes, units = (vocab_size, self.d_model), (VOCABULARY, WIDTH), self.units()
        inner = [
            *matrix_shapes("window", units, self.kernel * self.d_model),
            *matrix_shapes("token", units, self.d_model, bias=True),
            *matrix_shapes("out", 2 * self.d_model, units, bias=True),
        ]
        return [
            Shape("embedding.weight", "embedding", table, axes),
            *(shape.within("cell") for shape in inner),
            *(shape.within("norm") for shape in RmsPart().shapes(self.d_model)),
            Shape("unembedding.weight", "head", table, axes),
        ]

    def check(self, recipe: Recipe) -> list[str]:
        refused = [
            f"model: shared_convolution sees the past alone, and cannot obey the pattern {pattern.name} of objective "
            f"{recipe.objective.name}; use the model transformer"
            for pattern in recipe.objective.patterns
            if pattern is not None and not isinstance(pattern, Causal)
        ]
        return refused or beyond_memory(self.shapes(recipe.vocab_size), recipe)

"""A mixture of experts: each vector goes through a few of many feed-forwards, evenly loaded by biases."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from ...core.context import Context
from ...core.contracts import FeedForwardPart, Pattern, Products, Step
from ...core.registry import Card, part
from ...core.roles import Shape
from ..cost import pointwise
from ..layers import Matrix, Product, exact, matrix_shapes
from .swiglu import SwiGlu


class ExpertLayer(nn.Module):
    """sum_{e chosen} w_e SwiGLU_e(x): the experts of the largest scores, which a router gives each vector.

    Affinities are s_e = sigmoid(r_e . x); those of the chosen experts, divided by their sum, are the weights. A bias is
    added to each for the choice alone. After a step of training the bias of an expert with fewer vectors than the mean
    rises by ``rate``, that of one with more falls (Wang et al. 2024, arXiv 2408.15664): the load evens out, and no loss
    of its own disturbs the gradient.

    Args:
        width: of the vectors.
        hidden: of each expert.
        experts: how many there are.
        chosen: how many of them each vector goes through.
        rate: of the biases; 0: they stay 0.

    Attributes:
        bias: fp32 (experts,).
        load: vectors of each expert in the present step of training, int64 (experts,).

    Example:
        >>> layer = ExpertLayer(32, 16, experts=4, chosen=2)
        >>> layer(torch.zeros(2, 5, 32), layer.products(torch.float32)).shape, layer.load.sum().item()
        (torch.Size([2, 5, 32]), 20)
    """

    if TYPE_CHECKING:
        bias: Tensor
        load: Tensor
        step: Tensor

    def __init__(self, width: int, hidden: int, experts: int, chosen: int, rate: float = 0.001) -> None:
        super().__init__()
        self.chosen, self.rate = chosen, rate
        self.router = Matrix(experts, width)
        self.experts = nn.ModuleList(SwiGlu(width, hidden) for _ in range(experts))
        self.register_buffer("bias", torch.zeros(experts))
        self.register_buffer("load", torch.zeros(experts, dtype=torch.int64))
        self.register_buffer("step", torch.full((), -1, dtype=torch.int64))

    @torch.no_grad()
    def at(self, step: int, horizon: int) -> None:
        """Even out the load of the step before; of a step that is taken anew, nothing is kept."""
        if step == self.step:  # it was just loaded
            return
        if step == self.step + 1:
            mean = self.load.double().mean()
            self.bias += self.rate * (mean - self.load).sign().to(self.bias.dtype)
        self.load.zero_()
        self.step.fill_(step)

    def told_of_use(self) -> dict[str, float]:
        """Each expert's share of the choices in the newest step of training, by "expert N"; empty before one."""
        counts = self.load.tolist()
        total = sum(counts)
        return {f"expert {number}": count / total for number, count in enumerate(counts)} if total else {}

    def products(self, dtype: torch.dtype) -> tuple[Product, tuple[tuple[Product, Product], ...]]:
        """What ``forward`` computes with, operands in ``dtype``: the router's, and those of each expert."""
        return self.router.product(dtype), tuple(expert.products(dtype) for expert in self.experts)  # type: ignore[operator]

    def choose(self, vectors: Tensor, to_scores: Product) -> tuple[Tensor, Tensor]:
        """ExpertLayer (n, chosen) of n vectors (n, width), and the weights of their outputs, fp32 (n, chosen)."""
        affinities = torch.sigmoid(exact(to_scores(vectors)))
        chosen = (affinities + self.bias).topk(self.chosen, -1).indices
        weights = affinities.gather(-1, chosen)
        return chosen, weights / weights.sum(-1, keepdim=True)

    def forward(self, x: Tensor, products: tuple[Product, tuple[tuple[Product, Product], ...]]) -> Tensor:
        """(batch, length, width) -> same."""
        to_scores, experts = products
        vectors, learning = x.flatten(0, -2), torch.is_grad_enabled()
        chosen, weights = self.choose(vectors, to_scores)
        load = torch.bincount(chosen.flatten(), minlength=len(experts))
        if self.training and learning:
            self.load += load
        order = chosen.flatten().argsort(stable=True)  # vectors of one expert stand side by side
        rows, counts = order // self.chosen, load.tolist()
        pieces = torch.split(vectors[rows], counts)
        # In training one without vectors is run, too, so that every weight has a gradient in every step.
        used = [each for each in zip(pieces, experts, strict=True) if learning or len(each[0])]
        hidden = [gated(piece) for piece, (gated, _) in used]
        out = torch.cat([down(piece) for piece, (_, (_, down)) in zip(hidden, used, strict=True)])
        out = out * weights.flatten()[order, None].to(out.dtype)
        return torch.zeros_like(vectors).index_add(0, rows, out).view(x.shape)


@torch.no_grad()
def loads(model: nn.Module, tokens: Tensor) -> dict[str, Tensor]:
    """The share of all choices that falls on each expert, float64 (experts,), by the name of the layer.

    Shares of 1 / experts are an even load; a share of 0 is an expert that nothing reaches.

    Args:
        model: over token ids, with experts in some layers.
        tokens: ids (batch, length) to run it on.

    Example, with ``ctx`` a context of 257 tokens:
        >>> from isoflop.models.architectures.transformer import TransformerPart
        >>> model = TransformerPart(d_model=32, feed_forward={"name": "experts", "experts": 4}).build(ctx)
        >>> found = loads(model, torch.arange(32)[None])
        >>> list(found), round(float(found["blocks.0.feed_forward"].sum()), 6)
        (['blocks.0.feed_forward', 'blocks.1.feed_forward'], 1.0)
    """
    found: dict[str, Tensor] = {}

    def watch(name: str) -> Callable[[ExpertLayer, tuple[Tensor, Any], Tensor], None]:
        def seen(layer: ExpertLayer, given: tuple[Tensor, Any], out: Tensor) -> None:
            chosen, _ = layer.choose(given[0].flatten(0, -2), given[1][0])
            counts = torch.bincount(chosen.flatten(), minlength=len(layer.bias)).double()
            found[name] = counts

        return seen

    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, ExpertLayer)]
    hooks = [module.register_forward_hook(watch(name)) for name, module in layers]
    try:
        model(tokens)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: counts / counts.sum() for name, counts in found.items()}


@part
class ExpertsPart(FeedForwardPart):
    """A mixture of experts: many parameters, of which each vector uses a few.

    The active work is that of ``chosen`` feed-forwards of width ``hidden`` and of the router. At equal active work more
    experts learn more from the same text; they take more memory. A run records with each evaluation how evenly they are
    used, and its page shows it; ``loads`` tells it of any text.

    Example:
        >>> part = ExpertsPart(experts=4, hidden=16)
        >>> part.shapes(32)[0].name, len(part.shapes(32))
        ('router.weight', 13)
    """

    experts: PositiveInt = 8
    """How many there are."""
    chosen: PositiveInt = 2
    """How many of them each vector goes through."""
    hidden: PositiveInt | None = None
    """Inner width of each; by default such that the chosen ones are as wide together as swiglu is by default."""
    rate: NonNegativeFloat = 0.001
    """By which biases even out the load after each step; 0: nothing does."""
    card = Card(
        summary="A mixture of experts, balanced without a loss by biases",
        paper="Shazeer et al. 2017, arXiv 1701.06538; biases: Wang et al. 2024, arXiv 2408.15664",
        equation="sum_{e in top-k(s + b)} s_e / sum s  SwiGLU_e(x), s = sigmoid(R x); b += rate sign(mean load - load)",
        defaults="rate 0.001",
        differs="the router is a hidden matrix, which optimizers of matrices treat as one; no shared expert "
        "and no capacity",
        cost="3 products of width x hidden for each chosen expert, and the router's",
    )

    def inner(self, width: int) -> int:
        """Inner width of each expert."""
        return self.hidden or max(1, -(-8 * width // 48) * 16 // self.chosen)

    def build(self, width: int, ctx: Context) -> ExpertLayer:
        return ExpertLayer(width, self.inner(width), self.experts, self.chosen, self.rate)

    def shapes(self, width: int) -> list[Shape]:
        hidden, found = self.inner(width), matrix_shapes("router", self.experts, width)
        for expert in range(self.experts):
            for name in ("gate", "up"):
                found += matrix_shapes(f"experts.{expert}.{name}", hidden, width)
            found += matrix_shapes(f"experts.{expert}.down", width, hidden)
        return found

    def steps(self, batch: int, length: int, width: int, pattern: Pattern | None = None) -> list[Step]:
        tokens, everyone = batch * length, range(self.experts)
        total = tokens * self.chosen
        each = [total // self.experts + (expert < total % self.experts) for expert in everyone]  # in all it is exact
        inward = [f"experts.{expert}.{name}.weight" for expert in everyone for name in ("gate", "up")]
        routed = Products(("router.weight", *inward), (tokens, *(count for count in each for _ in range(2))))
        gated = pointwise(total * self.inner(width) + tokens * self.experts, operations=5)
        down = Products(tuple(f"experts.{expert}.down.weight" for expert in everyone), tuple(each))
        return [routed, gated, down, pointwise(total * width, operations=2)]

    def problems(self, width: int) -> list[str]:
        if self.chosen <= self.experts:
            return []
        return [f"chosen: {self.chosen} experts cannot be chosen of {self.experts}; use {self.experts} at most"]

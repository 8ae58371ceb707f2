"""What decoders of hidden tokens share as parts: how many tokens a call shows, in which blocks, how they are drawn."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator
from torch import Tensor

from ..core.context import Context
from ..core.contracts import DecoderPart, Filling
from .canvas import Canvas
from .reading import Keep
from .unmask import Unmask

Generators = Sequence[np.random.Generator]
Share = Annotated[float, Field(ge=0, lt=1)]


class UnmaskPart(DecoderPart):
    """Fill in hidden tokens, some at each call of the model; a subclass says which ones come first.

    A new order is one file with one method, ``scores``.
    """

    per_call: PositiveInt = 1
    """Tokens that a call shows; with one, a sample has exactly the law of the model's conditionals."""
    steps: PositiveInt | None = None
    """Calls for each block instead: its tokens in as many equal parts, the larger ones first."""
    schedule: Literal["even", "cosine"] = "even"
    """With steps: equal parts, or few tokens at first and many at the end (Chang et al. 2022, arXiv 2202.04200)."""
    stages: tuple[tuple[Share, PositiveInt], ...] = ()
    """Tokens a call by what share of the block is shown: [[0.0, 1], [0.5, 4]] goes faster from the half on."""
    block: PositiveInt | None = None
    """Fill in blocks of so many tokens from left to right, each whole before the next; by default all is one block."""
    ahead: bool = True
    """Whether a block sees that more hidden tokens follow it."""
    keep: Keep | None = None
    """While a block is written, do not compute again what lies "before" it, or what lies "around" it. Approximate, for
    models whose every position sees every other; what a model of blocks has written is always kept, exactly."""
    temperature: NonNegativeFloat = 0.0
    """Divides the logits of tokens that are drawn; 0 takes the likeliest. Orders are chosen at temperature 1."""
    noise: NonNegativeFloat = 0.0
    """Gumbel noise on the scores by which tokens are chosen, times this."""
    guidance: NonNegativeFloat = 0.0
    """Weight of classifier-free guidance, away from what is predicted without the prompt; twice the calls."""
    samples: PositiveInt = 1
    """Samples of each prompt."""
    batch: PositiveInt = 32
    """Samples that are decoded together at most."""

    unused: ClassVar[frozenset[str]] = frozenset()
    """Fields that would change nothing; a subclass that goes a way of its own names them."""

    @model_validator(mode="after")
    def _one_pace(self) -> UnmaskPart:
        fields = type(self).model_fields
        if idle := sorted(name for name in self.unused if getattr(self, name) != fields[name].default):
            raise ValueError(
                f"{self.name} goes a way of its own, which {' and '.join(idle)} would not change; leave out"
            )
        # Asked by their values: a stored recipe names every field.
        given = [name for name in ("steps", "stages", "per_call") if getattr(self, name) != fields[name].default]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} both say how many tokens a call shows; give one of them")
        if self.schedule != "even" and self.steps is None:
            raise ValueError(f"schedule {self.schedule} is over steps; say how many")
        if self.keep is not None and self.block is None:
            raise ValueError(f"keep={self.keep} is of what lies outside a block; say how long blocks are")
        shares = [share for share, _ in self.stages]
        if self.stages and (shares[0] != 0 or shares != sorted(set(shares))):
            raise ValueError(f"stages begin at the shares {shares}; they should rise from 0")
        return self

    def build(self, ctx: Context | None = None) -> Unmask:
        return Unmask(self, None if ctx is None else ctx.filling)

    def misfit(self, filling: Filling | None) -> str:
        if filling is None:
            return "fills in what is hidden, and the model writes from left to right; use sample"
        if filling.times:
            return "cannot insert tokens, as the model does; use insertion"
        kept = self.keep is not None and filling.block is not None
        return "keeps what the model's own blocks keep exactly; leave keep out" if kept else ""

    @property
    def least(self) -> int:
        """Tokens that a call shows at least, where there are as many."""
        return self.per_call

    @property
    def rewrites(self) -> bool:
        """Whether tokens that were shown may be hidden again."""
        return False

    def asks(self, canvas: Canvas) -> Tensor:
        """The tokens that the model is asked about: bool (batch, length); ``advance`` sees no others."""
        return canvas.may

    @abstractmethod
    def scores(self, log_p: Tensor, may: Tensor, generators: Generators) -> Tensor:
        """How soon each token should be shown: the highest scores come first.

        Args:
            log_p: (batch, length, ids) log-probabilities at temperature 1.
            may: bool (batch, length), the tokens that may be shown now.
            generators: of each row; what a row draws from its own must depend on this row alone.

        Returns:
            (batch, length); what lies outside ``may`` does not matter.
        """

    def blind(self, canvas: Canvas, generators: Generators) -> Tensor | None:
        """What is shown next (bool (batch, length)), where that does not depend on the model; None: it does.

        Where nothing is shown in any row, no call is made.
        """
        return None

    def chosen(self, canvas: Canvas, log_p: Tensor, generators: Generators) -> Tensor:
        """What is shown next: bool (batch, length)."""
        may = canvas.may
        return best(self.stirred(self.scores(log_p, may, generators), may, generators), may, self.quota(canvas))

    def stirred(self, scores: Tensor, may: Tensor, generators: Generators) -> Tensor:
        """Scores (batch, length) with ``noise`` on those that may be shown."""
        if not self.noise:
            return scores
        return scores + self.noise * _spread(may, generators, lambda g, n: -np.log(-np.log(g.random(n))))

    def quota(self, canvas: Canvas) -> Tensor:
        """Tokens that each row shows in this call: int64 (batch,), at least 1."""
        wanted, left = canvas.wanted, canvas.may.sum(-1).cpu()
        if self.stages:
            shown = 1 - left.double() / wanted.clamp(min=1)
            counts = torch.full_like(left, self.stages[0][1])
            for share, count in self.stages:
                counts = torch.where(shown >= share, count, counts)
            return counts
        if self.steps is None:
            return torch.full_like(left, self.per_call)
        if self.schedule == "cosine":
            after = (canvas.steps + 1).double().clamp(max=self.steps) / self.steps
            return (left - (wanted * torch.cos(after * torch.pi / 2)).floor().long()).clamp(min=1)
        each, rest = wanted // self.steps, wanted % self.steps
        return (each + (canvas.steps < rest)).clamp(min=1)

    def advance(self, canvas: Canvas, logits: Tensor, generators: Generators, chosen: Tensor | None) -> Tensor:
        """Show tokens on the canvas; which ones: bool (batch, length).

        Args:
            canvas: of each text the tokens that were asked about, side by side.
            logits: (batch, length, ids) of each of them.
            generators: of each row.
            chosen: which of them ``blind`` has chosen.
        """
        if chosen is None:
            chosen = self.chosen(canvas, torch.log_softmax(logits, -1), generators)
        canvas.write(chosen, self.drawn(logits, chosen, generators))
        return chosen

    def drawn(self, logits: Tensor, chosen: Tensor, generators: Generators) -> Tensor:
        """Tokens of the chosen places, row by row: the likeliest, or drawn in float64 by Gumbel's trick.

        In low precision the noise has too few values, and texts come out likelier than the model's
        (Zheng et al. 2024, arXiv 2409.02908).
        """
        picked = logits[chosen]
        if self.temperature == 0:
            return picked.argmax(-1)
        counts = chosen.sum(-1).tolist()
        numbers = [g.random((n, picked.shape[-1])) for g, n in zip(generators, counts, strict=True) if n]
        uniform = torch.from_numpy(np.concatenate(numbers)) if numbers else torch.empty(0, picked.shape[-1])
        return gumbel_max(cooled(picked, self.temperature), uniform).to(logits.device)


def cooled(logits: Tensor, temperature: float) -> Tensor:
    """Scores to draw by at a temperature above 0: float64 (n, ids) on the CPU, 0 at each row's largest.

    Example:
        >>> cooled(torch.tensor([[2.0, 3.0]]), 5e-324).tolist()
        [[-inf, 0.0]]
    """
    exact = logits.double().cpu()
    return (exact - exact.amax(-1, keepdim=True)) / temperature  # of the largest 0: none overflows


def gumbel_max(scores: Tensor, uniform: Tensor) -> Tensor:
    """A draw from softmax(scores) for each row: the largest of the scores plus Gumbel noise.

    Args:
        scores: float64 (n, ids).
        uniform: float64 (n, ids) in [0, 1).

    Example:
        >>> gumbel_max(torch.tensor([[0.0, -torch.inf]], dtype=torch.float64), torch.zeros(1, 2).double()).tolist()
        [0]
    """
    return (scores - torch.log(-torch.log1p(-uniform).clamp(max=-1e-300))).argmax(-1)


def best(scores: Tensor, may: Tensor, counts: Tensor) -> Tensor:
    """The places of highest score, so many of each row; of equal ones the left one first.

    Args:
        scores: (batch, length).
        may: bool (batch, length), the places that are asked about.
        counts: int64 (batch,).

    Example:
        >>> may = torch.tensor([[True, True, False, True]])
        >>> best(torch.tensor([[0.1, 0.5, 0.9, 0.5]]), may, torch.tensor([1])).tolist()
        [[False, True, False, False]]
    """
    ranked = scores.masked_fill(~may, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    ranks = torch.empty_like(ranked)
    ranks.scatter_(-1, ranked, torch.arange(ranked.shape[-1], device=ranked.device).expand_as(ranked))
    # A score of -inf ranks with what is not asked about: those who may come first among them.
    return may & (ranks < counts.to(ranks.device)[:, None])


def _spread(may: Tensor, generators: Generators, draw: Any) -> Tensor:
    """Numbers (batch, length) that each row draws for the places that it may show, 0 elsewhere."""
    where = may.cpu().numpy()
    found = np.zeros(where.shape)
    for row, count in enumerate(where.sum(-1).tolist()):
        if count:
            found[row, where[row]] = draw(generators[row], count)
    return torch.from_numpy(found).to(may.device)


def uniform_scores(may: Tensor, generators: Generators) -> Tensor:
    """A number in [0, 1) for each place that may be shown, by its row's generator.

    Args:
        may: bool (batch, length).
        generators: of each row.

    Example:
        >>> uniform_scores(torch.tensor([[True, False]]), [np.random.default_rng(0)]).tolist()
        [[0.6369616873214543, 0.0]]
    """
    return _spread(may, generators, lambda generator, count: generator.random(count))

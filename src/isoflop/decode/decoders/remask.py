"""Fill in everything at each call, and hide again what the model is least sure of."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import PositiveInt
from torch import Tensor

from ...core.registry import Card, part
from ..canvas import Canvas
from ..unmask_part import Generators, UnmaskPart, best


@part
class RemaskPart(UnmaskPart):
    """Draw all hidden tokens, then hide those again that the model is least sure of, ever fewer of them.

    Unlike the other orders it can take back what it has shown, so nothing is told before the end.

    Example, with ``model`` a Transformer over bytes:
        >>> from isoflop.core.rng import Rng
        >>> decoder = RemaskPart(steps=4).build()
        >>> len(decoder.generate(model, [[104]], 8, Rng(0))[0])
        8
    """

    steps: PositiveInt | None = 20
    """Calls."""
    decay: Literal["linear", "cosine"] = "linear"
    """How the share that is hidden again falls: t / T, or sin(pi t / 2 T), for t = T - 1 ... 0."""
    unused: ClassVar[frozenset[str]] = frozenset({"per_call", "stages", "schedule", "block", "keep"})
    card = Card(
        summary="Everything drawn at each call, the least sure part hidden again",
        paper="Zheng et al. 2023, arXiv 2302.05737; Ye et al. 2024, arXiv 2410.14157",
        equation="hide the floor(n rate(t)) places of lowest max_v p(x_i = v | shown)",
        defaults="20 steps, Gumbel noise of 0.5 rate(t) on the scores",
        differs="noise is the field `noise`, the same at all steps",
        cost="one pass over the whole text a call",
    )

    @property
    def rewrites(self) -> bool:
        return True

    def scores(self, log_p: Tensor, may: Tensor, generators: Generators) -> Tensor:
        return log_p.amax(-1)

    def asks(self, canvas: Canvas) -> Tensor:
        return canvas.inside & ~canvas.given

    def advance(self, canvas: Canvas, logits: Tensor, generators: Generators, chosen: Tensor | None) -> Tensor:
        filled = canvas.hidden.clone()
        canvas.write(filled, self.drawn(logits, filled, generators))
        anywhere = self.asks(canvas)
        scores = self.stirred(self.scores(torch.log_softmax(logits, -1), anywhere, generators), anywhere, generators)
        hidden = self.hidden_again(scores, anywhere, canvas.steps)
        canvas.hidden |= hidden
        canvas.tokens[hidden] = canvas.mask
        return filled & ~hidden

    def hidden_again(self, scores: Tensor, may: Tensor, steps: Tensor) -> Tensor:
        """What is hidden after some calls: bool (batch, length).

        Args:
            scores: (batch, length).
            may: bool (batch, length), all that was hidden at first.
            steps: int64 (batch,), calls before this one.
        """
        total = self.steps or 1
        share = (total - 1 - steps).clamp(min=0).double() / total
        rate = share if self.decay == "linear" else torch.sin(share * torch.pi / 2)
        counts = (may.sum(-1).cpu() * rate + 1e-9).floor().long()
        return best(-scores, may, counts)

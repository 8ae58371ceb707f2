"""The reverse of masking in time: each hidden token is shown by chance, with rates that leave none at the end."""

from __future__ import annotations

from typing import ClassVar

from pydantic import PositiveInt
from torch import Tensor

from ...core.registry import Card, part
from ..canvas import Canvas
from ..unmask_part import Generators, UnmaskPart, uniform_scores


@part
class AncestralPart(UnmaskPart):
    """Go back in time from all hidden to all shown, in equal steps.

    At step j of S each hidden token is shown with the chance 1 / (S - j), whatever the others do. Steps in which
    nothing is shown cost nothing, so that many steps cost no more than one call a token.

    Example, with ``model`` a Transformer over bytes:
        >>> from isoflop.core.rng import Rng
        >>> decoder = AncestralPart(steps=16, temperature=1.0).build()
        >>> len(decoder.generate(model, [[104]], 4, Rng(0))[0])
        4
    """

    steps: PositiveInt | None = 64
    """Steps of a block; more of them leave fewer tokens to be drawn at once."""
    unused: ClassVar[frozenset[str]] = frozenset({"per_call", "stages", "schedule"})
    card = Card(
        summary="Each hidden token shown by chance, in equal steps back in time",
        paper="Sahoo et al. 2024, arXiv 2406.07524, section 3; its cache: steps without a change need no call",
        equation="P(shown between t and s | hidden at t) = (t - s) / t",
        defaults="1,000 steps",
        cost="one pass over the whole text for each step that shows a token",
    )

    def scores(self, log_p: Tensor, may: Tensor, generators: Generators) -> Tensor:
        return uniform_scores(may, generators)

    def blind(self, canvas: Canvas, generators: Generators) -> Tensor | None:
        steps = self.steps or 1
        chance = 1 / (steps - canvas.steps.clamp(max=steps - 1)).double()
        may = canvas.may
        return may & (uniform_scores(may, generators) < chance.to(may.device)[:, None])

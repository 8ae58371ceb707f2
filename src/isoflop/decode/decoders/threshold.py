"""All hidden tokens that the model is sure of, at once."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field
from torch import Tensor

from ...core.registry import Card, part
from ..canvas import Canvas
from ..unmask_part import Generators, UnmaskPart, best


@part
class ThresholdPart(UnmaskPart):
    """Show every hidden token whose likeliest id is likelier than a threshold, and the surest one in any case.

    As many tokens a call as the model can afford: fast where it is sure, careful where it is not.

    Example, with ``model`` a Transformer over bytes:
        >>> from isoflop.core.rng import Rng
        >>> decoder = ThresholdPart(least_probability=0.5).build()
        >>> len(decoder.generate(model, [[104]], 4, Rng(0))[0])
        4
    """

    least_probability: Annotated[float, Field(gt=0, lt=1)] = 0.9
    """Probability of the likeliest id above which a token is shown."""
    card = Card(
        summary="Every hidden token whose likeliest id passes a threshold, at once",
        paper="Wu et al. 2025, arXiv 2505.22618 (Fast-dLLM), section 3.3",
        equation="show {i: max_v p(x_i = v | shown) > threshold}, and the surest one if that is empty",
        cost="one pass over the whole text a call; calls depend on the text",
    )

    def scores(self, log_p: Tensor, may: Tensor, generators: Generators) -> Tensor:
        return log_p.amax(-1)

    def chosen(self, canvas: Canvas, log_p: Tensor, generators: Generators) -> Tensor:
        may, scores = canvas.may, self.scores(log_p, canvas.may, generators)
        surest = best(self.stirred(scores, may, generators), may, self.quota(canvas))
        return surest | (may & (scores > math.log(self.least_probability)))

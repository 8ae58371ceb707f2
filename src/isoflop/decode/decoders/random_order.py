"""Hidden tokens in a random order: what masked diffusion is trained for."""

from __future__ import annotations

from torch import Tensor

from ...core.registry import Card, part
from ..canvas import Canvas
from ..unmask_part import Generators, UnmaskPart, best, uniform_scores


@part
class RandomOrderPart(UnmaskPart):
    """Show hidden tokens in a uniformly random order.

    The plain sampler of masked diffusion, also called vanilla. Other orders of the same weights are judged by it.

    Example, with ``model`` a Transformer over bytes:
        >>> from isoflop.core.rng import Rng
        >>> decoder = RandomOrderPart(temperature=1.0).build()
        >>> [len(ids) for ids in decoder.generate(model, [[104], [105, 106]], 5, Rng(0))]
        [5, 5]
    """

    card = Card(
        summary="Hidden tokens in a random order",
        paper="Kim et al. 2025, arXiv 2502.06768 (vanilla); Nie et al. 2025, arXiv 2502.09992 (random remasking)",
        equation="the next place is uniform among those that are hidden",
        cost="one pass over the whole text a call",
    )

    def scores(self, log_p: Tensor, may: Tensor, generators: Generators) -> Tensor:
        return uniform_scores(may, generators)

    def blind(self, canvas: Canvas, generators: Generators) -> Tensor | None:
        return best(uniform_scores(canvas.may, generators), canvas.may, self.quota(canvas))

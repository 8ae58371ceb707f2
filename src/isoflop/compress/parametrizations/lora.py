"""LoRA: a low-rank update beside a frozen weight (Hu et al. 2021, arXiv 2106.09685)."""

from __future__ import annotations

from ...core.registry import Card, part
from ...core.rng import Rng
from ..low_rank import LowRankPart, LowRankUpdate


@part
class LoRAPart(LowRankPart):
    """Low-rank adaptation: only A and B are trained, everything else stays as it is.

    Use it to fine-tune where the optimizer's state of all weights does not fit, or where many adapters share one base.

    Example:
        >>> part = LoRAPart(rank=4, alpha=8)
        >>> [(shape.name, shape.shape) for shape in part.shapes(3, 5)]
        [('A', (4, 5)), ('B', (3, 4))]
    """

    card = Card(
        summary="A low-rank update beside frozen weights; rank-stabilized: rsLoRA",
        paper="Hu et al. 2021, arXiv 2106.09685; rsLoRA: Kalajdzievski 2023, arXiv 2312.03732",
        equation="x W' + s x A' B', s = alpha / rank (rsLoRA: alpha / sqrt(rank))",
        defaults="rank 4 to 16 and alpha of the order of the rank, on queries and values",
        differs="all matrices within the blocks by default; no dropout; A drawn from N(0, 1 / columns)",
        cost="two thin products beside each; frozen weights cost no gradient of their own and no state",
    )

    def build(self, rows: int, columns: int, rng: Rng) -> LowRankUpdate:
        return LowRankUpdate(rows, columns, self.rank, self.scale, rng)

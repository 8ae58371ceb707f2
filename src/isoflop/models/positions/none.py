"""No positions: what a query sees it sees as a set (Kazemnejad et al. 2023, arXiv 2305.19466)."""

from ...core.contracts import PositionPart
from ...core.registry import Card, part


@part
class NoPosition(PositionPart):
    """Queries and keys stay as they are: order is known from the mask alone, or from learned positions.

    Example:
        >>> NoPosition().rates(8, 10_000.0) is None
        True
    """

    card = Card(
        summary="Nothing: order is known from the causal mask, or from positions that the model embeds",
        paper="Kazemnejad et al. 2023, arXiv 2305.19466",
        equation="q k'",
        cost="none",
    )

    def rates(self, head_dim: int, theta: float) -> None:
        return None

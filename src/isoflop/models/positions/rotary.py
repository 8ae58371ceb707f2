"""Rotary positions (Su et al. 2021, arXiv 2104.09864)."""

from ...core.registry import Card, part
from ..rotary import RotaryPart


@part
class Rotary(RotaryPart):
    """Pairs of numbers turn by angles that grow with the position, the first pair fastest.

    The usual choice: attention then depends on distances alone, and nothing is learnt.

    Example:
        >>> Rotary().rates(8, theta=10_000.0).shape
        torch.Size([4])
    """

    card = Card(
        summary="Turns pairs of each query's and key's numbers by angles in proportion to the position",
        paper="Su et al. 2021, arXiv 2104.09864; fraction: Black et al. 2022, arXiv 2204.06745, section 2.1.1",
        equation="pair i turns by position x theta^(-2i / turning)",
        differs="number i pairs with number i + head_dim / 2, as in GPT-NeoX and Llama, not with its neighbour",
        cost="3 operations a number of queries and keys, no products",
    )

"""A prefix that is seen whole, and the past: a prefix language model."""

from pydantic import PositiveInt

from ...core.contracts.pattern import Bools, Pattern, Positions
from ...core.registry import Card, part


@part
class PrefixPattern(Pattern):
    """The first ``size`` positions are seen by all; apart from them every position sees itself and those before it.

    For models that read a prompt in both directions and write causally.

    Example:
        >>> PrefixPattern(size=2).dense(3).tolist()
        [[True, True, False], [True, True, False], [True, True, True]]
    """

    size: PositiveInt
    """Positions of the prefix."""
    card = Card(
        summary="A prefix that all see, and the past",
        paper="Raffel et al. 2019, arXiv 1910.10683, section 3.2.1",
        equation="key < size or key <= query",
        cost="the causal pairs and size (size - 1) / 2 more",
    )

    def sees(self, queries: Positions, keys: Positions) -> Bools:
        return (keys < self.size) | (keys <= queries)

"""The past: what a language model that predicts the next token may see."""

from ...core.contracts.pattern import Causal
from ...core.registry import Card, part


@part
class CausalPattern(Causal):
    """Every position sees itself and those before it.

    The default of every autoregressive model; a recipe names it only within another.

    Example:
        >>> CausalPattern().pairs(4), CausalPattern().dense(3).tolist()
        (10, [[True, False, False], [True, True, False], [True, True, True]])
    """

    card = Card(
        summary="Every position sees itself and those before it",
        paper="Vaswani et al. 2017, arXiv 1706.03762, section 3.2.3",
        equation="key <= query",
        cost="T (T + 1) / 2 pairs",
    )

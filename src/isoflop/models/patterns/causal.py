"""The past: what a language model that predicts the next token may see."""

from ...core.contracts.pattern import Causal
from ...core.registry import Card, part


@part
class CausalPattern(Causal):
    """Every position sees itself and those before it."""

    card = Card(
        summary="Every position sees itself and those before it",
        paper="Vaswani et al. 2017, arXiv 1706.03762, section 3.2.3",
        equation="key <= query",
        cost="T (T + 1) / 2 pairs",
    )

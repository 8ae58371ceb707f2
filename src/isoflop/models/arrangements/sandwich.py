"""Norms before and behind each layer (Ding et al. 2021, arXiv 2105.13290)."""

from ...core.contracts import ArrangementPart
from ...core.registry import Card, part


@part
class Sandwich(ArrangementPart):
    """A norm on what mixer and feed-forward read, and another on what they add.

    Use it where a family does (Gemma 2): four norms a layer instead of two.

    Example:
        >>> from isoflop.models.architectures.transformer import TransformerPart
        >>> part = TransformerPart(d_model=32, layers=1, arrangement="sandwich")
        >>> sum(shape.role == "norm" for shape in part.shapes(257))
        5
    """

    rounds = (
        (("mixer_norm", "mixer", "mixer_output_norm"),),
        (("feed_forward_norm", "feed_forward", "feed_forward_output_norm"),),
    )
    card = Card(
        summary="Norms before and behind the mixer and the feed-forward",
        paper="Ding et al. 2021, arXiv 2105.13290, section 2.3; Gemma 2: arXiv 2408.00118",
        equation="x += norm(mixer(norm(x))); x += norm(feed_forward(norm(x)))",
        cost="4 norms a block",
    )

"""A norm behind each layer, inside the residual branch (OLMo 2: arXiv 2501.00656, section 3.2)."""

from ...core.contracts import ArrangementPart
from ...core.registry import Card, part


@part
class OutputNorm(ArrangementPart):
    """Mixer and feed-forward read the stream as it is, and a norm keeps what they add at one scale.

    Use it where a family does (OLMo 2): what a layer adds is bounded, whatever it computes.

    Example:
        >>> from isoflop.models.architectures.transformer import TransformerPart
        >>> part = TransformerPart(d_model=32, layers=1, arrangement="output_norm")
        >>> [shape.name for shape in part.shapes(257) if shape.role == "norm"]
        ['blocks.0.mixer_norm.weight', 'blocks.0.feed_forward_norm.weight', 'norm.weight']
    """

    rounds = ((("mixer", "mixer_norm"),), (("feed_forward", "feed_forward_norm"),))
    card = Card(
        summary="A norm on what the mixer and the feed-forward add, none on what they read",
        paper="OLMo 2 (OLMo Team 2024, arXiv 2501.00656, section 3.2); Swin V2: Liu et al. 2022, arXiv 2111.09883",
        equation="x += norm(mixer(x)); x += norm(feed_forward(x))",
        differs="the original Transformer normalises the sum, norm(x + mixer(x)): this is not that",
        cost="2 norms a block",
    )

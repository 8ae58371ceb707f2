"""A norm before each layer (Xiong et al. 2020, arXiv 2002.04745)."""

from ...core.contracts import ArrangementPart
from ...core.registry import Card, part


@part
class PreNorm(ArrangementPart):
    """Mixer, then feed-forward, each behind a norm: the usual one of today's decoders.

    Example, with ``ctx`` a context:
        >>> from isoflop.models.architectures.transformer import TransformerPart
        >>> part = TransformerPart(d_model=32, layers=1, arrangement="pre_norm")
        >>> [shape.name for shape in part.shapes(257) if shape.role == "norm"]
        ['blocks.0.mixer_norm.weight', 'blocks.0.feed_forward_norm.weight', 'norm.weight']
    """

    rounds = ((("mixer_norm", "mixer"),), (("feed_forward_norm", "feed_forward"),))
    card = Card(
        summary="A norm before the mixer and before the feed-forward",
        paper="Xiong et al. 2020, arXiv 2002.04745; GPT-2: Radford et al. 2019, section 2.3",
        equation="x += mixer(norm(x)); x += feed_forward(norm(x))",
        cost="2 norms a block",
    )

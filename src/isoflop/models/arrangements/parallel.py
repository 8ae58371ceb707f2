"""Mixer and feed-forward side by side (GPT-J; Chowdhery et al. 2022, arXiv 2204.02311)."""

from ...core.contracts import ArrangementPart
from ...core.registry import Card, part


@part
class Parallel(ArrangementPart):
    """Mixer and feed-forward read the same stream, each behind a norm of its own.

    Use it where a family does: both read before either has written, so that their products may be joined.

    Example:
        >>> from isoflop.models.architectures.transformer import TransformerPart
        >>> part = TransformerPart(d_model=32, layers=1, arrangement="parallel")
        >>> [shape.name for shape in part.shapes(257) if shape.role == "norm"]
        ['blocks.0.mixer_norm.weight', 'blocks.0.feed_forward_norm.weight', 'norm.weight']
    """

    rounds = ((("mixer_norm", "mixer"), ("feed_forward_norm", "feed_forward")),)
    card = Card(
        summary="Mixer and feed-forward read the same vectors, and what they give is added together",
        paper="GPT-NeoX: Black et al. 2022, arXiv 2204.06745, section 2.1; PaLM: arXiv 2204.02311, section 2",
        equation="x += mixer(norm(x)) + feed_forward(norm'(x))",
        differs="GPT-J and PaLM have one norm for both",
        cost="2 norms a block",
    )

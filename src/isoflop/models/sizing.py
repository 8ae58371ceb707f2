"""A Transformer of a wanted number of parameters: the shape by a rule, the count exact."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..core.errors import UsageError
from ..core.roles import numel
from .architectures.transformer import TransformerPart, tiles

SLENDER, WIDE = 64, 128
"""Width a layer, least and most: GPT-2 has 64, GPT-3 and Llama have 128."""
HEADS = ((256, 16), (2048, 64), (None, 128))
"""Width below which a head has so many dimensions; widths are whole heads."""
OFF = 0.5
"""Relative distance from the wanted count at which no shape is taken for near it."""


def sized(part: TransformerPart, parameters: float, vocab_size: int) -> TransformerPart:
    """The part with the width and layers whose count of all parameters is nearest to the wanted one.

    Widths are whole heads (of 16 dimensions below 256, of 64 below 2,048, of 128 from there on), a layer has 64 to 128
    of width (a model of less than 128 one or two layers), a feed-forward 8/3 of the width in whole heads.
    Whatever else the part says stays.

    Args:
        part: what the model is like.
        parameters: wanted, embedding and head counted.
        vocab_size: rows of the embedding.

    Raises:
        UsageError: no shape comes within half of the wanted count, as when the embedding alone is larger.

    Example:
        >>> part = sized(TransformerPart(), 1e9, 32768)
        >>> part.d_model, part.layers, round(numel(part.shapes(32768)) / 1e9, 2)
        (1856, 21, 0.99)
    """
    best, off = part, float("inf")
    for width, head in _widths():
        fewest, most = max(1, -(-width // WIDE)), max(2, width // SLENDER)
        fewest, most = (max(count, len(tiles(part.mixer)), len(tiles(part.feed_forward))) for count in (fewest, most))
        small, large = (_shaped(part, width, head, layers) for layers in (fewest, most))
        least, largest = (numel(shape.shapes(vocab_size)) for shape in (small, large))
        if least > (1 + OFF) * parameters and width > HEADS[0][1]:
            break
        if largest < parameters / (1 + OFF):
            continue
        a_layer = (largest - least) / (most - fewest) if most > fewest else parameters
        layers = round(min(max(fewest + (parameters - least) / a_layer, fewest), most))
        made = _shaped(part, width, head, layers)
        distance = abs(numel(made.shapes(vocab_size)) / parameters - 1)
        if distance < off:
            best, off = made, distance
    if off > OFF:
        raise UsageError(
            f"no shape has about {parameters:.3g} parameters with {vocab_size:,} ids",
            where="model",
            fix="use a smaller vocabulary, e.g. tokenizer.vocab_size=1024, or give model.d_model and model.layers",
        )
    return best


def _widths() -> Iterator[tuple[int, int]]:
    """(width, dimensions of a head) of every shape up to some 1e13 parameters."""
    width = 0
    while width < 65536:
        head = next(head for limit, head in HEADS if limit is None or width + head <= limit - head)
        width = (width // head + 1) * head
        yield width, head


def _shaped(part: TransformerPart, width: int, head: int, layers: int) -> TransformerPart:
    """The part at another width and depth, its heads and hidden widths with it."""
    hidden = -(-8 * width // (3 * head)) * head

    def scaled(inner: Any) -> Any:
        if isinstance(inner, tuple):
            return tuple(scaled(each) for each in inner)
        sizes = {"heads": width // head, "hidden": hidden}
        return inner.model_copy(update={key: size for key, size in sizes.items() if key in type(inner).model_fields})

    inners = {name: scaled(getattr(part, name)) for name in ("mixer", "feed_forward")}
    return part.model_copy(update={"d_model": width, "layers": layers, **inners})

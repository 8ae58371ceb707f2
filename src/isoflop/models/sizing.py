"""Transformers of a wanted number of parameters: one shape by a rule, or several, deep to wide; counts are exact."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from ..core.errors import UsageError
from ..core.roles import numel
from .architectures.transformer import TransformerPart, tiles

SLENDER, WIDE = 64, 128
"""Width a layer, least and most: GPT-2 has 64, GPT-3 and Llama have 128."""
HEADS = ((256, 16), (2048, 64), (None, 128))
"""Width below which a head has so many dimensions; widths are whole heads."""
LIMITS = (16, 256)
"""Width a layer, least and most, of shapes among which a machine's speed may choose."""
NEAR = (0.05, 0.1, 0.2)
"""Relative distance from the wanted count up to which a shape is one of about that count: the first at which one is."""
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
            f"no shape has about {parameters:,.0f} parameters with {vocab_size:,} ids",
            where="model",
            fix="use a smaller vocabulary, e.g. tokenizer.vocab_size=1024, or give model.d_model and model.layers",
        )
    return best


def shapes_near(part: TransformerPart, parameters: float, vocab_size: int, most: int = 6) -> list[TransformerPart]:
    """Shapes whose count of all parameters is within 5 % of the wanted one (if need be 20 %), from deep to wide.

    Each is the part at a width in whole heads and with the layers that come nearest to the count: 16 to 256 of width a
    layer. Where there are more, those that are kept lie evenly between the narrowest and the widest.

    Args:
        part: what the model is like.
        parameters: wanted, embedding and head counted.
        vocab_size: rows of the embedding.
        most: shapes that are wanted at most.

    Raises:
        UsageError: there is none.

    Example:
        >>> [(shape.d_model, shape.layers) for shape in shapes_near(TransformerPart(), 3e6, 1024, most=4)]
        [(160, 9), (192, 6), (224, 4), (256, 3)]
    """
    made = list(_at_every_width(part, parameters, vocab_size))
    off = [abs(numel(shape.shapes(vocab_size)) / parameters - 1) for shape in made]
    limit = next((limit for limit in NEAR if any(each <= limit for each in off)), 0.0)
    found = [shape for shape, each in zip(made, off, strict=True) if each <= limit]
    if not found:
        raise UsageError(
            f"no shape has about {parameters:,.0f} parameters with {vocab_size:,} ids",
            where="sizes",
            fix="use a smaller vocabulary, e.g. tokenizer.vocab_size=1024, or ask for another number",
        )
    return _spread_out(found, most)


def _at_every_width(part: TransformerPart, parameters: float, vocab_size: int) -> Iterator[TransformerPart]:
    """At each width that is not too large the layers that come nearest to the count, within ``LIMITS``."""
    least = max(len(tiles(part.mixer)), len(tiles(part.feed_forward)))
    for width, head in _widths():
        one, two = (numel(_shaped(part, width, head, least * count).shapes(vocab_size)) for count in (1, 2))
        if one > (1 + NEAR[-1]) * parameters:
            return
        layers = least * max(1, round(1 + (parameters - one) / (two - one)))
        if LIMITS[0] <= width / layers <= LIMITS[1]:
            yield _shaped(part, width, head, layers)


def _spread_out(found: list[TransformerPart], most: int) -> list[TransformerPart]:
    """At most so many of the shapes, whose widths, in ratio, lie as evenly as they can."""
    low, high = (math.log(part.d_model) for part in (found[0], found[-1]))
    wanted = [low + (high - low) * i / max(most - 1, 1) for i in range(most)]
    nearest = {min(range(len(found)), key=lambda i: abs(math.log(found[i].d_model) - place)) for place in wanted}
    return [found[i] for i in sorted(nearest)]


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
        each = max(1, hidden // getattr(inner, "chosen", 1))  # experts that are chosen share the width
        sizes = {"heads": width // head, "hidden": each}
        return inner.model_copy(update={key: size for key, size in sizes.items() if key in type(inner).model_fields})

    inners = {name: scaled(getattr(part, name)) for name in ("mixer", "feed_forward")}
    return part.model_copy(update={"d_model": width, "layers": layers, **inners})

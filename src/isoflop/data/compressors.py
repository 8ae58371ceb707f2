"""What a general compressor makes of the held-out text: the figure a language model should be seen beside."""

from __future__ import annotations

import lzma
from collections.abc import Iterable

from .corpus import Corpus


def compressed_bits_per_byte(corpus: Corpus, training_bytes: int = 5_000_000) -> dict[str, float]:
    """Bits per byte of the text of ``corpus.heldout()`` by name: alone, and given training text.

    Given training text t, the held-out text h costs C(t + h) - C(t), C in bytes; the dictionary looks back over all of
    t. Where there is more training text than ``training_bytes``, t is its first whole documents (their order is that
    of a hash) and the name says so. Takes some 0.6 CPU seconds a megabyte of t, twice.

    A model that does not beat xz given the same text has learnt nothing that repetition does not tell.

    Args:
        corpus: with held-out text.
        training_bytes: of training text that the dictionary is given.

    Example, with ``ctx`` a context that reads bytes:
        >>> from isoflop.data.document import Document
        >>> from isoflop.data.making import prepare
        >>> documents = [Document(f"text number {i}", "text", str(i), f"{i:032x}") for i in range(40)]
        >>> sorted(compressed_bits_per_byte(prepare(documents, ctx.tokenizer, ctx, deduplicate="exact")))
        ['xz', 'xz given training text']
    """
    heldout = _joined(corpus.heldout_text())
    training = _joined(corpus.train_text(), training_bytes)
    total = sum(a["text_bytes"] + a.get("prompt_bytes", 0) for a in corpus.describe()["train"].values())
    given = "training text" if len(training) == total else f"{len(training) / 1e6:.1f} MB of training text"
    return {
        "xz": 8 * _size(heldout) / len(heldout),
        f"xz given {given}": 8 * (_size(training + heldout) - _size(training)) / len(heldout),
    }


def _joined(texts: Iterable[str], limit: int | None = None) -> bytes:
    pieces: list[bytes] = []
    size = 0
    for text in texts:
        if limit is not None and size >= limit:
            break
        pieces.append(text.encode())
        size += len(pieces[-1])
    return b"".join(pieces)


def _size(data: bytes) -> int:
    """Bytes of the raw LZMA2 stream at preset 9 extreme: without the container's 60 bytes, which texts do not share."""
    # The whole text fits, so that no repetition is out of reach.
    dictionary = max(1 << 16, 1 << len(data).bit_length())
    options = {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": dictionary}
    return len(lzma.compress(data, format=lzma.FORMAT_RAW, filters=[options]))

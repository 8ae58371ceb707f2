"""Bytes as tokens: 256 ids for the bytes of UTF-8 and one for the end of text."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...core.contracts import TokenizerPart
from ...core.registry import Card, part
from ..document import utf8
from ..tokenizing import Ids, Pieces


class Bytes(Pieces):
    """Id i is byte i, 256 is the end of text.

    Example:
        >>> Bytes().encode("hé").tolist(), Bytes().decode([104, 195, 169])
        ([104, 195, 169], 'hé')
    """

    def __init__(self) -> None:
        super().__init__([*(bytes([byte]) for byte in range(256)), b""], eot=256)

    def encode(self, text: str) -> Ids:
        """Ids (bytes of the text,); a lone surrogate is a DataError."""
        return np.frombuffer(utf8(text), np.uint8).astype(np.int64)


@part
class BytesPart(TokenizerPart):
    """Every byte of UTF-8 is a token: nothing to train, nothing out of vocabulary.

    Use it in tests and for small models, where an embedding of thousands of tokens would be most of the parameters.

    Example:
        >>> tokenizer = BytesPart().build(iter(()))
        >>> BytesPart().vocabulary, tokenizer.eot, tokenizer.encode("ab").tolist()
        (257, 256, [97, 98])
    """

    card = Card(summary="The 256 bytes of UTF-8 and an end-of-text id.", cost="sequences 2.5-4 times as long as BPE's")

    @property
    def vocabulary(self) -> int:
        return 257

    def build(self, texts: Iterator[str]) -> Bytes:
        return Bytes()

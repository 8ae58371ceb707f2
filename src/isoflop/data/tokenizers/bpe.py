"""Byte-level byte-pair encoding (Sennrich et al. 2016; Radford et al. 2019), trained on the training text only."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import tokenizers as hf
from pydantic import Field, PositiveInt

from ...core.contracts import TokenizerPart
from ...core.files import write_atomic
from ...core.registry import Card, part
from ..document import utf8
from ..tokenizing import Ids, Pieces, byte_alphabet, open_tokenizer

EOT = "<|endoftext|>"

# Words, numbers, punctuation (each with at most one blank before it) and white space, which leaves its last blank to
# the word behind it. Only explicit ranges, so that Python's engine and the tokenizers library's agree on every text;
# everything from U+0080 on counts as a letter; no piece is longer than 33 characters, so that time stays linear.
PATTERN = (
    r" ?[A-Za-z\x80-\U0010ffff]{1,32}"
    r"| ?[0-9]{1,32}"
    r"| ?[^ \t\r\nA-Za-z0-9\x80-\U0010ffff]{1,32}"
    r"|[ \t\r\n]{1,32}(?![^ \t\r\n])"
    r"|[ \t\r\n]"
)
_SPLIT = re.compile(PATTERN)
_CACHED = 500_000  # pieces whose ids are kept


class BytePairs(Pieces):
    """A trained byte-level BPE. Id 0 is the end of text; ids that training found no use for are never emitted.

    Each distinct piece is encoded once and looked up afterwards: three times as fast as the library on whole texts.

    Example:
        >>> tokenizer = BpePart(vocab_size=270).build(iter(["the cat and the hat " * 20]))
        >>> ids = tokenizer.encode("the hat")
        >>> tokenizer.decode(ids), len(ids) < 7
        ('the hat', True)
    """

    def __init__(self, tokenizer: hf.Tokenizer, vocab_size: int) -> None:
        alphabet = byte_alphabet()
        pieces = [b""] * vocab_size
        for token, i in tokenizer.get_vocab().items():
            if token != EOT:
                pieces[i] = bytes(alphabet[character] for character in token)
        super().__init__(pieces, eot=0)
        self._tokenizer = tokenizer
        self._known: dict[str, bytes] = {}  # ids of 64 bits, so that those of a text are one join

    def encode(self, text: str) -> Ids:
        """Ids (tokens,); text that looks like the end-of-text token is text. A lone surrogate is a DataError."""
        return self.encode_many([text])[0]

    def encode_many(self, texts: Sequence[str]) -> list[Ids]:
        """``encode`` of each text."""
        for text in texts:
            utf8(text)
        split = [_SPLIT.findall(text) for text in texts]
        try:
            return [self._looked_up(pieces) for pieces in split]
        except KeyError:  # a piece that is new
            self._learn(split)
            return [self._looked_up(pieces) for pieces in split]

    def _looked_up(self, pieces: list[str]) -> Ids:
        return np.frombuffer(b"".join(map(self._known.__getitem__, pieces)), np.int64).copy()

    def _learn(self, split: list[list[str]]) -> None:
        if len(self._known) > _CACHED:
            self._known.clear()
        new = [piece for piece in dict.fromkeys(itertools.chain.from_iterable(split)) if piece not in self._known]
        for piece, encoding in zip(new, self._tokenizer.encode_batch_fast(new, add_special_tokens=False), strict=True):
            self._known[piece] = np.array(encoding.ids, np.int64).tobytes()

    def save(self, path: Path) -> None:
        """Write a ``tokenizer.json`` that the tokenizers library (and so transformers) reads."""
        write_atomic(path, self._tokenizer.to_str(pretty=False))


@part
class BpePart(TokenizerPart):
    """Byte-level BPE trained on the corpus' training text; deterministic.

    Use it where tokens should be words of the corpus; its vocabulary's embedding is then a large part of a small model.
    Bits per byte compares models of different tokenizers, losses a token do not.

    Example:
        >>> tokenizer = BpePart(vocab_size=270).build(iter(["the cat and the hat " * 20]))
        >>> BpePart(vocab_size=270).vocabulary, len(tokenizer.encode("the hat")) < len("the hat")
        (270, True)
    """

    vocab_size: Annotated[int, Field(ge=257, le=1_000_000)] = 1024
    """Ids: the end of text, 256 bytes and the merges."""
    sample_bytes: PositiveInt = 100_000_000
    """Training reads whole documents, in the corpus' order, until about so many characters."""
    card = Card(
        summary="Byte-pair encoding on bytes: the most frequent pair of adjacent tokens becomes a token, repeatedly.",
        paper="Sennrich et al. 2016, arXiv 1508.07909; bytes as in Radford et al. 2019 (GPT-2)",
        differs="pre-tokenisation is by ASCII classes with pieces of at most 33 characters, not GPT-2's pattern",
        cost="trains at about 4 MB/s, encodes at about 15 MB/s on one core",
    )

    @property
    def vocabulary(self) -> int:
        return self.vocab_size

    def build(self, texts: Iterator[str]) -> BytePairs:
        tokenizer = hf.Tokenizer(hf.models.BPE())
        pattern = PATTERN.replace(r"\x80-\U0010ffff", r"\x{80}-\x{10ffff}")  # the library's engine is Oniguruma
        tokenizer.pre_tokenizer = hf.pre_tokenizers.Sequence(
            [
                hf.pre_tokenizers.Split(hf.Regex(pattern), "isolated"),
                hf.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        tokenizer.decoder = hf.decoders.ByteLevel()
        trainer = hf.trainers.BpeTrainer(
            vocab_size=self.vocab_size,
            special_tokens=[EOT],
            initial_alphabet=sorted(byte_alphabet()),
            show_progress=False,
        )
        tokenizer.train_from_iterator(_sample(texts, self.sample_bytes), trainer)
        return BytePairs(tokenizer, self.vocab_size)

    def load(self, path: Path) -> BytePairs:
        """The tokenizer that ``BytePairs.save`` wrote."""
        return BytePairs(open_tokenizer(path), self.vocab_size)


def _sample(texts: Iterator[str], limit: int) -> Iterator[str]:
    size = 0
    for text in texts:
        yield text
        size += len(text)
        if size >= limit:
            return

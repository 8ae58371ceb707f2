"""A batch of texts as arrays: characters, words and n-grams of all of them at once, without a loop over words.

Two ways to cut a text: ``tokens`` are words and symbols, as linguistic tokenizers see them (a row of one symbol is one;
"don't" is two; "3.14" and "a.b" are one), ``words`` are runs of letters, digits and underscores alone.
"""

from __future__ import annotations

import functools
import hashlib
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ..hashing import FACTOR, Hashes, mixed

Places = npt.NDArray[np.int64]
WORD, ALPHA, SPACE, DIGIT, SYMBOL = 1, 2, 4, 8, 16
"""Bits of a character's class: of a word, a letter, white space, a digit, and a mark that alone makes no word."""
_ASSIGNED = 0x33000  # code points from here on are no letters, but for variation selectors
_LONG = 32  # characters of a word from which on it is hashed as a whole
_MARKS = "!/—”:％１〈&(、━\\【#%「」，】；+^]~“《„';’{|∶´[=-`*．（–？！：$～«〉,><》)?）。…@_.\"}►»"
"""Characters of which a token alone is none that counts as a word, as datatrove lists them."""


@dataclass(frozen=True)
class Spans:
    """Pieces of a batch of texts.

    Args:
        starts: int64 (n,) first characters, in the whole batch.
        stops: int64 (n,) where they end.
        text: int64 (n,) the text that each lies in.
        bounds: int64 (texts + 1,) the number of each text's first piece.

    Example:
        >>> Pages(["two words", "one"]).words.bounds.tolist()
        [0, 2, 3]
    """

    starts: Places
    stops: Places
    text: Places
    bounds: Places

    @property
    def counts(self) -> Places:
        """int64 (texts,) pieces of each text."""
        return np.diff(self.bounds)

    @property
    def lengths(self) -> Places:
        """int64 (n,) characters of each piece."""
        return self.stops - self.starts

    def per_text(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Sums over each text of values of its pieces, (n,) -> (texts,)."""
        whole = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
        return np.asarray(whole[self.bounds[1:]] - whole[self.bounds[:-1]])


class Pages:
    """Texts, and arrays of what is in them, made when they are asked for.

    Args:
        texts: without lone surrogates.
        records: what else is known of each; by default nothing.

    Example:
        >>> pages = Pages(["It's 3.14 ...", "one"])
        >>> pages.tokens.counts.tolist(), pages.words.counts.tolist()
        ([4, 1], [4, 1])
    """

    def __init__(self, texts: Sequence[str], records: Sequence[Mapping[str, Any]] = ()) -> None:
        self.texts = texts
        self.records = records or [{}] * len(texts)
        self.lengths = np.fromiter(map(len, texts), np.int64, len(texts))
        self.starts = np.cumsum(self.lengths + 1) - self.lengths - 1

    def __len__(self) -> int:
        return len(self.texts)

    @cached_property
    def codes(self) -> npt.NDArray[Any]:
        """Code points of all texts, a newline after each: uint8 where all are ASCII, else uint32."""
        whole = "\n".join([*self.texts, ""])
        if whole.isascii():
            return np.frombuffer(whole.encode("ascii"), np.uint8)
        return np.frombuffer(whole.encode("utf-32-le"), np.uint32)

    @cached_property
    def classes(self) -> npt.NDArray[np.uint8]:
        """Bits of each character's class."""
        return np.take(_classes(), self.codes)

    @cached_property
    def folded(self) -> npt.NDArray[np.uint32]:
        """Code points in lower case, those that stay one character."""
        return np.take(_lower(), self.codes)

    @cached_property
    def words(self) -> Spans:
        """Runs of letters, digits and underscores."""
        inside = (self.classes & WORD).view(np.bool_)
        edges = np.flatnonzero(np.diff(inside, prepend=False, append=False))
        return self._spans(edges[::2], edges[1::2])

    @cached_property
    def tokens(self) -> Spans:
        """Words and symbols."""
        codes, classes = self.codes, self.classes
        word = (classes & WORD) != 0
        before, after = np.append(False, word[:-1]), np.append(word[1:], False)
        digit = (classes & DIGIT) != 0
        between = before & after & ~word
        joins = between & (codes == ord("."))
        numbers = np.append(False, digit[:-1]) & np.append(digit[1:], False)
        joins |= between & numbers & (codes == ord(","))
        apostrophe = between & ((codes == ord("'")) | (codes == 0x2019))
        word = word | joins | apostrophe
        solid = word | ((classes & SPACE) == 0)
        group = np.where(word, -1, codes.astype(np.int64))  # a row of one symbol is one token
        first = solid & (np.append(True, group[1:] != group[:-1]) | apostrophe | ~np.append(False, solid[:-1]))
        starts = np.flatnonzero(first)
        last = solid & np.append(first[1:] | ~solid[1:], True)
        return self._spans(starts, np.flatnonzero(last) + 1)

    def _spans(self, starts: Places, stops: Places) -> Spans:
        bounds = np.append(np.searchsorted(starts, self.starts), len(starts))
        return Spans(starts, stops, np.repeat(np.arange(len(self)), np.diff(bounds)), bounds)

    @cached_property
    def token_hashes(self) -> Hashes:
        """uint64, one a token, as it is written."""
        return self.hashes(self.tokens, self.codes)

    @cached_property
    def word_hashes(self) -> Hashes:
        """uint64, one a word, in lower case."""
        return self.hashes(self.words, self.folded)

    def hashes(self, spans: Spans, codes: npt.NDArray[Any]) -> Hashes:
        """uint64 (n,): equal for equal pieces."""
        found, left = np.zeros(len(spans.starts), np.uint64), spans.lengths.copy()
        long = np.flatnonzero(left > _LONG)
        left[long] = 0
        active, k = np.flatnonzero(left > 0), 0
        while len(active):
            found[active] = found[active] * FACTOR + codes[spans.starts[active] + k].astype(np.uint64) + np.uint64(1)
            k += 1
            active = active[left[active] > k]
        for place in long.tolist():
            piece = codes[spans.starts[place] : spans.stops[place]].astype(np.uint32).tobytes()
            found[place] = int.from_bytes(hashlib.blake2b(piece, digest_size=8).digest(), "little")
        return mixed(found)


def within(spans: Spans, n: int) -> npt.NDArray[np.bool_]:
    """bool (len - n + 1,): whether the run of n pieces from each on lies in one text."""
    text = spans.text
    return np.asarray(text[n - 1 :] == text[: len(text) - n + 1]) if len(text) >= n else np.empty(0, np.bool_)


@functools.cache
def _classes() -> npt.NDArray[np.uint8]:
    table = np.zeros(sys.maxunicode + 1, np.uint8)
    marks = set(_MARKS) | {chr(code) for a, b in ((0, 9), (11, 13), (13, 32), (127, 160)) for code in range(a, b)}
    for code in range(_ASSIGNED):
        character = chr(code)
        if character.isalnum() or character == "_":
            table[code] |= WORD
        if character.isalpha():
            table[code] |= ALPHA
        if character.isspace():
            table[code] |= SPACE
        if character.isdigit():
            table[code] |= DIGIT
        if character in marks:
            table[code] |= SYMBOL
        if code >= 0x300 and unicodedata.category(character)[0] == "M":
            table[code] |= WORD  # accents and vowel signs
    table[0xE0100:0xE01F0] |= WORD
    return table


@functools.cache
def _lower() -> npt.NDArray[np.uint32]:
    table = np.arange(sys.maxunicode + 1, dtype=np.uint32)
    for code in range(0x20000):  # no case beyond
        lower = chr(code).lower()
        if len(lower) == 1:
            table[code] = ord(lower)
    return table

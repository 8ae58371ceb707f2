"""What repeats itself within a text: lines, paragraphs, and n-grams of tokens.

Most texts repeat little, and an n-gram can only be repeated where its (n-1)-grams are: so the longer n-grams are looked
for among ever fewer places.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..hashing import FACTOR, mixed
from .pages import Pages, Places

_BUCKETS = 20  # bits of the table by which most n-grams are seen to be the only ones of their kind


def duplicates(pieces: Sequence[str]) -> tuple[int, int]:
    """How many pieces equal an earlier one, and their characters."""
    if len(set(pieces)) == len(pieces):
        return 0, 0
    seen, count, characters = set[str](), 0, 0
    for piece in pieces:
        if piece in seen:
            count, characters = count + 1, characters + len(piece)
        else:
            seen.add(piece)
    return count, characters


def paragraphs_of(text: str) -> list[str]:
    """Paragraphs: what blank lines part."""
    return [piece.lstrip("\n") for piece in text.strip().split("\n\n") if piece] or [""]


def lines_of(text: str) -> list[str]:
    """Lines that are not empty, and an empty one where a text begins or ends with a line's end."""
    lines = [line for line in text.split("\n") if line]
    return [*([""] if text[:1] == "\n" else []), *lines, *([""] if text[-1:] == "\n" else [])] or [""]


class Repeats:
    """Repeated n-grams of a batch's tokens, n = 2, 3, ... in turn.

    Args:
        pages: the batch.

    Example:
        >>> pages = Pages(["a b c a b c a b c"])
        >>> Repeats(pages).top(2).tolist()
        [9]
    """

    def __init__(self, pages: Pages) -> None:
        self.pages, self.n = pages, 1
        self._hashes = pages.token_hashes
        tokens = pages.tokens
        self._characters = np.concatenate([[0], np.cumsum(tokens.lengths)])
        self._places = np.arange(len(self._hashes))
        # A text's n-grams are told from those of another by its number; the key grows with n.
        self._keys = mixed(self._hashes + mixed(tokens.text.astype(np.uint64)))
        self._heads = self._counts = np.empty(0, np.int64)

    def _reach(self, n: int) -> None:
        """Go on to n-grams: places of those that occur twice in their text, the first of each kind, and how many."""
        text = self.pages.tokens.text
        while self.n < n:
            self.n += 1
            if self.n == 2:
                places = self._places[:-1]
            else:
                alive = np.zeros(len(text) + 1, np.bool_)
                alive[self._places] = True
                places = self._places[alive[self._places + 1]]
            places = places[text[places] == text[np.minimum(places + self.n - 1, len(text) - 1)]]
            places = places[places + self.n <= len(text)]
            keys = np.zeros(len(places), np.uint64)
            for offset in range(self.n):
                keys = keys * FACTOR + self._keys[places + offset]
            keys = mixed(keys)
            bucket = (keys >> np.uint64(64 - _BUCKETS)).astype(np.int64)
            several = np.bincount(bucket, minlength=1 << _BUCKETS)[bucket] > 1
            keys, places = keys[several], places[several]
            order = np.argsort(keys)
            keys, places = keys[order], places[order]
            first = np.append(True, keys[1:] != keys[:-1]) if len(keys) else np.empty(0, np.bool_)
            lone = first & np.append(first[1:], True) if len(keys) else first
            places, starts = places[~lone], np.flatnonzero(first[~lone])
            self._counts = np.diff(np.append(starts, len(places)))
            self._heads = np.minimum.reduceat(places, starts) if len(starts) else starts
            self._places = np.sort(places)

    def top(self, n: int) -> Places:
        """int64 (texts,): characters, blanks between its tokens included, of all occurrences of the commonest n-gram.

        Of several that are equally common, the first. n must not fall from call to call.
        """
        self._reach(n)
        tokens, texts = self.pages.tokens, len(self.pages)
        found = np.zeros(texts, np.int64)
        enough = np.flatnonzero(tokens.counts >= n)
        begins = tokens.bounds[enough]
        found[enough] = self._characters[begins + n] - self._characters[begins] + n - 1
        if len(self._heads):
            heads, counts = self._heads, self._counts
            text = tokens.text[heads]
            best = np.lexsort((heads, -counts, text))
            best = best[np.append(True, text[best][1:] != text[best][:-1])]
            size = self._characters[heads[best] + n] - self._characters[heads[best]] + n - 1
            found[text[best]] = size * counts[best]
        return found

    def covered(self, n: int) -> Places:
        """int64 (texts,): characters of tokens in n-grams that occurred before: at least those of ``greedy``."""
        self._reach(n)
        tokens = self.pages.tokens
        later = np.zeros(len(self._hashes) + n, np.bool_)
        later[self._places] = True
        later[self._heads] = False
        edges = later.astype(np.int8)
        edges[n:] -= later[:-n]
        inside = np.cumsum(edges, dtype=np.int64)[: len(self._hashes)] > 0
        return np.asarray(tokens.per_text(tokens.lengths * inside))

    def greedy(self, text: int, n: int) -> int:
        """Characters of a text's n-grams that occurred before, from left to right, each token in one at most."""
        first, stop = self.pages.tokens.bounds[text : text + 2].tolist()
        hashes = self._hashes[first:stop].tolist()
        size = self._characters[first : stop + 1].tolist()
        seen, place, found = set[tuple[int, ...]](), 0, 0
        while place < len(hashes) - n + 1:
            gram = tuple(hashes[place : place + n])
            if gram in seen:
                found += size[place + n] - size[place]
                place += n
            else:
                seen.add(gram)
                place += 1
        return found


def shares(values: npt.NDArray[np.int64], lengths: Places) -> npt.NDArray[np.float64]:
    """Values per character of each text."""
    return np.asarray(values / np.maximum(lengths, 1))

"""Near duplicates at scale: MinHash with locality-sensitive hashing (Broder 1997; Leskovec et al. 2014, section 3.4).

Shingles are runs of words in lower case. A document's signature are minima of many hashes over its shingles; bands of
it are keys, and documents that share a key are candidates: with probability 1 - (1 - J^rows)^bands, where J is their
Jaccard similarity.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ...core.rng import Rng
from ..hashing import Hashes, mixed, ngrams
from .pages import Pages, within

Minima = npt.NDArray[np.uint32]
_BLOCK = 1 << 14  # shingles hashed at once: they stay in the first-level caches


@dataclass(frozen=True)
class MinHash:
    """How near duplicates are looked for.

    Args:
        bands: keys of a document.
        rows: hashes of a key.
        words: of a shingle.
        verify: candidates count as duplicates only if so large a share of their hashes agrees, an estimate of J; 0: all
            candidates count, as in most published pipelines.

    Example:
        >>> near = MinHash(bands=14, rows=8)
        >>> round(near.probability(0.8), 3), round(near.threshold, 2)
        (0.924, 0.72)
    """

    bands: int = 14
    rows: int = 8
    words: int = 5
    verify: float = 0.0

    @property
    def hashes(self) -> int:
        """Hashes of a signature."""
        return self.bands * self.rows

    @property
    def threshold(self) -> float:
        """The similarity about which candidates begin: (1 / bands)^(1 / rows)."""
        return float((1 / self.bands) ** (1 / self.rows))

    def probability(self, similarity: float) -> float:
        """Of two documents of that Jaccard similarity to be candidates."""
        return 1 - (1 - similarity**self.rows) ** self.bands

    def to_json(self) -> dict[str, Any]:
        return {"bands": self.bands, "rows": self.rows, "words": self.words, "verify": self.verify}

    def signatures(self, pages: Pages) -> Minima:
        """uint32 (texts, hashes): minima over each text's shingles; a text of fewer words is one shingle, one without
        words has none, and all its minima are the largest number."""
        shingles, bounds = self.shingles(pages)
        a, b = _multipliers(self.hashes)
        found = np.full((self.hashes, len(pages)), np.iinfo(np.uint32).max, np.uint32)
        for first, last in _blocks(bounds):
            starts = bounds[first:last]
            filled = np.flatnonzero(np.diff(bounds[first : last + 1]))
            if not len(filled):
                continue
            piece = shingles[bounds[first] : bounds[last]]
            places = (starts - bounds[first])[filled]
            if len(filled) == 1:
                for row in range(self.hashes):
                    found[row, first + filled[0]] = (piece * a[row] + b[row]).min()
                continue
            hashed, least = np.empty_like(piece), np.empty(len(filled), np.uint32)
            for row in range(self.hashes):
                np.multiply(piece, a[row], out=hashed)
                np.add(hashed, b[row], out=hashed)
                np.minimum.reduceat(hashed, places, out=least)
                found[row, first + filled] = least
        return np.ascontiguousarray(found.T)

    def shingles(self, pages: Pages) -> tuple[Minima, npt.NDArray[np.int64]]:
        """uint32 hashes of all texts' shingles, and where those of each begin, (texts + 1,)."""
        words, n = pages.words, self.words
        rolled, inside = ngrams(pages.word_hashes, n), within(words, n)
        short = np.flatnonzero((words.counts > 0) & (words.counts < n))
        counts = np.maximum(words.counts - n + 1, words.counts > 0)
        bounds = np.append(0, np.cumsum(counts))
        found = np.empty(int(bounds[-1]), np.uint64)
        full = np.ones(len(found), np.bool_)
        full[bounds[short]] = False
        found[full] = rolled[inside]
        for text in short.tolist():
            whole = ngrams(pages.word_hashes[words.bounds[text] : words.bounds[text + 1]], int(words.counts[text]))
            found[bounds[text]] = whole[0]
        return (mixed(found) >> np.uint64(32)).astype(np.uint32), bounds

    def keys(self, signatures: Minima) -> Hashes:
        """uint64 (texts, bands): a hash of each band of each signature; that of a text without words is 0."""
        bands = signatures.reshape(len(signatures), self.bands, self.rows).astype(np.uint64)
        found = np.zeros(bands.shape[:2], np.uint64)
        for row in range(self.rows):
            found = mixed(found + bands[:, :, row])
        found[(signatures == np.iinfo(np.uint32).max).all(1)] = 0
        return found


PRESETS = {
    "datatrove": MinHash(14, 8),
    "refinedweb": MinHash(450, 20),
    "dclm": MinHash(15, 93),
    "nemo": MinHash(20, 13),
    "slimpajama": MinHash(20, 13, words=13),
    "recall": MinHash(25, 6, verify=0.75),
}
"""Published settings; ``recall`` finds 99.9 % of pairs with J = 0.8 and checks them."""


@functools.cache
def _multipliers(count: int) -> tuple[Minima, Minima]:
    generator = Rng(0)("minhash").at()
    a = generator.integers(0, 2**32, count, dtype=np.uint32) | np.uint32(1)
    return a, generator.integers(0, 2**32, count, dtype=np.uint32)


def _blocks(bounds: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """Ranges of texts with about ``_BLOCK`` shingles together."""
    found, first = list[tuple[int, int]](), 0
    while first < len(bounds) - 1:
        last = int(np.searchsorted(bounds, bounds[first] + _BLOCK, side="right")) - 1
        last = min(max(last, first + 1), len(bounds) - 1)
        found.append((first, last))
        first = last
    return found

"""Duplicates: exact ones by a whitespace-normalised hash, near ones by MinHash and locality-sensitive hashing.

Near duplicates (Broder 1997): the Jaccard similarity J of two documents' sets of word 5-grams. 112 min-wise hashes in
14 bands of 8 propose a pair with probability 1 - (1 - J^8)^14 (0.92 at J = 0.8, 0.9996 at 0.9); a proposed pair counts
as duplicates if its exact J is at least ``NEAR``. The first of several duplicates stays.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..core.rng import Rng

Words = npt.NDArray[np.uint64]

SHINGLE = 5
BANDS, ROWS = 14, 8
NEAR = 0.7
_BLOCK = 1 << 15  # shingles hashed at once: 256 KiB, which stays in the second-level cache
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Distinct:
    """Indices of the documents that stay, in order, and how many were dropped as exact and as near duplicates."""

    kept: tuple[int, ...]
    exact: int
    near: int


def distinct(texts: Sequence[str]) -> Distinct:
    """Drop every text that equals or nearly equals an earlier one that stays."""
    seen: set[bytes] = set()
    unique = []
    for index, text in enumerate(texts):
        key = normalised_hash(text)
        if key not in seen:
            seen.add(key)
            unique.append(index)
    buckets: dict[bytes, list[int]] = {}
    kept_shingles: dict[int, Words] = {}
    kept = []
    for index, shingles, bands in _banded(unique, texts):
        earlier = {other for band in bands for other in buckets.get(band, ())}
        if any(jaccard(shingles, kept_shingles[other]) >= NEAR for other in sorted(earlier)):
            continue
        kept.append(index)
        kept_shingles[index] = shingles
        for band in bands:
            buckets.setdefault(band, []).append(index)
    return Distinct(tuple(kept), exact=len(texts) - len(unique), near=len(unique) - len(kept))


def normalised_hash(text: str) -> bytes:
    """BLAKE2b (16 bytes) of the text with every run of white space as one blank."""
    return hashlib.blake2b(" ".join(text.split()).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def jaccard(a: Words, b: Words) -> float:
    """Jaccard similarity of two sorted sets; 0 if one is empty."""
    both = len(np.intersect1d(a, b, assume_unique=True))
    return both / (len(a) + len(b) - both) if both else 0.0


class Shingler:
    """Word 5-grams as 64-bit hashes: sorted, without repeats. Fewer than five words give none."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def __call__(self, text: str) -> Words:
        words = _WORD.findall(text.lower())
        if len(words) < SHINGLE:
            return np.empty(0, np.uint64)
        if len(self._known) > 1_000_000:
            self._known.clear()
        hashes = np.fromiter(map(self._hash, words), np.uint64, len(words))
        rolled = np.zeros(len(words) - SHINGLE + 1, np.uint64)
        for offset in range(SHINGLE):
            rolled = rolled * np.uint64(0x9E3779B97F4A7C15) + hashes[offset : offset + len(rolled)]
        return np.unique(_mixed(rolled))

    def _hash(self, word: str) -> int:
        found = self._known.get(word)
        if found is None:
            digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
            found = self._known[word] = int.from_bytes(digest, "little")
        return found


def signatures(sets: Sequence[Words]) -> npt.NDArray[np.uint64]:
    """MinHash signatures (len(sets), BANDS * ROWS) of non-empty sets: minima of a x + b mod 2^64, a odd."""
    generator = Rng(0)("minhash").at()
    a = generator.integers(0, 2**64, BANDS * ROWS, dtype=np.uint64) | np.uint64(1)
    b = generator.integers(0, 2**64, BANDS * ROWS, dtype=np.uint64)
    starts = np.cumsum([0, *(len(each) for each in sets[:-1])])
    everything = np.concatenate(sets)
    result = np.empty((BANDS * ROWS, len(sets)), np.uint64)
    for row in range(BANDS * ROWS):
        np.minimum.reduceat(everything * a[row] + b[row], starts, out=result[row])
    return np.ascontiguousarray(result.T)


def _banded(indices: Iterable[int], texts: Sequence[str]) -> Iterator[tuple[int, Words, list[bytes]]]:
    """Each document with its shingles and the keys of its bands (none for fewer than five words), in order."""
    shingler = Shingler()
    block: list[tuple[int, Words]] = []
    size = 0
    for index in indices:
        block.append((index, shingler(texts[index])))
        size += len(block[-1][1])
        if size >= _BLOCK:
            yield from _keyed(block)
            block, size = [], 0
    yield from _keyed(block)


def _keyed(block: Sequence[tuple[int, Words]]) -> Iterator[tuple[int, Words, list[bytes]]]:
    filled = [shingles for _, shingles in block if len(shingles)]
    rows = iter(signatures(filled) if filled else np.empty((0, BANDS * ROWS), np.uint64))
    for index, shingles in block:
        if len(shingles):
            bands: npt.NDArray[np.uint64] = next(rows).reshape(BANDS, ROWS)
            yield index, shingles, [band.to_bytes(1, "big") + bands[band].tobytes() for band in range(BANDS)]
        else:
            yield index, shingles, []


def _mixed(x: Words) -> Words:
    """The finaliser of splitmix64 (Steele et al. 2014), so that min-wise hashing sees well-spread values."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))

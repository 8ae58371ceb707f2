"""Duplicates: exact ones by a hash, near ones by MinHash and locality-sensitive hashing.

Near duplicates (Broder 1997): the Jaccard similarity J of two documents' bags of shingles, which are runs of units (see
``units``). 112 min-wise hashes in 14 bands of 8 propose a pair with probability 1 - (1 - J^8)^14 (0.92 at J = 0.8,
0.9996 at 0.9); a proposed pair counts as duplicates if its exact J is at least ``NEAR``. The first of several stays.

Two things make this safe and near-linear on text that is not prose:

* A shingle must be long enough not to occur in a text by chance (Rajaraman and Ullman 2011, section 3.2.2). Five words
  of prose are; five brackets, digits or bits are not: every long text holds all of them. So shingles are doubled until
  they carry enough bits, by the entropy of the text's units. Repeats are counted: a bag is no set.
* Records that share a template meet in the same bands without being duplicates. A band's bucket takes no more than
  ``CROWD`` of them: their own content gives true duplicates other bands to meet in.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ..core.digests import document_hash
from ..core.rng import Rng
from .hashing import FACTOR, Hashes, mixed, ngrams
from .units import units

Deduplicate = Literal["near", "exact"] | None
"""Which duplicates are dropped: near ones as well as exact ones, exact ones only, or none."""

SHINGLE = 5
CHANCE = 8.0  # bits: a shingle occurs in an unrelated text of the same length and units with probability 2^-8 at most
BANDS, ROWS = 14, 8
NEAR = 0.7
SHORTEST = 33  # units from which on one changed unit anywhere leaves J >= NEAR: (n - 9) / (n + 1)
CROWD = 16
_BLOCK = 1 << 15  # shingles hashed at once: 256 KiB, which stays in the second-level cache


@dataclass(frozen=True)
class Distinct:
    """Which of several documents stay.

    Attributes:
        kept: indices of those that stay, in order.
        exact: for each text that equals an earlier one, its index and the earlier one's.
        near: likewise for near ones.

    Example:
        >>> distinct(["one text", "another text", "one text"])
        Distinct(kept=(0, 1), exact=((2, 0),), near=())
    """

    kept: tuple[int, ...]
    exact: tuple[tuple[int, int], ...]
    near: tuple[tuple[int, int], ...]


def distinct(texts: Sequence[str], drop: Deduplicate = "near") -> Distinct:
    """Drop every text that equals (or, for "near", nearly equals) an earlier one that stays.

    Duplicates let held-out text be learnt by heart; so they go before the split.

    Args:
        texts: in the order in which an earlier one wins.
        drop: "near" for near ones as well, "exact", or None.

    Example:
        >>> words = " ".join(f"word{i}" for i in range(400))
        >>> distinct([words, words + " more", "else"]).near
        ((1, 0),)
    """
    if drop is None:
        return Distinct(tuple(range(len(texts))), (), ())
    first: dict[bytes, int] = {}
    exact = []
    for index, text in enumerate(texts):
        earlier = first.setdefault(document_hash(text), index)
        if earlier != index:
            exact.append((index, earlier))
    unique = tuple(first.values())
    pairs = tuple(_near(unique, texts)) if drop == "near" else ()
    dropped = {index for index, _ in pairs}
    return Distinct(tuple(index for index in unique if index not in dropped), tuple(exact), pairs)


def _near(unique: Iterable[int], texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Each text of ``unique`` that nearly equals an earlier one that stays, and that one."""
    buckets: dict[bytes, list[int]] = {}
    kept: dict[int, Hashes] = {}
    for index, shingles, bands in _banded(unique, texts):
        met = sorted({other for band in bands for other in buckets.get(band, ())})
        twin = next((other for other in met if jaccard(shingles, kept[other]) >= NEAR), None)
        if twin is not None:
            yield index, twin
            continue
        kept[index] = shingles
        for band in bands:
            bucket = buckets.setdefault(band, [])
            if len(bucket) < CROWD:
                bucket.append(index)


def jaccard(a: Hashes, b: Hashes) -> float:
    """Jaccard similarity of two sorted sets; 0 if one is empty."""
    both = len(np.intersect1d(a, b, assume_unique=True))
    return both / (len(a) + len(b) - both) if both else 0.0


class Shingler:
    """Bags of shingles as 64-bit hashes, sorted: of a repeated one, every repeat has a hash of its own.

    Fewer than ``SHORTEST`` units give none: where one of them makes a difference, texts are equal or they are not.

    Example:
        >>> shingles = Shingler()
        >>> text = " ".join(f"word{i}" for i in range(400))
        >>> round(jaccard(shingles(text), shingles(text + " more")), 3), len(shingles("too short"))
        (0.997, 0)
    """

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def __call__(self, text: str) -> Hashes:
        found = units(text)
        if len(found) < SHORTEST:
            return np.empty(0, np.uint64)
        # Some 100 MB of words; beginning again costs only that the common ones are hashed once more.
        if len(self._known) > 1_000_000:
            self._known.clear()
        hashes = np.fromiter(map(self._hash, found), np.uint64, len(found))
        rolled = ngrams(hashes, SHINGLE)
        length, wanted = SHINGLE, (math.log2(len(found)) + CHANCE) / max(_entropy(hashes), 1e-9)
        while length < wanted and 4 * length <= len(found):
            rolled = mixed(rolled[:-length]) * FACTOR + rolled[length:]
            length *= 2
        return _bag(rolled)

    def _hash(self, unit: str) -> int:
        found = self._known.get(unit)
        if found is None:
            digest = hashlib.blake2b(unit.encode("utf-8", "surrogatepass"), digest_size=8).digest()
            found = self._known[unit] = int.from_bytes(digest, "little")
        return found


def _entropy(units: Hashes) -> float:
    """Bits of a unit by its frequency in the text."""
    _, counts = np.unique(units, return_counts=True)
    share = counts / len(units)
    return float(-(share * np.log2(share)).sum())


def _bag(shingles: Hashes) -> Hashes:
    """Hashes of the shingles, sorted; each repeat of one has a hash of its own."""
    ordered = np.sort(shingles)
    places = np.arange(len(ordered))
    starts = np.append(True, ordered[1:] != ordered[:-1])
    repeat = places - np.maximum.accumulate(np.where(starts, places, 0))
    return np.sort(mixed(mixed(ordered) + repeat.astype(np.uint64)))


def signatures(sets: Sequence[Hashes]) -> npt.NDArray[np.uint64]:
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


def _banded(indices: Iterable[int], texts: Sequence[str]) -> Iterator[tuple[int, Hashes, list[bytes]]]:
    """Each document with its shingles and the keys of its bands (none for short ones), in order."""
    shingler = Shingler()
    block: list[tuple[int, Hashes]] = []
    size = 0
    for index in indices:
        block.append((index, shingler(texts[index])))
        size += len(block[-1][1])
        if size >= _BLOCK:
            yield from _keyed(block)
            block, size = [], 0
    yield from _keyed(block)


def _keyed(block: Sequence[tuple[int, Hashes]]) -> Iterator[tuple[int, Hashes, list[bytes]]]:
    filled = [shingles for _, shingles in block if len(shingles)]
    rows = iter(signatures(filled) if filled else np.empty((0, BANDS * ROWS), np.uint64))
    for index, shingles in block:
        if len(shingles):
            bands: npt.NDArray[np.uint64] = next(rows).reshape(BANDS, ROWS)
            yield index, shingles, [band.to_bytes(1, "big") + bands[band].tobytes() for band in range(BANDS)]
        else:
            yield index, shingles, []

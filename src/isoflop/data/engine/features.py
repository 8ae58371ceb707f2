"""Hashed uni- and bigrams of words: counts by document, and vectors of them by the rows of a table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from ..hashing import FACTOR, ngrams
from .pages import Pages, within

Array = npt.NDArray[np.float64]
_BATCH = 1 << 20  # characters at a time


def hashed(texts: Sequence[str], buckets: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Buckets of every word and pair of neighbours, text by text, and where those of each text begin, (texts + 1,)."""
    pages = Pages(texts)
    words, pairs = pages.words, within(pages.words, 2)
    two = ngrams(pages.word_hashes, 2)[pairs] ^ FACTOR
    text = np.concatenate([words.text, words.text[:-1][pairs] if len(words.text) else words.text])
    found = (np.concatenate([pages.word_hashes, two]) % np.uint64(buckets)).astype(np.int64)
    order = np.argsort(text, kind="stable")
    return found[order], np.append(0, np.cumsum(np.bincount(text, minlength=len(texts))))


def bucket_counts(texts: Iterable[str], buckets: int) -> npt.NDArray[np.int64]:
    """int64 (buckets,): how often each occurs in all texts."""
    total = np.zeros(buckets, np.int64)
    for batch in batches(texts):
        total += np.bincount(hashed(batch, buckets)[0], minlength=buckets)
    return total


def batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Lists of texts of a million characters or so."""
    batch, size = list[str](), 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def sums(values: Array, bounds: npt.NDArray[np.int64]) -> Array:
    """Sums of values from each bound to the next; values may be (n,) or (n, d)."""
    whole = np.concatenate([np.zeros((1, *values.shape[1:])), np.cumsum(values, axis=0)])
    return np.asarray(whole[bounds[1:]] - whole[bounds[:-1]])


def vectors(texts: Sequence[str], table: Array, weights: Array) -> tuple[Array, int]:
    """(texts, d) of unit length: each text's buckets' rows of a table, weighted and summed; zero for one without words.

    Args:
        texts: any.
        table: (buckets, d) rows.
        weights: (buckets,) e.g. inverse document frequencies.

    Returns:
        The vectors, and how many rows were summed.
    """
    found, summed = np.zeros((len(texts), table.shape[1])), 0
    place = 0
    for batch in batches(texts):
        buckets, bounds = hashed(batch, len(table))
        for number in range(len(batch)):
            kinds, counts = np.unique(buckets[bounds[number] : bounds[number + 1]], return_counts=True)
            if len(kinds):
                row = (np.sqrt(counts) * weights[kinds]) @ table[kinds]
                found[place + number] = row / max(float(np.linalg.norm(row)), 1e-12)
                summed += len(kinds)
        place += len(batch)
    return found, summed


def counted(texts: Iterable[str], buckets: int, most: int) -> csr_array:
    """How often each bucket occurs in each text, (texts, buckets).

    Args:
        texts: any.
        buckets: features.
        most: entries after which no more texts are read.
    """
    columns, values, lengths = list[npt.NDArray[np.int32]](), list[Array](), list[npt.NDArray[np.int64]]()
    entries = 0
    for batch in batches(texts):
        found, bounds = hashed(batch, buckets)
        text = np.repeat(np.arange(len(batch)), np.diff(bounds))
        kinds, counts = np.unique(text * buckets + found, return_counts=True)
        columns.append((kinds % buckets).astype(np.int32))
        values.append(counts.astype(np.float64))
        lengths.append(np.bincount(kinds // buckets, minlength=len(batch)))
        entries += len(kinds)
        if entries >= most:
            break
    if not lengths:
        return csr_array((0, buckets))
    starts = np.append(0, np.cumsum(np.concatenate(lengths)))
    return csr_array((np.concatenate(values), np.concatenate(columns), starts), (len(starts) - 1, buckets))

"""Hashes of 64 bits: spread evenly, and of runs of pieces from those of the pieces."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
FACTOR = np.uint64(0x9E3779B97F4A7C15)
"""Of polynomials over hashes: the odd integer next to 2^64 / golden ratio."""


def mixed(x: Hashes) -> Hashes:
    """The finaliser of splitmix64 (Steele et al. 2014), so that min-wise hashing sees well-spread values."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def ngrams(hashes: Hashes, n: int) -> Hashes:
    """uint64 (len - n + 1,): hashes of runs of n pieces, across texts' borders too."""
    if len(hashes) < n:
        return np.empty(0, np.uint64)
    rolled = np.zeros(len(hashes) - n + 1, np.uint64)
    for offset in range(n):
        rolled *= FACTOR
        rolled += hashes[offset : offset + len(rolled)]
    return rolled

"""Matrices that are rounded already, as GGUF's blocks of 32 integers: their numbers stay as they are.

GGUF's own way to round looks for the largest number alone, and gives it another code than symmetric integers do; so
weights that a training or a transform has put on a grid would be rounded a second time.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

BLOCK = 32
"""Numbers of a row that share a scale."""
BITS = {"q8_0": 8, "q4_0": 4}
"""Types of such blocks: a scale d in fp16, then 32 integers q of so many bits, for d q."""
_NEAR = 1e-4  # of an integer, that a number over its block's scale may be off


def as_they_lie(values: npt.NDArray[np.float32], kind: str) -> npt.NDArray[np.uint8] | None:
    """The bytes of a matrix all of whose blocks hold integers times a scale; None where one does not.

    Args:
        values: (rows, columns), the columns a multiple of 32.
        kind: the type; None is returned of those that have no blocks of integers.

    Returns:
        uint8 (rows, bytes of a row).

    Example:
        >>> as_they_lie(np.float32([[7.0, -3.0] + 30 * [1.0]]), "q4_0").shape
        (1, 18)
    """
    if kind not in BITS:
        return None
    blocks = np.asarray(values, dtype=np.float64).reshape(-1, BLOCK)
    most = (1 << (BITS[kind] - 1)) - 1
    scales = _scales(blocks, most)
    if scales is None:
        return None
    codes = np.rint(np.divide(blocks, scales, out=np.zeros_like(blocks), where=scales > 0)).astype(np.int8)
    half = scales.astype(np.float16)
    if not np.array_equal(half > 0, scales > 0) or not np.isfinite(half).all():
        return None  # too small or too large for fp16: nothing is kept
    if kind == "q4_0":  # number j in the low half of byte j, number j + 16 in the high one, both above 0
        low, high = np.split((codes + 8).astype(np.uint8), 2, axis=1)
        body = low | (high << np.uint8(4))
    else:
        body = codes.view(np.uint8)
    return np.concatenate((half.view(np.uint8), body), axis=1).reshape(len(values), -1)


def _scales(blocks: npt.NDArray[np.float64], most: int) -> npt.NDArray[np.float64] | None:
    """(count, 1) scales of which all numbers are multiples up to ``most``; None if one block has none."""
    largest = np.abs(blocks).max(1, keepdims=True)
    found, left = np.zeros_like(largest), np.flatnonzero(largest[:, 0])
    for number in range(most, 0, -1):  # mostly the first, of which the largest number is that multiple
        if not len(left):
            break
        scale = largest[left] / number
        ratio = blocks[left] / scale
        fits = (np.abs(ratio - np.rint(ratio)) < _NEAR).all(1)
        found[left[fits]] = scale[fits]
        left = left[~fits]
        if number == most and len(left) and not _any_fits(blocks[left[0]], largest[left[0]], most):
            return None
    return None if len(left) else found


def _any_fits(block: npt.NDArray[np.float64], largest: npt.NDArray[np.float64], most: int) -> bool:
    """Whether a single block has a scale: most matrices that are not rounded are told by it."""
    ratio = block * (np.arange(1, most + 1)[:, None] / largest)
    return bool((np.abs(ratio - np.rint(ratio)) < _NEAR).all(1).any())

"""The k largest magnitudes of a tensor that passes in pieces: two histograms of the floats' bits, no sorting."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..store.tensors import PIECE, pieces

_HALF = 16
_BINS = 1 << _HALF


@dataclass(frozen=True)
class Cut:
    """Which elements are kept: those with a magnitude above ``value``, and some of those that equal it.

    Of the equal ones these count: up to place ``last`` in the flattened tensor, or from place ``first`` on.

    Example:
        >>> Cut(2.0, last=1).keeps(torch.tensor([2.0, 3.0, 2.0, 1.0]), start=0).tolist()
        [True, True, False, False]
    """

    value: float
    last: int = -1
    first: int = 1 << 62

    def keeps(self, magnitude: Tensor, start: int) -> Tensor:
        """Mask of a flat piece whose first element is element ``start``."""
        kept = magnitude > self.value
        if self.last >= start:
            equal = self.last - start + 1
            kept[:equal] |= magnitude[:equal] == self.value
        if self.first < start + len(magnitude):
            equal = max(0, self.first - start)
            kept[equal:] |= magnitude[equal:] == self.value
        return kept


ALL = Cut(-1.0)
NONE = Cut(float("inf"))


def largest(magnitudes: Iterable[tuple[int, Tensor]], numel: int, count: int, *, last_first: bool = False) -> Cut:
    """The cut that keeps the ``count`` largest; of equal magnitudes the first ones, or the last ones.

    Args:
        magnitudes: (start, piece) of non-negative numbers, compared in fp32; in order, together ``numel``.
        numel: of the whole tensor.
        count: how many are kept.
        last_first: of equal magnitudes those that come later in the tensor are preferred.

    Example:
        >>> cut = largest([(0, torch.tensor([2.0, 3.0, 2.0, 1.0]))], numel=4, count=2)
        >>> cut.keeps(torch.tensor([2.0, 3.0, 2.0, 1.0]), 0).tolist()
        [True, True, False, False]
    """
    if count >= numel:
        return ALL
    bits = torch.empty(numel, dtype=torch.int32)  # of non-negative floats: they order as the floats do
    high = torch.zeros(_BINS, dtype=torch.int64)
    for start, magnitude in magnitudes:
        piece = bits[start : start + len(magnitude)]
        piece.copy_(magnitude.float().contiguous().view(torch.int32))
        high += torch.bincount(piece >> _HALF, minlength=_BINS)
    if count <= 0:
        return NONE
    upper, above = _bin_of(high, count)
    low = torch.zeros(_BINS, dtype=torch.int64)
    for start, stop in pieces(numel):
        piece = bits[start:stop]
        low += torch.bincount(piece[piece >> _HALF == upper] & (_BINS - 1), minlength=_BINS)
    lower, above_within = _bin_of(low, count - above)
    wanted = (upper << _HALF) | lower
    value = float(torch.tensor([wanted], dtype=torch.int32).view(torch.float32))
    needed = count - above - above_within
    if last_first:
        return Cut(value, first=_place(bits, wanted, int(low[lower]) - needed + 1))
    return Cut(value, last=_place(bits, wanted, needed))


def threshold(passes: Iterable[Iterable[Tensor]], count: int) -> Cut:
    """The cut that keeps the ``count`` largest of many tensors together, and all that equal the smallest kept.

    Args:
        passes: the same pieces of non-negative magnitudes, twice: they are read two times, and never held.
        count: how many are kept; at least 1.
    """
    upper, above, found = None, 0, torch.zeros(_BINS, dtype=torch.int64)
    for magnitudes in passes:
        found = torch.zeros(_BINS, dtype=torch.int64)
        for magnitude in magnitudes:
            bits = magnitude.float().contiguous().view(torch.int32)
            if upper is None:
                found += torch.bincount(bits >> _HALF, minlength=_BINS)
            else:
                found += torch.bincount(bits[bits >> _HALF == upper] & (_BINS - 1), minlength=_BINS)
        if upper is None:
            upper, above = _bin_of(found, count)
    lower, _ = _bin_of(found, count - above)
    value = torch.tensor([((upper or 0) << _HALF) | lower], dtype=torch.int32).view(torch.float32)
    return Cut(float(value), last=1 << 62)


def _bin_of(histogram: Tensor, count: int) -> tuple[int, int]:
    """The bin that holds the ``count``-th largest, and how many lie in the bins above it."""
    from_above = histogram.flip(0).cumsum(0)
    place = int(torch.searchsorted(from_above, count))
    bin_ = len(histogram) - 1 - place
    return bin_, int(from_above[place] - histogram[bin_])


def _place(bits: Tensor, wanted: int, count: int) -> int:
    """The place of the ``count``-th element that equals ``wanted``."""
    for start, stop in pieces(len(bits), PIECE):
        equal = bits[start:stop] == wanted
        here = int(equal.sum())
        if here >= count:
            return start + int(equal.nonzero()[count - 1])
        count -= here
    raise AssertionError("fewer elements than were counted")

"""Elementwise work, which the ledger keeps apart from products."""

from __future__ import annotations

from ..core.cost import Cost, Work


def pointwise(numbers: int, operations: int, itemsize: int = 4) -> Work:
    """``operations`` on each of ``numbers`` values, read and written once; backward twice that. An estimate."""
    one = Cost(elementwise=numbers * operations, moved=2 * numbers * itemsize)
    return Work(forward=one, backward=2 * one)

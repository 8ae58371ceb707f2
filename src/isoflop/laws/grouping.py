"""Measured values that are meant to be equal: budgets, sizes and token counts that agree to a few digits only."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .formula import Array

ALIKE = 0.02
"""Relative distance within which values are taken for one; the steps of a sweep are tens of percent."""


def alike(values: Array, within: float = ALIKE) -> Array:
    """Number of the group of each value (rows,), smallest first: values up to ``within`` above a group's smallest."""
    order = np.argsort(values, kind="stable")
    labels = np.empty(len(values), dtype=int)
    group, smallest = -1, -np.inf
    for row in order:
        if values[row] > smallest * (1.0 + within) or group < 0:
            group, smallest = group + 1, values[row]
        labels[row] = group
    return labels


def cells(*columns: Array) -> Iterator[Array]:
    """The rows of each combination of groups in positive columns (rows,), in order of first appearance."""
    rows_of: dict[tuple[int, ...], list[int]] = {}
    for row, key in enumerate(zip(*(alike(column).tolist() for column in columns), strict=True)):
        rows_of.setdefault(key, []).append(row)
    yield from (np.asarray(rows) for rows in rows_of.values())

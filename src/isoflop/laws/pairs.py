"""One table from two sweeps: the same models on two data sets, for transfer from one loss to another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..core.errors import DataError, nearest
from ..core.table import Table
from .tables import as_table, read_positive


def pair(
    table: Mapping[str, Any],
    source: str,
    target: str,
    *,
    group: str = "data",
    loss: str = "loss",
    match: tuple[str, ...] = ("N", "D"),
    within: float = 1e-3,
) -> Table:
    """Rows of ``target`` with ``loss0``, the loss of ``source``'s run of the same size and tokens.

    ``LossToLoss`` is fitted to what this gives.

    Args:
        table: both sweeps; a dict, a frame or a Table.
        source: the value of the column ``group`` that names the runs known beforehand.
        target: the value that names those to be predicted.
        group: the column that says which set a run was trained on.
        loss: column of the loss on the set that a run was trained on.
        match: columns that must agree; of several partners the nearest is taken.
        within: how far they may be apart, relative; more where sizes or tokens are measured.

    Raises:
        DataError: an unknown group, a column that holds what is no positive number, or no two runs that match.

    Example:
        >>> runs = {"data": ["web", "code"], "N": [1e8, 1e8], "D": [2e9, 2e9], "loss": [3.2, 1.4]}
        >>> pair(runs, "web", "code").select({"loss0": "loss0", "loss": "loss"}).records()
        [{'loss0': 3.2, 'loss': 1.4}]
    """
    whole = as_table(table)
    member, losses = whole.texts(group), read_positive(whole, loss)
    sizes = np.log(np.column_stack([read_positive(whole, name) for name in match]))
    known = sorted(set(member.tolist()))
    for name in (source, target):
        if name not in known:
            raise DataError(f"no rows with {group} = {name!r}", where="pair", fix=nearest(name, known))
    ours, theirs = (np.flatnonzero(member == name) for name in (target, source))
    rows, partners = [], []
    for row in ours:
        apart = np.abs(sizes[theirs] - sizes[row]).max(1, initial=0.0)
        nearest_one = int(np.argmin(apart))
        if apart[nearest_one] < within:
            rows.append(row)
            partners.append(theirs[nearest_one])
    if not rows:
        raise DataError(f"no runs of {source} and {target} agree in {', '.join(match)}", where="pair")
    return whole.where(np.asarray(rows)).with_columns(loss=losses[rows], loss0=losses[partners])

"""One table from two sweeps: the same models on two data sets, for transfer from one loss to another."""

from __future__ import annotations

import numpy as np

from ..core.errors import DataError, nearest
from ..core.table import Table


def pair(
    table: Table,
    source: str,
    target: str,
    *,
    group: str = "data",
    loss: str = "loss",
    match: tuple[str, ...] = ("N", "D"),
) -> Table:
    """Rows of ``target`` with ``loss0``, the loss of ``source``'s run of the same size and tokens.

    Args:
        source, target: values of the column ``group``.
        loss: column of the loss on the set that a run was trained on.
        match: columns that must agree, to 0.1 %.

    Raises:
        DataError: an unknown group, or no two runs that match.
    """
    known = sorted({str(value) for value in table[group]})
    for name in (source, target):
        if name not in known:
            raise DataError(f"no rows with {group} = {name!r}", where="pair", fix=nearest(name, known))
    ours, theirs = (table.where(np.asarray([str(v) == name for v in table[group]])) for name in (target, source))
    keys = [np.log(np.column_stack([np.asarray(t[name], dtype=float) for name in match])) for t in (ours, theirs)]
    rows, partners = [], []
    for i, key in enumerate(keys[0]):
        close = np.flatnonzero((np.abs(keys[1] - key) < 1e-3).all(1))
        if len(close):
            rows.append(i)
            partners.append(close[0])
    if not rows:
        raise DataError(f"no runs of {source} and {target} agree in {', '.join(match)}", where="pair")
    joined = ours.where(np.asarray(rows))
    return joined.with_columns(loss=joined[loss], loss0=theirs[loss][np.asarray(partners)])

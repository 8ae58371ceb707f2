"""Which column of a table a law means: guessed where one alone bears a usual name, else proposed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from ..core.table import Table

_USUAL = {
    "N": ("params", "parameters", "nparams", "numparams", "modelparams", "modelsize"),
    "D": ("tokens", "traintokens", "trainingtokens", "ntokens", "numtokens", "tokensseen"),
    "C": ("flops", "compute", "trainflops", "trainingflops", "totalflops"),
    "loss": (
        "trainloss",
        "trainingloss",
        "valloss",
        "validloss",
        "validationloss",
        "evalloss",
        "testloss",
        "finalloss",
    ),
}
"""Usual names of a law's columns, without case, blanks and signs."""


def candidates(name: str, table: Iterable[str]) -> list[str]:
    """The columns of a table that usually stand for the law's column ``name``."""
    return [column for column in table if re.sub(r"[^a-z0-9]", "", column.lower()) in _USUAL.get(name, ())]


def guess(wanted: Iterable[str], table: Table, renames: Mapping[str, str]) -> dict[str, str]:
    """The law's column -> the table's, for columns that are missing and for which one column alone can stand.

    Args:
        wanted: the law's columns and its target.
        table: the table as it was given.
        renames: what the user has said already; a column that it takes stands for nothing else.
    """
    free = [column for column in table if column not in renames.values()]
    missing = [name for name in wanted if name not in table and name not in renames]
    return {name: found[0] for name in missing if len(found := candidates(name, free)) == 1}


def proposal(missing: Iterable[str], table: Iterable[str]) -> str:
    """``--columns`` for columns of which several could stand, as advice; "" where none could."""
    columns = list(table)
    several = {name: found for name in missing if (found := candidates(name, columns))}
    return "; ".join(f"--columns {name}={' or '.join(found)}" for name, found in several.items())

"""What callers pass beside tables: the level of an interval, values by parameter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..core.errors import UsageError, nearest
from .formula import Formula, law_name


def check_level(level: float) -> None:
    """UsageError for a level that is no share, such as 95."""
    if not 0 < level < 1:
        raise UsageError(f"an interval of level {level:g}", where="level", fix="give a share, e.g. 0.95")


def check_named(law: Formula, values: Mapping[str, Any], where: str) -> None:
    """UsageError for a parameter that the law does not have, or NaN in the place of a number."""
    for name, value in values.items():
        if name not in law.names:
            raise UsageError(f"{law_name(law)} has no parameter {name!r}", where=where, fix=nearest(name, law.names))
        if np.isnan(np.asarray(value, dtype=float)).any():
            raise UsageError(f"{name} is NaN", where=where, fix="give numbers")

"""The field's rule of thumb for training FLOPs: only for reading or filling foreign tables, never for measuring."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

Number = TypeVar("Number", int, float, npt.NDArray[np.float64])


def six_nd(parameters: Number, tokens: Number) -> Number:
    """C = 6ND: attention, and whatever ``parameters`` leaves out, is free (Kaplan et al. 2020, arXiv 2001.08361).

    So C / ``six_nd(N, 1)`` are the tokens, and C / ``six_nd(1, 1)`` is N D, that a compute C allows. Use it to compare
    with published tables; what a run of ours really costs is in its ledger.

    Args:
        parameters: N, a number or an array.
        tokens: D, a number or an array that broadcasts against N.

    Returns:
        FLOPs, of their type.

    Example:
        >>> six_nd(70e9, 1.4e12)
        5.88e+23
    """
    return 6 * parameters * tokens

"""What is left of texts at a time at which some tokens are hidden and some are not there yet.

Each token comes at a time T1, hidden, and is shown at a later time T2: a(T1) is uniform, and b(T2) is uniform above
b(T1), for two courses a and b (Kim et al. 2025, FlexMDM, arXiv 2509.01025, section 4). What is there at time t is moved
together to the left; how many tokens are missing in each gap is what a model must guess beside what hidden ones are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..core.courses import Course

Bools = npt.NDArray[np.bool_]
Ids = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]
LATEST = 1 - 1e-6
"""The latest time that is drawn: at 1 rates are infinite."""


@dataclass(frozen=True)
class Left:
    """What is left of a batch of texts, moved together to the left.

    Args:
        places: int64 (batch, length), where in the text each token stands that is left; anything behind them.
        lengths: int64 (batch,), tokens that are left.
        hidden: bool (batch, length), which of them are hidden.
        gaps: int64 (batch, length + 1), tokens missing before each of them, and behind the last.
        open: bool (batch, length + 1), gaps in which anything could be missing.
    """

    places: Ids
    lengths: Ids
    hidden: Bools
    gaps: Ids
    open: Bools


def times_of(inserted: Course, unmasked: Course, u: Reals, v: Reals) -> tuple[Reals, Reals]:
    """When tokens come and when they are shown, of uniform numbers u and v."""
    comes = inserted.inverse(u)
    earliest = unmasked.at(comes)
    return comes, unmasked.inverse(earliest + (1 - earliest) * v)


def left_at(t: Reals, comes: Reals, shows: Reals, may: Bools) -> Left:
    """What is left at a time.

    Args:
        t: (batch,).
        comes: (batch, length), when each token comes.
        shows: (batch, length), when it is shown.
        may: bool (batch, length), the tokens that may be missing or hidden. Of the others those before the last such
            one are given: always there and shown, with nothing missing between two that follow each other; those behind
            it are padding, which is never there.

    Example:
        >>> may = np.array([[False, True, True, False]])
        >>> left = left_at(np.array([0.5]), np.array([[0, 0.9, 0.1, 0]]), np.array([[0, 0.95, 0.8, 0]]), may)
        >>> left.places[0, :2].tolist(), left.hidden[0].tolist(), left.gaps[0].tolist(), left.open[0].tolist()
        ([0, 2], [False, True, False, False], [0, 1, 0, 0, 0], [False, True, True, False, False])
    """
    rows, length = may.shape
    real = np.flip(np.logical_or.accumulate(np.flip(may, 1), 1), 1)  # up to the last token that may be missing
    given = real & ~may
    there = given | (may & (comes <= t[:, None]))
    hidden = there & may & (t[:, None] < shows)
    lengths = there.sum(1)
    places = np.argsort(~there, axis=1, kind="stable")
    behind = np.arange(length) >= lengths[:, None]
    gaps, before = np.zeros((rows, length + 1), np.int64), np.cumsum(there, 1)
    absent = may & ~there
    np.add.at(gaps, (np.nonzero(absent)[0], before[absent]), 1)
    of_given = np.take_along_axis(given, places, 1) & ~behind
    closed = np.zeros((rows, length + 1), np.bool_)
    closed[:, 0] = of_given[:, 0] & (places[:, 0] == 0)
    closed[:, 1:-1] = of_given[:, 1:] & of_given[:, :-1] & (np.diff(places, axis=1) == 1)
    return Left(
        places=places,
        lengths=lengths,
        hidden=np.take_along_axis(hidden, places, 1) & ~behind,
        gaps=gaps,
        open=~closed & (np.arange(length + 1) <= lengths[:, None]) & real.any(1, keepdims=True),
    )


def poisson_loss(expected: float, missing: float) -> float:
    """The loss of one gap, in nats: expected - missing + missing log(missing / expected); 0 where both agree.

    Example:
        >>> poisson_loss(2.0, 2.0), poisson_loss(1.5, 0.0)
        (0.0, 1.5)
    """
    return expected - missing + (missing * float(np.log(missing / expected)) if missing else 0.0)

"""One arm's multiplier from a table of runs, wherever they were made; what comes from outside is checked.

``reach`` inverts one seed's baseline curve and never extrapolates: a seed beyond the ladder is censored, known only to
lie beyond its limit.

Log multipliers are paired over seeds. Two things make their mean wrong: the noise of runs, which differs from seed to
seed and is seen in the standard deviation s, and the curve between rungs, which is wrong by the same b in every seed
however many there are. b is estimated by leaving rungs out (``lab.ladder``). The two are independent, so the mean of n
seeds has the variance s^2 / n + b^2, and the interval is

    mean log m  +-  t(n - 1; level) sqrt(s^2 / n + b^2),

Student's t exactly where b is 0. Degrees of freedom stay those of the seeds: b is a scale and no mean of few draws.
Measured coverage is in docs/architecture.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ..core.complaints import SEEDS, few_seeds
from ..core.errors import DataError
from ..core.significance import LEVEL, half_width, p_value
from . import ladder

Side = Literal["", "above", "below"]


@dataclass(frozen=True)
class Estimate:
    """A multiplier with its two-sided interval and the p-value of m = 1.

    Attributes:
        value: the multiplier.
        low: lower end of its interval.
        high: upper end.
        p: two-sided p-value of m = 1.

    Example:
        >>> found = Estimate(value=1.3, low=1.1, high=1.5, p=0.01)
        >>> found.low > 1
        True
    """

    value: float
    low: float
    high: float
    p: float


def reach(x: npt.ArrayLike, y: npt.ArrayLike, target: float) -> tuple[float, Side]:
    """The least x at which one seed's baseline curve reaches quality ``target``, within the ladder.

    Args:
        x: (K,) amounts of the rungs, positive and distinct, in any order; K >= 3.
        y: (K,) quality there, lower is better; give -y where higher is. A run that diverged has none: leave its rung
            out.
        target: the quality to be reached, in the unit of ``y``.

    Returns:
        (x, ""), or (x of the top rung, "above") if the target lies beyond it: more than that would be needed;
        or (x of the lowest rung, "below") if even the lowest rung is better than the target.

    Raises:
        DataError: amounts or qualities that are no such numbers, or of which there are too few.

    Example:
        >>> reach([1e12, 2e12, 4e12], [2.5, 2.3, 2.15], target=2.3)
        (2000000000000.0, '')
        >>> reach([1e12, 2e12, 4e12], [2.5, 2.3, 2.15], target=2.0)
        (4000000000000.0, 'above')
    """
    xs, ys = _rungs(x, y)
    reached = _numbers(target, "the quality to be reached", 0)
    u, side = ladder.invert(np.log(xs), ys, reached)
    if side:
        return (float(xs[-1]), "above") if side > 0 else (float(xs[0]), "below")
    at = np.flatnonzero(np.log(xs) == u)  # a rung itself, to the last digit
    return float(xs[at[0]] if len(at) else np.clip(np.exp(u), xs[0], xs[-1])), ""


def interpolation_error(ladders: Iterable[tuple[npt.ArrayLike, npt.ArrayLike]]) -> float:
    """Standard error of a mean log multiplier that comes from interpolating between the baseline's rungs.

    Args:
        ladders: the seeds' (x, y) as for ``reach``. Seeds with fewer rungs than others are left out of it.

    Raises:
        DataError: as ``reach``; also if there is no seed.
    """
    checked = [_rungs(x, y) for x, y in ladders]
    if not checked:
        raise DataError("needs the ladder of at least one seed", where="interpolation_error")
    most = max(len(x) for x, _ in checked)
    whole = [(np.log(x), y) for x, y in checked if len(x) == most]
    return float(ladder.interpolation_error(np.stack([u for u, _ in whole]), np.stack([y for _, y in whole])))


def estimate(multipliers: Sequence[float], level: float = LEVEL, error: float = 0.0) -> Estimate:
    """Geometric mean of the seeds' multipliers with its interval and p-value.

    Multipliers are ratios: their logarithms are taken to be normal over seeds, and the interval is Student's.

    Args:
        multipliers: (n,) one a seed, finite and positive, none censored; n >= 3.
        level: confidence level of the interval, a share.
        error: standard error of the mean log multiplier that the seeds share: ``interpolation_error`` of their ladders.

    Raises:
        DataError: multipliers or an error that are no such numbers, too few seeds, seeds that are all alike, or a level
            outside (0, 1).

    Example:
        >>> found = estimate([1.28, 1.31, 1.35])
        >>> round(found.value, 2), found.low > 1, found.p < 0.05
        (1.31, True, True)
    """
    logs = np.log(_numbers(multipliers, "multiplier", 1, positive=True))
    shared = float(_numbers(error, "error", 0))
    if len(logs) < SEEDS:
        raise DataError(few_seeds(len(logs)), where="estimate")
    if shared < 0 or not 0 < level < 1:
        raise DataError(f"error {shared:g} must be 0 or more and level {level:g} between 0 and 1", where="estimate")
    if np.ptp(logs) <= 1e-14 * max(1.0, np.abs(logs).max()):
        raise DataError(
            f"all {len(logs)} seeds have the multiplier {math.exp(logs[0]):g}: nothing is known of their noise",
            where="estimate",
            fix="check that they are different runs, and give more digits",
        )
    return interval(logs, level, shared)


def interval(logs: ladder.Array, level: float, error: float) -> Estimate:
    """``estimate`` of log multipliers (n,) that need no check."""
    mean, half = logs.mean(), half_width(logs, level, error)
    with np.errstate(over="ignore"):
        value, low, high = np.exp([mean, mean - half, mean + half]).tolist()
    return Estimate(value, low, high, p_value(logs, error))


def _rungs(x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[ladder.Array, ladder.Array]:
    """One seed's rungs in ascending order; DataError if they make no ladder."""
    xs, ys = _numbers(x, "amount", 1, positive=True), _numbers(y, "quality", 1)
    if len(xs) != len(ys):
        raise DataError(f"{len(xs)} amounts and {len(ys)} qualities: one of each a rung", where="ladder")
    if len(xs) < 3:
        raise DataError(f"{len(xs)} rungs, at least 3 are needed", where="ladder")
    order = np.argsort(xs)
    xs, ys = xs[order], ys[order]
    if np.any(np.diff(np.log(xs)) <= 0):
        same = xs[:-1][np.diff(np.log(xs)) <= 0][0]
        raise DataError(f"two rungs have the amount {same:g}", where="ladder", fix="give one seed at a time")
    return xs, ys


def _numbers(values: npt.ArrayLike, what: str, dimensions: int, *, positive: bool = False) -> ladder.Array:
    """Float64 of so many dimensions; DataError that names the first that is missing, infinite or not positive."""
    try:
        given = np.asarray(values)
        if given.dtype.kind not in "iufO" or any(isinstance(entry, bool | str) for entry in given.ravel().tolist()):
            raise TypeError(f"but {given.dtype}")
        if np.ma.is_masked(values):
            raise TypeError("some are masked")
        found = given.astype(np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"not every {what} is a number ({error})", where="multiplier") from error
    if found.ndim != dimensions:
        raise DataError(f"{what} has shape {found.shape}, wanted {dimensions} dimensions", where="multiplier")
    wrong = ~np.isfinite(found) | ((found <= 0) if positive else False)
    if np.any(wrong):
        place = f"{what} {np.flatnonzero(wrong)[0]}" if dimensions else what
        raise DataError(
            f"{place} is {found[wrong][0]:g}, wanted a {'positive' if positive else 'finite'} number",
            where="multiplier",
            fix="a run that diverged never ranks: leave it out",
        )
    return found

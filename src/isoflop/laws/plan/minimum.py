"""The best size at a budget, for many sets of constants at once: a grid, a finer grid, a parabola."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..fit import Solved
from ..formula import Array
from .cost import TrainingCost
from .limits import size_column, spans

_WIDER = np.log(1e4)  # the search reaches so far beyond the sizes of the rows
_COARSE, _FINE = 241, 401  # points: steps of an eighth of an e-fold, then of a hundredth or so

Curve = Callable[[Array], Array]
"""Loss (k, n) in link space, for k sets of constants, at n logarithms of size."""


def isoflop(fit: Solved, theta: Array, compute: float, cost: TrainingCost) -> Curve:
    """The loss along an isoFLOP line: of size e^z, trained on what the budget leaves.

    Args:
        fit: the fit.
        theta: constants (k, p) in fitted space.
        compute: FLOPs.
        cost: how FLOPs are counted.
    """
    size = size_column(fit)

    def curve(z: Array) -> Array:
        n = np.exp(z)
        d = cost.tokens(n, compute)
        return losses(fit, theta, {size: n, "D": d, "U": d})

    return curve


def losses(fit: Solved, theta: Array, x: dict[str, Array]) -> Array:
    """Losses (k, n) in link space at columns (n,), of which the law takes what it has; no repeats where U is D."""
    wanted = {name: np.asarray(x[name], dtype=float) for name in fit.law.columns}
    rows = max(np.size(column) for column in wanted.values())
    columns = {name: np.broadcast_to(column, (rows,)) for name, column in wanted.items()}
    value = fit.law.value(theta, columns, fit.problem.link)
    return np.asarray(np.broadcast_to(value, (len(theta), rows)))


def best_sizes(
    fit: Solved, theta: Array, compute: float, cost: TrainingCost, *, rough: bool = False
) -> tuple[Array, Array]:
    """(logarithms of the best size (k,), losses there (k,) in link space) at a compute; infinite without a minimum.

    ``rough`` leaves out the finer grid: losses are still right to 1e-5, sizes to 1e-2.
    """
    known = spans(fit, cost)["N"]
    low, high = np.log(known[0]) - _WIDER, np.log(known[1]) + _WIDER
    return lowest(isoflop(fit, theta, compute, cost), low, high, rough=rough)


def lowest(curve: Curve, low: float, high: float, *, rough: bool = False) -> tuple[Array, Array]:
    """(place (k,), value (k,)) of the minimum of each curve between ``low`` and ``high``; infinite at an edge."""
    z = np.linspace(low, high, _COARSE)
    values = np.nan_to_num(curve(z), nan=np.inf)
    first = values.argmin(1)
    inside = (first > 0) & (first < len(z) - 1) & np.isfinite(values.min(1))
    place, value = np.full(len(values), np.inf), np.full(len(values), np.inf)
    if not inside.any():
        return place, value
    if rough:
        at, least = _lowest_of(z, values)
        place[inside], value[inside] = at[inside], least[inside]
        return place, value
    step = z[1] - z[0]
    fine = np.linspace(z[first[inside]].min() - step, z[first[inside]].max() + step, _FINE)
    at, least = _lowest_of(fine, np.nan_to_num(curve(fine), nan=np.inf))
    place[inside], value[inside] = at[inside], least[inside]
    return place, value


def _lowest_of(z: Array, values: Array) -> tuple[Array, Array]:
    """The vertex of the parabola through the lowest point and its neighbours, evenly spaced."""
    i = np.clip(values.argmin(1), 1, len(z) - 2)
    rows = np.arange(len(values))
    left, middle, right = values[rows, i - 1], values[rows, i], values[rows, i + 1]
    shift = vertex(left, middle, right)
    return z[i] + shift * (z[1] - z[0]), middle - 0.25 * (left - right) * shift


def vertex(left: Array, middle: Array, right: Array) -> Array:
    """Where the parabolas through three evenly spaced values are least, in steps from the middle one; 0 if flat.

    The middle value is the least of the three, so that the vertex lies within half a step.
    """
    with np.errstate(all="ignore"):
        bend = left - 2 * middle + right
        shift = np.where(bend > 0, 0.5 * (left - right) / bend, 0.0)
    return np.asarray(np.clip(np.nan_to_num(shift), -1.0, 1.0))

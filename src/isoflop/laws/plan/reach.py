"""What it costs to reach a loss: the cheapest run, or the one of a given size or number of tokens."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...core.errors import UsageError
from ..fit import Solved
from ..formula import Array, law_name
from .answer import Answer, digits, figure, region
from .cost import TrainingCost
from .draws import Basis, shifted
from .limits import FURTHEST, check_positive, looked_at, size_column, spans
from .minimum import best_sizes, losses

_BUDGETS = 21  # along which the cheapest path is drawn
_TURNS = 60  # halvings of an interval: to rounding
_ENOUGH = 1e40  # parameters and tokens that no one will have: what a law still loses there is its floor


def reach(basis: Basis, loss: float, size: float | None = None, tokens: float | None = None) -> Answer:
    """The compute at which a loss is expected, with its N and D.

    Args:
        basis: a fit of a law of size and tokens, with its draws.
        loss: the loss to be reached, in the law's unit.
        size: N, if it is given: then D is sought.
        tokens: D, if it is given: then N is sought.

    Raises:
        UsageError: a loss below the law's floor, above what its smallest runs lose, or reached only beyond 100 times
            the rows' compute; both size and tokens given.

    Example, with ``basis(law)`` the draws of a fit:
        >>> made = reach(basis("chinchilla"), 2.3)
        >>> f"{made['C'].value:.2g}", round(made["D"].value / made["N"].value)
        ('1.1e+21', 21)
    """
    check_positive(loss=loss, params=size, tokens=tokens)
    if size is not None and tokens is not None:
        raise UsageError("loss, params and tokens say everything", where="plan", fix="leave one of them out")
    fit, cost, theta = basis.fit, basis.cost, basis.theta
    target = float(fit.law.linked(np.asarray(loss), fit.problem.link))
    check_floor(fit, loss, target)
    low, high = (np.log(end) for end in spans(fit, cost)["C"])
    grid = np.linspace(low - np.log(FURTHEST), high + np.log(FURTHEST), _BUDGETS)
    curve = _cheapest(fit, cost) if size is None and tokens is None else _given(fit, cost, size, tokens)
    values = curve(theta, grid)
    central = _central(lambda c: float(curve(theta[:1], np.asarray([c]))[0, 0]), values[0], grid, target, loss)
    at = crossings(values, grid, shifted(basis, target, float(np.exp(central)), len(theta)))
    at = np.where(np.isfinite(at), at - crossings(values[:1], grid, np.asarray([target]))[0] + central, at)
    return _answer(basis, at, loss, size, tokens)


def _answer(basis: Basis, at: Array, loss: float, size: float | None, tokens: float | None) -> Answer:
    """The answer from draws (k,) of ln C."""
    fit, level, cost, theta = basis.fit, basis.level, basis.cost, basis.theta
    c = np.exp(np.minimum(at, 700.0))
    if size is not None:
        z, question = np.full(len(at), np.log(size)), f"tokens that N = {digits(size)} needs for loss {digits(loss)}"
    elif tokens is not None:
        z, question = np.log(cost.size(tokens, c)), f"size that reaches loss {digits(loss)} on D = {digits(tokens)}"
    else:
        z, question = _sizes(fit, theta, at, cost), f"cheapest run of loss {digits(loss)}"
    d = np.where(np.isfinite(at), np.log(cost.tokens(np.exp(z), c)), np.inf)
    z = np.where(np.isfinite(at), z, np.inf)
    n, t, flops = float(np.exp(z[0])), float(np.exp(d[0])), float(c[0])
    warnings, end = looked_at(fit, cost, {"C": flops, "N": n, "D": t, "D/N": t / n})
    unreached = float(np.mean(~np.isfinite(at[1:])))
    if unreached > 0:
        warnings += (
            f"{100 * unreached:.2g} % of what the constants may be never reach it within {FURTHEST:g} times the rows",
        )
    figures = (
        figure("C", at, level, "FLOPs"),
        figure("N", z, level, "parameters"),
        figure("D", d, level, "tokens"),
    )
    said = f"{law_name(fit.law)} holds there; {cost.said}; the interval is of the expected loss, a run adds its noise"
    joint = region(("C", "N", "D"), (at, z, d), level) if size is None and tokens is None else None
    return Answer(question, figures, said, end, level, joint, warnings)


def _sizes(fit: Solved, theta: Array, at: Array, cost: TrainingCost) -> Array:
    """ln N (k,) of the best size, each at its own compute: along a line through the sizes at three computes."""
    finite = at[np.isfinite(at)]
    around = np.asarray([finite.min(), np.median(finite), finite.max()]) + np.asarray([-0.1, 0.0, 0.1])
    known = np.column_stack([best_sizes(fit, theta, float(np.exp(c)), cost)[0] for c in around])
    out = np.asarray([np.interp(c, around, row) for c, row in zip(at, known, strict=True)])
    out[0] = best_sizes(fit, theta[:1], float(np.exp(at[0])), cost)[0][0]
    return out


def check_floor(fit: Solved, loss: float, target: float) -> None:
    """UsageError for a loss that no size and no number of tokens reach."""
    size = size_column(fit)
    everything = {size: np.asarray([_ENOUGH]), "D": np.asarray([_ENOUGH]), "U": np.asarray([_ENOUGH])}
    floor = float(losses(fit, fit.theta[None], everything)[0, 0])
    if np.isfinite(floor) and not target > floor:
        natural = float(fit.law.unlinked(np.asarray(floor), fit.problem.link))
        raise UsageError(
            f"loss {loss:g} lies below {digits(natural)}, the floor of {law_name(fit.law)}: no compute reaches it",
            where="loss",
            fix="ask for a higher loss",
        )


def _cheapest(fit: Solved, cost: TrainingCost) -> Callable[[Array, Array], Array]:
    """Least losses (k, m) at computes e^c, (m,)."""

    def curve(theta: Array, c: Array) -> Array:
        return path(fit, theta, c, cost)

    return curve


def path(fit: Solved, theta: Array, c: Array, cost: TrainingCost) -> Array:
    """Least losses (k, m) in link space at logarithms of compute (m,)."""
    return np.column_stack([best_sizes(fit, theta, float(np.exp(at)), cost, rough=True)[1] for at in c])


def _given(
    fit: Solved, cost: TrainingCost, size: float | None, tokens: float | None
) -> Callable[[Array, Array], Array]:
    """Losses (k, m) at computes e^c with the size, or the tokens, held."""
    column = size_column(fit)

    def curve(theta: Array, c: Array) -> Array:
        flops = np.exp(c)
        n = np.full(len(c), size) if size is not None else cost.size(np.asarray(tokens), flops)
        d = cost.tokens(n, flops)
        return losses(fit, theta, {column: n, "D": d, "U": d})

    return curve


def crossings(values: Array, grid: Array, target: Array) -> Array:
    """Where each falling curve (k, m) over ``grid`` (m,) reaches its ``target`` (k,); infinite if never."""
    below = values <= target[:, None]
    first = below.argmax(1)
    rows = np.arange(len(values))
    left = np.maximum(first - 1, 0)
    high, low = values[rows, left], values[rows, first]
    with np.errstate(all="ignore"):
        share = np.where(high > low, (high - target) / (high - low), 0.0)
    at = grid[left] + share * (grid[first] - grid[left])
    curved = _inverse(values, grid, target, left)
    at = np.where((curved >= grid[left]) & (curved <= grid[first]), curved, at)
    return np.where(below.any(1), at, np.inf)


def _inverse(values: Array, grid: Array, target: Array, left: Array) -> Array:
    """The cubic through four points around each crossing, place against value (k,); anything where they do not fall."""
    start = np.clip(left - 1, 0, len(grid) - 4)[:, None] + np.arange(4)
    x, y = grid[start], np.take_along_axis(values, start, axis=1)
    out = np.zeros(len(values))
    with np.errstate(all="ignore"):
        for i in range(4):
            others = [j for j in range(4) if j != i]
            weights = [(target - y[:, j]) / (y[:, i] - y[:, j]) for j in others]
            out = out + x[:, i] * np.prod(weights, axis=0)
    return np.asarray(out)


def _central(value: Callable[[float], float], curve: Array, grid: Array, target: float, loss: float) -> float:
    """The fitted law's crossing, by halving.

    Raises:
        UsageError: the loss is lost already by the cheapest run considered, or not reached by the dearest.
    """
    if curve[0] <= target:
        raise UsageError(
            f"loss {loss:g} is reached by runs a factor {FURTHEST:g} below the fitted rows",
            where="loss",
            fix="ask for a lower one",
        )
    at = float(crossings(curve[None], grid, np.asarray([target]))[0])
    if not np.isfinite(at):
        raise UsageError(
            f"loss {loss:g} is not reached within {FURTHEST:g} times the rows' compute",
            where="loss",
            fix="ask for a higher loss, or let size and tokens free",
        )
    low, high = at - (grid[1] - grid[0]), at + (grid[1] - grid[0])
    for _ in range(_TURNS):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if value(middle) <= target else (middle, high)
    return float(0.5 * (low + high))

"""Only U unique tokens: the best size and epochs for a compute, what a repeated token is worth, and when to stop."""

from __future__ import annotations

import numpy as np

from ...core.errors import DataError, UsageError
from ..fit import Solved
from ..formula import Array, law_name
from .answer import Answer, digits, figure
from .best import loss_at
from .cost import TrainingCost
from .draws import Basis, drift_rate, drifted, outside
from .limits import check_positive, looked_at, size_column, spans
from .minimum import best_sizes, losses, lowest

_SMALL = 0.1  # of the smallest size in the table: there tokens, not parameters beyond what they feed, decide
# Steps of 2 % to beyond any number of epochs that is still worth making.
_EPOCHS = np.geomspace(1.0, 1000.0, 400)
_FREE, _LITTLE = 0.5, 0.1  # worth of a repeated token, beside a fresh one, at which one thinks again, and stops


def repeats(basis: Basis, compute: float, unique: float) -> Answer:
    """(N, D) of least loss at C when only U tokens differ.

    Args:
        basis: a fit of a law that knows unique tokens (a column U), as data_constrained, with its draws.
        compute: C, FLOPs.
        unique: U, tokens.

    Raises:
        UsageError: a law that knows no unique tokens; numbers that are not positive, or too far outside the rows.
        DataError: the law has no best size there.

    Example, with ``basis(law)`` the draws of a fit:
        >>> for figure in repeats(basis("data_constrained"), 1e21, 1e9).figures[:3]:
        ...     print(figure.name, f"{figure.value:.2g}")
        N 1.9e+09
        D 8.8e+10
        epochs 88
    """
    fit, level, cost, theta = basis.fit, basis.level, basis.cost, basis.theta
    check_positive(compute=compute, unique=unique)
    _check_law(fit)
    looked_at(fit, cost, {"C": compute})
    z = _sizes(fit, theta, compute, unique, cost)
    if not np.isfinite(z[0]):
        raise DataError(
            f"{law_name(fit.law)} has no best size at C = {digits(compute)} with {digits(unique)} unique tokens",
            where="plan",
            fix="lower the compute, or find more tokens",
        )
    low, high = spans(fit, cost)["C"]
    efolds = outside(low, high, compute)
    if efolds > 0:
        z = drifted(fit, z, drift_rate(fit, lambda t: _sizes(fit, t, high, unique, cost), level), efolds)
    d = cost.log_tokens(z, compute)
    n, tokens = float(np.exp(z[0])), float(np.exp(d[0]))
    warnings, end = looked_at(fit, cost, {"C": compute, "N": n, "D": tokens, "U": unique})
    free, _ = best_sizes(fit, theta[:1], compute, cost)
    figures = (
        figure("N", z, level, "parameters"),
        figure("D", d, level, "tokens, repeats counted"),
        figure("epochs", np.maximum(d - np.log(unique), 0.0), level),
        loss_at(basis, n, tokens, U=min(unique, tokens)),
        loss_at(basis, float(np.exp(free[0])), float(cost.tokens(np.exp(free[0]), compute)), "loss without the limit"),
    )
    question = f"best N and D for C = {digits(compute)} FLOPs with U = {digits(unique)} unique tokens"
    return Answer(question, figures, _said(fit, cost), end, level, None, (*warnings, *basis.vague))


def epochs(basis: Basis, unique: float) -> Answer:
    """How many epochs of U unique tokens are worth making.

    The worth of a token is that of the fresh tokens which would lower the loss as much, at a size so small that only
    tokens decide.

    Args:
        basis: a fit of a law that knows unique tokens, with its draws.
        unique: U.

    Raises:
        UsageError: a law that knows no unique tokens; no positive number.

    Example, with ``basis(law)`` the draws of a fit:
        >>> for figure in epochs(basis("data_constrained"), 1e9).figures[:3]:
        ...     print(figure.name, f"{figure.value:.2g}")
        4 epochs, as fresh tokens 0.93
        16 epochs, as fresh tokens 0.64
        40 epochs, as fresh tokens 0.36
    """
    fit, level, cost, theta = basis.fit, basis.level, basis.cost, basis.theta
    check_positive(unique=unique)
    _check_law(fit)
    fresh = _effective(fit, theta, unique, cost)
    worth = np.gradient(fresh, _EPOCHS, axis=1)
    _, end = looked_at(fit, cost, {"U": unique})
    at = {e: np.asarray([np.interp(e, _EPOCHS, row) for row in fresh]) for e in (4.0, 16.0, 40.0)}
    rate = {e: np.asarray([np.interp(e, _EPOCHS, row) for row in worth]) for e in (4.0, 16.0, 40.0)}
    figures = [
        *(figure(f"{e:g} epochs, as fresh tokens", at[e] / e, level, "of as many fresh ones", log=False) for e in at),
        *(figure(f"worth of a token in epoch {e:g}", rate[e], level, "of a fresh one", log=False) for e in rate),
        figure("epochs until half is left", _falls_to(worth, _FREE), level),
        figure("epochs to stop at: a tenth left", _falls_to(worth, _LITTLE), level),
        figure("all epochs together, at most", fresh.max(1), level, "times U", log=False),
    ]
    question = f"how often to repeat U = {digits(unique)} unique tokens"
    _, high = spans(fit, cost)["U"]
    most = float((fit.problem.x["D"] / fit.problem.x["U"]).max())
    end = f"{most:.3g} epochs (the most in the rows); U up to {digits(high)} tokens"
    return Answer(question, tuple(figures), _said(fit, cost), end, level, None, basis.vague)


def _check_law(fit: Solved) -> None:
    if "U" not in fit.law.columns:
        raise UsageError(
            f"{law_name(fit.law)} does not know what repeated tokens are worth",
            where="unique",
            fix="fit data_constrained to a table with N, D, U (unique tokens) and loss",
        )


def _said(fit: Solved, cost: TrainingCost) -> str:
    held = ", ".join(name for j, name in enumerate(fit.law.names) if j not in fit.problem.free)
    known = f"; {held} are held, their error is not in the intervals" if held else ""
    return f"{law_name(fit.law)} holds; {cost.said}; unique tokens are alike in quality{known}"


def _sizes(fit: Solved, theta: Array, compute: float, unique: float, cost: TrainingCost) -> Array:
    """ln N (k,) of least loss at a compute with U unique tokens; infinite without a minimum."""
    size = size_column(fit)

    def curve(z: Array) -> Array:
        d = cost.tokens(np.exp(z), compute)
        return losses(fit, theta, {size: np.exp(z), "D": d, "U": np.minimum(d, unique)})

    low, high = spans(fit, cost)["N"]
    return lowest(curve, np.log(low * 1e-4), np.log(high * 1e4))[0]


def _effective(fit: Solved, theta: Array, unique: float, cost: TrainingCost) -> Array:
    """Fresh tokens, over U, (k, m) that give the loss of ``_EPOCHS`` (m,) over U."""
    size = size_column(fit)
    small = _SMALL * spans(fit, cost)["N"][0]
    most = np.geomspace(1.0, 1.01 * _EPOCHS[-1], 4 * len(_EPOCHS))
    same = np.full(len(_EPOCHS), small)
    repeated = losses(fit, theta, {size: same, "D": _EPOCHS * unique, "U": np.full(len(_EPOCHS), unique)})
    fresh = losses(fit, theta, {size: np.full(len(most), small), "D": most * unique, "U": most * unique})
    return np.asarray([np.interp(-y, -row, most) for y, row in zip(repeated, fresh, strict=True)])


def _falls_to(worth: Array, share: float) -> Array:
    """ln epochs (k,) at which each falling curve (k, m) reaches ``share``; infinite where it does not."""
    below = worth <= share
    at = np.log(_EPOCHS[below.argmax(1)])
    return np.where(below.any(1), at, np.inf)

"""The price of being off: what a run with twice or half the best size, tokens or budget wastes."""

from __future__ import annotations

import numpy as np

from ..formula import Array, law_name
from .answer import Answer, digits, figure
from .best import best_draws
from .draws import Basis
from .limits import looked_at, size_column
from .minimum import losses
from .reach import path

_STEPS = 25  # budgets between which the equivalent compute is interpolated
# A choice that wastes more than 15 sixteenths of the compute is off the end of the table.
_SPAN = np.log(16.0)


def off(basis: Basis, compute: float, factor: float = 2.0) -> Answer:
    """Share of the compute that is wasted: a best run of (1 - share) C would have the same loss.

    Args:
        basis: a fit of a law of size and tokens, with its draws.
        compute: C, FLOPs, of the planned run.
        factor: by how much a choice is off.

    Raises:
        UsageError: a compute that is not positive, or more than 100 times outside the rows.
        DataError: the law has no best size at that compute.

    Example, with ``basis(law)`` the draws of a fit:
        >>> for figure in off(basis("chinchilla"), 1e21).figures[:2]:
        ...     print(figure.name, round(figure.value, 3))
        as planned, constants off 0.0
        N x 2 at equal C 0.155
    """
    fit, level, cost = basis.fit, basis.level, basis.cost
    n = float(np.exp(best_draws(basis, compute)[0]))
    d = float(cost.tokens(n, compute))
    warnings, end = looked_at(fit, cost, {"C": compute}, widened=False)
    by = f"{factor:g}"
    runs = (
        ("as planned, constants off", n, d),
        (f"N x {by} at equal C", n * factor, float(cost.tokens(n * factor, compute))),
        (f"N / {by} at equal C", n / factor, float(cost.tokens(n / factor, compute))),
        (f"D x {by} at equal N", n, d * factor),
        (f"D / {by} at equal N", n, d / factor),
    )
    figures = []
    for name, size, tokens in runs:
        spent = float(cost.flops(size, tokens))
        share = wasted(basis, size, tokens)
        figures.append(figure(name, share, level, "of its C", f"C {digits(spent)}", log=False))
    said = f"{law_name(fit.law)} holds around the best size; waste is against the best run of the same loss"
    question = f"compute wasted around C = {digits(compute)} FLOPs, N = {digits(n)}, D = {digits(d)}"
    return Answer(question, tuple(figures), said, end, level, None, warnings)


def wasted(basis: Basis, size: float, tokens: float) -> Array:
    """Share (k,) of a run's compute that a best run of the same loss would not need, for each set of constants."""
    fit, theta, cost = basis.fit, basis.theta, basis.cost
    spent = float(np.log(cost.flops(size, tokens)))
    grid = np.linspace(spent - _SPAN, spent, _STEPS)
    best = path(fit, theta, grid, cost)
    columns = {size_column(fit): np.asarray([size]), "D": np.asarray([tokens]), "U": np.asarray([tokens])}
    ours = losses(fit, theta, columns)[:, 0]
    at = np.asarray([np.interp(-y, -row, grid) for y, row in zip(ours, best, strict=True)])
    return np.asarray(np.maximum(-np.expm1(at - spent), 0.0))

"""The best size and tokens for a compute, jointly, and the loss of that run."""

from __future__ import annotations

import numpy as np

from ...core.errors import DataError
from ..extrapolate import discrepancy_rate, efolds_beyond, noise_of, predict_interval, quantile
from ..formula import Array, law_name
from .answer import Answer, Figure, digits, figure, region
from .draws import Basis, drift_rate, drifted, outside
from .limits import check_positive, looked_at, size_column, spans
from .minimum import best_sizes, losses


def best(basis: Basis, compute: float) -> Answer:
    """(N, D) of least loss at C.

    Args:
        basis: a fit of a law of size and tokens, with its draws.
        compute: C, FLOPs.

    Raises:
        UsageError: a compute that is not positive, or more than 100 times outside the rows.
        DataError: the law has no interior minimum there.

    Example, with ``basis(law)`` the draws of a fit:
        >>> made = best(basis("chinchilla"), 1e21)
        >>> made["N"].low < made["N"].value < made["N"].high, round(6 * made["N"].value * made["D"].value / 1e21, 6)
        (True, 1.0)
    """
    check_positive(compute=compute)
    fit, level, cost = basis.fit, basis.level, basis.cost
    looked_at(fit, cost, {"C": compute})
    z = best_draws(basis, compute)
    d = cost.log_tokens(z, compute)
    size, tokens = float(np.exp(z[0])), float(np.exp(d[0]))
    warnings, end = looked_at(fit, cost, {"C": compute, "N": size, "D": tokens, "D/N": tokens / size})
    figures = (
        figure("N", z, level, "parameters"),
        figure("D", d, level, "tokens"),
        figure("D/N", d - z, level, "tokens a parameter"),
        loss_at(basis, size, tokens),
    )
    return Answer(
        f"best N and D for C = {digits(compute)} FLOPs",
        figures,
        f"{law_name(fit.law)} holds along the isoFLOP line; {cost.said}; runs are tuned as the table's are",
        end,
        level,
        region(("N", "D"), (z, d), level),
        (*warnings, *basis.vague),
    )


def best_draws(basis: Basis, compute: float) -> Array:
    """Draws (1 + k,) of ln N of the best size at C, the fitted one first, with the law's drift beyond its rows.

    Raises:
        DataError: the fitted law has no minimum between the smallest and the largest sizes that are searched.
    """
    fit, cost = basis.fit, basis.cost
    z, _ = best_sizes(fit, basis.theta, compute, cost)
    if not np.isfinite(z[0]):
        raise DataError(
            f"{law_name(fit.law)} has no best size at C = {digits(compute)}: its loss falls to the edge of all sizes",
            where="plan",
            fix="fit rows that vary size at equal compute, or fit another law",
        )
    low, high = spans(fit, cost)["C"]
    efolds = outside(low, high, compute)
    if efolds == 0:
        return z
    rate = drift_rate(basis.judged_by or fit, lambda t: best_sizes(fit, t, high, cost)[0], basis.level)
    return drifted(fit, z, rate, efolds)


def loss_at(basis: Basis, size: float, tokens: float, name: str = "loss", **more: float) -> Figure:
    """The loss of a run of that size and tokens: a prediction interval, of noise, constants and the law's own error."""
    fit, level = basis.fit, basis.level
    columns = {size_column(fit): size, "D": tokens, "U": tokens, **more}
    x = {k: np.asarray([v], dtype=float) for k, v in columns.items() if k in fit.law.columns}
    if basis.judged_by is None:
        made = predict_interval(fit, x, level)
        return Figure(name, float(made.value[0]), float(made.low[0]), float(made.high[0]))
    rows = basis.judged_by
    law_error = discrepancy_rate(rows, level) * float(efolds_beyond(rows, x)[0])
    rest = quantile(rows, level) * float(np.hypot(noise_of(rows, level), law_error))
    values = losses(fit, basis.theta, x)[:, 0]
    low, high = np.quantile(values[1:], [0.5 - level / 2, 0.5 + level / 2]) - values[0]
    ends = values[0] + np.asarray([0.0, -np.hypot(low, rest), np.hypot(high, rest)])
    return Figure(name, *np.asarray(fit.law.unlinked(ends, fit.problem.link)).tolist())

"""How far a law reaches: what its rows span, what is said outside, and where an answer is refused."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...core.errors import DataError, UsageError
from ..fit import Solved
from ..formula import Array, law_name
from .answer import digits
from .cost import TrainingCost

FURTHEST = 100.0
"""Times the dearest row's compute (or a hundredth of the cheapest one's) beyond which no law is trusted."""
_EDGE = 1.0 + 1e-9  # rounding

_UNITS = {"C": "FLOPs", "N": "parameters", "D": "tokens", "D/N": "tokens a parameter", "U": "unique tokens"}


def size_column(fit: Solved) -> str:
    """The law's column of parameters; UsageError for a law that plans no size."""
    for name in ("N", "N_avg"):
        if name in fit.law.columns and "D" in fit.law.columns:
            return name
    raise UsageError(
        f"{law_name(fit.law)} is no law of parameters and tokens",
        where="plan",
        fix="fit one, e.g. chinchilla or kaplan, to a table with N, D and loss",
    )


def check_usable(fit: Solved) -> None:
    """DataError for a fit that plans nothing: one that did not converge, or that has no residual left."""
    if not fit.converged:
        raise DataError(f"the fit of {law_name(fit.law)} did not converge", where="plan", fix="add runs")
    if fit.degrees_of_freedom < 1 and not fit.law.likelihood:
        raise DataError(
            f"{fit.rows} rows for {len(fit.problem.free)} constants: no residual is left to tell intervals by",
            where="plan",
            fix="add runs, or hold constants",
        )


def check_positive(**numbers: float | None) -> None:
    """UsageError for the first number that is not positive and finite; None is not given."""
    for name, value in numbers.items():
        if value is not None and not (np.isfinite(value) and value > 0):
            raise UsageError(f"{name} {value:g}", where="plan", fix="give a positive number")


def spans(fit: Solved, cost: TrainingCost) -> dict[str, tuple[float, float]]:
    """Least and most of C, N, D and D/N over the fitted rows, as far as the law knows them."""
    x = fit.problem.x
    found: dict[str, Array] = {}
    size = next((x[name] for name in ("N", "N_avg") if name in x), None)
    if size is not None:
        found["N"] = size
    if "D" in x:
        found["D"] = x["D"]
    if size is not None and "D" in x:
        found["C"], found["D/N"] = cost.flops(size, x["D"]), x["D"] / size
    elif "C" in x:
        found["C"] = x["C"]
    if "U" in x:
        found["U"] = x["U"]
    return {name: (float(values.min()), float(values.max())) for name, values in found.items()}


def looked_at(
    fit: Solved, cost: TrainingCost, at: Mapping[str, float], *, widened: bool = True
) -> tuple[tuple[str, ...], str]:
    """(warnings, "do not use beyond") of a place, by C, N, D, D/N.

    Args:
        fit: the fit.
        cost: how FLOPs are counted.
        at: the place.
        widened: whether the answer's intervals allow for the law's own error at a compute beyond the rows.

    Raises:
        UsageError: a compute, size or number of tokens more than ``FURTHEST`` times outside the fitted rows.
    """
    known = spans(fit, cost)
    warnings = []
    for name, value in at.items():
        if name not in known:
            continue
        low, high = known[name]
        factor = max(value / high, low / value)
        if factor > FURTHEST * _EDGE and name in ("C", "N", "D"):
            raise UsageError(
                f"{name} = {digits(value)} {_UNITS[name]} lies a factor {factor:.3g} outside the fitted rows "
                f"({digits(low)} to {digits(high)})",
                where="plan",
                fix=f"no law is trusted beyond {FURTHEST:g} times: run something nearer first",
            )
        if factor > _EDGE:
            side = "above" if value > high else "below"
            so = "intervals allow for the law's own error" if widened and name == "C" else "no row speaks for the law"
            warnings.append(
                f"{name} = {digits(value)} lies {factor:.3g} times {side} the fitted rows "
                f"({digits(low)} to {digits(high)}): {so} there"
            )
    return tuple(warnings), beyond(known)


def beyond(known: Mapping[str, tuple[float, float]]) -> str:
    """The end of an answer's use, in words, from what the rows span."""
    pieces = [
        f"{name} {digits(known[name][0] / FURTHEST)} to {digits(known[name][1] * FURTHEST)} {_UNITS[name]}"
        for name in ("C",)
        if name in known
    ]
    if "D/N" in known:
        low, high = known["D/N"]
        pieces.append(f"{digits(low)} to {digits(high)} tokens a parameter (what the rows hold)")
    return "; ".join(pieces) or "the fitted rows"

"""What a page draws of a fit, as it is stored: its points, isoFLOP curves, and what lies ahead."""

from __future__ import annotations

import numpy as np

from ..core.files import jsonable
from ..ledger.conventions import six_nd
from ..store.fits import Row, StoredCurve
from .extrapolate import predict_interval
from .fit import Solved
from .formula import Array

_MOST_CURVES = 12  # more cannot be told apart on a page
_AHEAD = (3.0, 10.0, 30.0, 100.0)  # times the compute of the dearest row


def axis(fit: Solved) -> str:
    """What the law's compute is in the table: a column's name, "6 N D", or "" if it is neither."""
    x = fit.problem.x
    known = {"C": x.get("C"), **x}
    if "N" in x and "D" in x:
        known["6 N D"] = six_nd(x["N"], x["D"])
    compute = fit.law.compute(x)
    return next((name for name, column in known.items() if column is not None and np.array_equal(column, compute)), "")


def points(fit: Solved, level: float) -> list[Row]:
    """Per row: the law's columns, compute, observation, prediction with interval, residual in link space."""
    predicted = predict_interval(fit, fit.table, level)
    compute = fit.law.compute(fit.problem.x)
    residuals = np.zeros(fit.rows) if fit.law.likelihood else fit.residuals
    columns = {
        **{name: fit.problem.x[name] for name in fit.law.columns},
        "compute": compute,
        "observed": fit.problem.y,
        "predicted": predicted.value,
        "low": predicted.low,
        "high": predicted.high,
        "residual": residuals,
    }
    return _rows(columns)


def isoflops(fit: Solved) -> list[StoredCurve]:
    """Of laws of N and D alone: loss against size at the budgets of the table (up to 12, evenly), with the optimum.

    A table without budgets (compute differs from row to row) gets five over its range.
    """
    if set(fit.law.columns) != {"N", "D"} or fit.law.target != "loss":
        return []
    n = fit.problem.x["N"]
    compute = six_nd(n, fit.problem.x["D"])
    rounded, counts = np.unique(np.round(np.log(compute), 1), return_counts=True)
    budgets = rounded[counts >= 3]
    if len(budgets) < 2:
        budgets = np.linspace(rounded.min(), rounded.max(), 5)
    chosen = budgets[np.unique(np.linspace(0, len(budgets) - 1, min(_MOST_CURVES, len(budgets))).astype(int))]
    # A factor of two beyond the sizes of the table, in steps too fine to be seen.
    sizes = np.exp(np.linspace(np.log(n.min()) - 0.7, np.log(n.max()) + 0.7, 60))
    out = []
    for log_budget in chosen:
        budget = float(np.exp(log_budget))
        loss = fit.predict({"N": sizes, "D": budget / six_nd(1, 1) / sizes})
        best = int(np.argmin(loss))
        inside = 0 < best < len(sizes) - 1
        best_size = float(sizes[best]) if inside else None
        out.append(StoredCurve(compute=budget, N=sizes.tolist(), loss=jsonable(loss), best_N=best_size))
    return out


def ahead(fit: Solved, level: float) -> list[Row]:
    """Predictions with intervals beyond the table: its dearest row, with N and D (or C) scaled up together."""
    x = fit.problem.x
    axes = ("N", "N_avg", "D", "U") if "D" in fit.law.columns else ("C",)
    scaled = [name for name in axes if name in fit.law.columns]
    if not scaled or fit.law.target not in ("loss", "returns"):
        return []
    top = int(np.argmax(fit.law.compute(x)))
    times = np.asarray(_AHEAD)
    power = 0.5 if "D" in scaled else 1.0
    columns = {
        name: np.full(len(times), x[name][top]) * (times**power if name in scaled else 1.0) for name in fit.law.columns
    }
    predicted = predict_interval(fit, columns, level)
    rows = {**columns, "times": times, "predicted": predicted.value, "low": predicted.low, "high": predicted.high}
    return _rows(rows)


def _rows(columns: dict[str, Array]) -> list[Row]:
    lists = {name: np.asarray(values, dtype=float).tolist() for name, values in columns.items()}
    return [{name: jsonable(lists[name][i]) for name in lists} for i in range(len(next(iter(lists.values()))))]

"""What may be wrong with rows that are about to be fitted: errors where a fit would be meaningless, else warnings."""

from __future__ import annotations

import numpy as np

from ..core.errors import DataError, UsageError
from ..core.table import Table
from ..ledger.conventions import six_nd
from .formula import Array, Columns, Formula, law_name

# Medians outside these are of no model anybody trains; a thousandth or a millionth of a usual one lies outside.
_PLAUSIBLE = {"N": (1e4, 1e14), "D": (1e4, 1e17), "C": (1e9, 1e30), "N_avg": (1e4, 1e14), "U": (1e4, 1e17)}
_ANALYTIC = "write predict with numpy's analytic functions (exp, log, *, where on np.real), or override gradient"


def check_values(law: Formula, table: Table, link: str) -> list[str]:
    """Warnings about the rows of a table that is about to be fitted, after ``read_columns``.

    Raises:
        DataError: too few rows, targets <= 0 under a logarithm, columns that do not vary.
    """
    y, rows = table.numbers(law.target), table.rows
    free = len(law.parameters)
    if rows < max(3, min(free, 4)):
        raise DataError(
            f"{rows} rows cannot fix the {free} parameters of {law_name(law)}", where="table", fix="add runs"
        )
    if link == "log" and (y <= 0).any():
        row = int(np.flatnonzero(y <= 0)[0])
        raise DataError(
            f"column {law.target} is {y[row]:g} in row {row + 1}; its logarithm is fitted",
            where="table",
            fix='give positive values, or fit with link="identity"',
        )
    constant = [name for name in law.varying() if np.ptp(table.numbers(name)) == 0]
    if constant:
        raise DataError(
            f"{', '.join(constant)} never varies: {law_name(law)} cannot be fitted",
            where="table",
            fix="add runs that vary it, or choose a law without that column",
        )
    if np.ptp(y) == 0:
        raise DataError(f"column {law.target} never varies", where="table", fix="check which column holds the result")
    warnings = []
    if rows <= free:
        warnings.append(f"{rows} rows for {free} parameters: no residual is left to judge the fit by")
    return warnings + _duplicates(law, table) + _units(law, table) + _conventions(table) + _correlated(table)


def _duplicates(law: Formula, table: Table) -> list[str]:
    rows = np.column_stack([table.numbers(name) for name in (*law.columns, law.target)])
    twice = len(rows) - len(np.unique(rows, axis=0))
    return (
        [f"{twice} duplicated rows: each counts as evidence of its own; drop them if they are copies"] if twice else []
    )


def _units(law: Formula, table: Table) -> list[str]:
    found = []
    for name in law.columns:
        if name in _PLAUSIBLE:
            low, high = _PLAUSIBLE[name]
            middle = float(np.median(table.numbers(name)))
            if not low <= middle <= high:
                guess = "thousands, millions or billions" if middle < low else "a smaller unit than one"
                found.append(
                    f"column {name} has median {middle:.3g}: suspected to be counted in {guess}; wanted are units"
                )
    if "C" in table and "N" in table and "D" in table:
        ratio = _compute_ratio(table)
        middle = float(np.median(ratio)) if len(ratio) else 1.0
        # Ways of counting N or C move C / 6 N D by a factor of a few, never by a hundred.
        if not 1e-2 < middle < 1e2:
            found.append(
                f"C is {middle:.3g} times 6 N D: the units of C, N and D do not agree (off by a power of ten?)"
            )
    if law.target == "loss":
        middle = float(np.median(table.numbers("loss")))
        if middle > 100:
            found.append(f"losses have median {middle:.3g}: suspected perplexities; laws are for nats or bits a token")
    return found


def _compute_ratio(table: Table) -> Array:
    c, n, d = (table.numbers(name) for name in "CND")
    with np.errstate(all="ignore"):
        ratio = c / six_nd(n, d)
    return np.asarray(ratio[np.isfinite(ratio) & (ratio > 0)])


def _conventions(table: Table) -> list[str]:
    """Two clusters of C / 6ND with nothing between them: two ways of counting N (or C) in one table."""
    if not {"C", "N", "D"} <= set(table):
        return []
    ratio = np.sort(np.log(_compute_ratio(table)))
    if len(ratio) < 6:
        return []
    gaps = np.diff(ratio)
    cut = int(np.argmax(gaps)) + 1
    within = max(float(np.std(ratio[:cut])), float(np.std(ratio[cut:])))
    # A gap that rounding (5 %) or the spread within the two groups could explain is none.
    if gaps[cut - 1] > max(0.05, 4.0 * within) and 2 <= cut <= len(ratio) - 2:
        low, high = np.exp(np.median(ratio[:cut])), np.exp(np.median(ratio[cut:]))
        return [
            f"mixed conventions suspected: C / 6ND is {low:.3g} in {cut} rows and {high:.3g} in {len(ratio) - cut}; "
            "count N (with or without embeddings) and C alike in all rows"
        ]
    return []


def _correlated(table: Table) -> list[str]:
    if "N" not in table or "D" not in table or table.rows < 4:
        return []
    n, d = np.log(table.numbers("N")), np.log(table.numbers("D"))
    if np.ptp(n) == 0 or np.ptp(d) == 0 or not (np.isfinite(n).all() and np.isfinite(d).all()):
        return []
    r = float(np.corrcoef(n, d)[0, 1])
    return [f"ln N and ln D are correlated ({r:.4f}): their effects cannot be told apart"] if abs(r) > 0.995 else []


def check_gradient(law: Formula, x: Columns, link: str, starts: Array) -> None:
    """UsageError where a law's gradient is not the slope of its prediction: a law of one's own that is not analytic."""
    theta = law.to_fitted(starts)[[len(starts) // 3, 2 * len(starts) // 3]]
    try:
        _, exact = law.jacobian(theta, x, link)
    except TypeError as error:
        raise UsageError(
            f"{law_name(law)} cannot take complex parameters ({error})", where="predict", fix=_ANALYTIC
        ) from error
    for j, name in enumerate(law.names):
        step = np.zeros_like(theta)
        # The cube root of double precision: central differences are then right to some ten digits.
        step[:, j] = 1e-5 * np.maximum(1.0, np.abs(theta[:, j]))
        slope = (law.value(theta + step, x, link) - law.value(theta - step, x, link)) / (2 * step[:, [j]])
        used = np.isfinite(slope) & np.isfinite(exact[:, j])
        size = np.linalg.norm(slope[used])
        # A wrong gradient is wrong by its whole size; 5 % forgives a kink between the two points.
        if size > 1e-6 and np.linalg.norm((exact[:, j] - slope)[used]) > 0.05 * size:
            raise UsageError(
                f"the gradient of {law_name(law)} by {name} is not its slope", where="predict", fix=_ANALYTIC
            )

"""How far the constants depend on choices that nobody reports: loss, delta, window, outliers, the way N is counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..core.errors import IsoflopError
from .fit import Solved, fit_law
from .formula import Array

_FURTHER = 5.0  # residuals beyond this many robust standard deviations are outliers


@dataclass(frozen=True)
class Variant:
    """The fit under another choice: its constants, or why there are none.

    Attributes:
        choice: what was done differently, in words.
        params: constants by name, in natural units; none where it failed.
        rows: how many were fitted.
        failed: why there is no fit; "" if there is one.

    Example:
        >>> Variant("loss l2", {"a": 0.5}, rows=12).failed
        ''
    """

    choice: str
    params: Mapping[str, float]
    rows: int
    failed: str = ""


def sensitivity(fit: Solved, counts: Mapping[str, Array] | None = None) -> list[Variant]:
    """Refits under other choices, the fit itself first.

    Constants that move with choices nobody argues for must not be quoted with more digits than they agree in.

    Args:
        fit: the fit.
        counts: other ways of counting N, name -> values (rows,), e.g. without embeddings.

    Example:
        >>> from isoflop.laws import Power
        >>> fit = Power().fit({"C": [1.0, 2.0, 4.0, 8.0, 16.0], "y": [1.0, 2.1, 3.9, 8.2, 15.9]})
        >>> [(variant.choice, round(variant.params["a"], 3)) for variant in sensitivity(fit)][:2]
        [('as fitted', 0.995), ('loss l1', 0.998)]
    """
    choices: list[tuple[str, dict[str, object], Array]] = []
    every = np.ones(fit.rows, dtype=bool)
    settings = fit.settings
    if not fit.law.likelihood and settings.loss in ("huber", "l2", "l1"):
        if settings.loss == "huber":
            choices += [
                (f"delta {settings.delta * f:g}", {"delta": settings.delta * f}, every) for f in (0.1, 10.0, 100.0)
            ]
        choices += [(f"loss {name}", {"loss": name}, every) for name in ("l2", "l1", "huber") if name != settings.loss]
        r = fit.residuals
        # A normal's standard deviation over its median |r|.
        size = 1.4826 * float(np.median(np.abs(r - np.median(r))))
        kept = np.abs(r) <= _FURTHER * size
        if not kept.all():
            choices.append((f"without {int((~kept).sum())} outliers", {}, kept))
    with np.errstate(all="ignore"):
        c = fit.law.compute(fit.problem.x)
    # The cheapest runs are those that a law beyond its range errs on; half of the rows is the most that may be spared.
    for share in (0.1, 0.25, 0.5):
        window = c >= np.quantile(c, share)
        if window.sum() < fit.rows:
            choices.append((f"without the cheapest {100 * share:g} %", {}, window))
    dear = c <= np.quantile(c, 0.9)
    if dear.sum() < fit.rows:
        choices.append(("without the dearest 10 %", {}, dear))
    out = [Variant("as fitted", fit.params, fit.rows)]
    out += [_refit(fit, choice, changed, rows) for choice, changed, rows in choices]
    for name, values in (counts or {}).items():
        out.append(_refit(fit, f"N counted as {name}", {}, every, N=np.asarray(values, dtype=float)))
    return out


def _refit(fit: Solved, choice: str, changed: dict[str, object], rows: Array, **columns: Array) -> Variant:
    table = fit.table.with_columns(**columns).where(rows)
    settings = fit.settings.model_copy(update={"columns": {}, **changed})
    try:
        other = fit_law(fit.law, table, settings)
    except IsoflopError as error:
        return Variant(choice, {}, int(rows.sum()), str(error))
    failed = "" if other.converged else "did not converge"
    return Variant(choice, other.params, other.rows, failed)

"""The score that a compute attains: a high quantile over models, and which models lie above it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...core.errors import UsageError
from ..formula import law_name
from .answer import Answer, digits, figure
from .batch import inside
from .draws import Basis
from .limits import check_positive

# As many as one reads.
_NAMED = 5


def score(basis: Basis, compute: float, names: Sequence[str] = ()) -> Answer:
    """The attainable score at C.

    Args:
        basis: a fit of ``frontier``, with its draws.
        compute: pre-training FLOPs.
        names: of the fitted rows, (n,): those furthest above the frontier are named.

    Raises:
        UsageError: another law; a compute that is not positive, or too far outside the rows.

    Example, with ``basis(law)`` the draws of a fit:
        >>> made = score(basis("frontier"), 1e24)["score"]
        >>> round(made.value, 2), made.low < made.value < made.high
        (0.67, True)
    """
    fit = basis.fit
    if law_name(fit.law) != "frontier":
        raise UsageError(f"{law_name(fit.law)} is no frontier of scores", where="plan", fix="fit frontier")
    check_positive(compute=compute)
    warnings, end = inside(fit, {"C": compute})
    values = fit.law.value(basis.theta, {"C": np.asarray([compute])}, fit.problem.link)[:, 0]
    quantile = fit.settings.tau
    excess = fit.problem.y - fit.predict(fit.table)
    above = excess > 0
    reached = f"{100 * float(np.mean(~above)):.3g} % of the rows lie below, {100 * quantile:.3g} % were asked for"
    order = np.argsort(-excess)[: min(_NAMED, int(above.sum()))]
    at = fit.problem.x["C"]
    best = [f"above it: {names[i]} (+{excess[i]:.3g} at C {digits(at[i])})" for i in order if len(names)]
    found = figure("score", values, basis.level, note=reached, log=False)
    said = "models of later dates are drawn like those of the table; the date drift is not in the interval"
    question = f"score that {100 * quantile:g} % of models of C = {digits(compute)} FLOPs stay below"
    return Answer(question, (found,), said, end, basis.level, None, (*warnings, *basis.vague, *best))

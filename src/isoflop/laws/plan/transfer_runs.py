"""Which k runs on new data carry a law over to them: those that say most, for their cost, of a large run there.

A loss on new data is L1 = K (L0 - E0)^kappa + E1 of the source law's loss, three constants. Before there are runs they
are taken to be those of the source itself (K = kappa = 1, E1 = E0): which runs teach the constants depends on where
their losses lie, and little on the constants.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...core.errors import UsageError
from ..extrapolate import quantile
from ..fit import Solved, fit_law
from ..forms.loss_to_loss import LossToLoss
from ..tables import as_table
from .design import DISCREPANCY, known_of, noise_variance, pick
from .next_runs import Choice, Lesson, lesson_of
from .transfer import LEAST, check_carried


def transfer_runs(source: Solved, runs: Mapping[str, Any], count: int, size: float, tokens: float) -> Choice:
    """The next runs on new data, in the order of what they teach for their cost.

    Make them, write their losses into the table, then carry the law over (``transferred``) or ask for more.

    Args:
        source: a fit of ``kaplan`` on the source data.
        runs: candidates on the new data: N, D, and loss where a run is made (else empty).
        count: how many are to be made now.
        size: N of the run whose loss is to be known.
        tokens: D of that run.

    Raises:
        UsageError: another law, or fewer candidates than are wanted.

    Example, with ``fitted(law)`` a fit:
        >>> n, d = (x.ravel() for x in np.meshgrid([1e8, 3e8, 1e9], [5e9, 5e10]))
        >>> choice = transfer_runs(fitted("kaplan"), {"N": n, "D": d}, 4, 4e9, 1e11)
        >>> len(choice.lessons), choice.lessons[-1].after < choice.lessons[0].before
        (4, True)
    """
    check_carried(source)
    table = as_table(runs)
    x = {name: table.numbers(name) for name in ("N", "D")}
    y = table.numbers("loss") if "loss" in table else np.full(table.rows, np.nan)
    made = np.flatnonzero(np.isfinite(y))
    if count > table.rows - len(made):
        raise UsageError(
            f"{table.rows - len(made)} candidates are not made yet, {count} are wanted", where="plan", fix="name more"
        )
    law = LossToLoss(E0=source.params["E"], floors="joint")
    theirs, aim = source.predict(x), source.predict({"N": np.asarray([size]), "D": np.asarray([tokens])})
    fit = fit_law(law, {"loss0": theirs[made], "loss": y[made]}) if len(made) >= LEAST else None
    free = np.asarray([j for j, name in enumerate(law.names) if name not in law.held])
    theta = law.to_fitted(np.asarray([1.0, 1.0, source.params["E"], source.params["E"]])) if fit is None else fit.theta
    slopes, aims = (law.jacobian(theta[None], {"loss0": each}, "log", free)[1][0].T for each in (theirs, aim))
    gap = np.maximum(np.log(size * tokens) - np.log(x["N"] * x["D"]), 0.0)
    known = known_of(slopes, aims, noise_variance(source) + (DISCREPANCY * gap) ** 2, made)
    price = x["N"] * x["D"]
    cost, allowed = price / price.sum(), ~np.isfinite(y)
    lessons = list[Lesson]()
    for _ in range(count):
        run = pick(known, cost, allowed, "target", np.zeros(len(cost)))
        assert run is not None
        lessons.append(lesson_of(float(cost[run]), [law.names[j] for j in free], known, run, quantile(source, 0.9)))
        allowed[run] = False
    spent = float(cost[made].sum())
    return Choice(tuple(lessons), spent, spent + sum(each.cost for each in lessons), fit or source, x)

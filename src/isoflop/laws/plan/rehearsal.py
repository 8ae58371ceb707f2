"""A design played on a pool and a target whose results are known: how well would it have predicted?"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ...core.errors import DataError
from ..fit import Solved, fit_law
from ..formula import Array, law_name
from .design import Criterion
from .next_runs import STEP, Pool, fitted, next_runs


@dataclass(frozen=True)
class Rehearsal:
    """A design played on a pool whose results are known.

    Attributes:
        law: its name.
        budget: share of the pool's cost.
        spent: share that was used.
        runs: how many were made.
        r_squared: of the target's results; NaN where they are not known.
        error: mean |predicted / observed - 1|.
        whole: r_squared of the law fitted to the whole pool.
        apart: mean |predicted - predicted by the whole pool's fit| at the target, in the law's unit.

    Example:
        >>> Rehearsal("chinchilla", 0.1, 0.09, 12, r_squared=0.99, error=0.01, whole=0.995, apart=0.003).runs
        12
    """

    law: str
    budget: float
    spent: float
    runs: int
    r_squared: float
    error: float
    whole: float
    apart: float

    def __str__(self) -> str:
        return (
            f"{self.law}: {self.runs} runs for {100 * self.spent:.3g} % of the pool's cost: R^2 {self.r_squared:.3f}, "
            f"mean error {100 * self.error:.3g} % at the target; the whole pool: R^2 {self.whole:.3f}; its fit and "
            f"theirs lie {self.apart:.2g} apart"
        )


def rehearse(
    pool: Pool, results: Array, budget: float, *, step: float = STEP, criterion: Criterion = "target"
) -> Rehearsal:
    """Ask, reveal and ask again until the budget is spent; then predict the target.

    Args:
        pool: candidates, each with its result.
        results: of the target's rows, (m,).
        budget: share of the pool's cost.
        step: share of the budget between fits.
        criterion: see ``isoflop.laws.plan.design.pick``.

    Raises:
        DataError: the runs that fit the budget do not determine the law.

    Example, with ``sweep`` a table of N, D and loss:
        >>> from isoflop.laws import Chinchilla
        >>> from isoflop.laws.plan.next_runs import pool_of
        >>> pool = pool_of(Chinchilla(), sweep, sweep.where(sweep["N"] > 4e9), measured=True)
        >>> played = rehearse(pool, sweep["loss"][sweep["N"] > 4e9], 0.2, step=0.5)
        >>> played.spent <= 0.2, played.error < 0.05
        (True, True)
    """
    seen = replace(pool, y=np.full(len(pool.y), np.nan))
    fit: Solved | None = None
    while True:
        choice = next_runs(seen, budget, step=step, criterion=criterion, begun=fit)
        fit = choice.fit or fit
        if not choice.lessons:
            break
        rows = [lesson.row for lesson in choice.lessons]
        y = seen.y.copy()
        y[rows] = pool.y[rows]
        seen = replace(seen, y=y)
    fit = fitted(seen, fit, criterion)
    if fit is None:
        raise DataError(
            f"{len(seen.made)} runs for {100 * budget:g} % of the cost do not determine {law_name(pool.law)}",
            where="pool",
            fix="raise the budget, or take a law of fewer constants",
        )
    whole = fit_law(pool.law, {**pool.x, pool.law.target: pool.y}, None)
    predicted, best = fit.predict(pool.target), whole.predict(pool.target)
    return Rehearsal(
        law_name(pool.law),
        budget,
        seen.spent,
        len(seen.made),
        explained(predicted, results),
        float(np.mean(np.abs(predicted / results - 1.0))),
        explained(best, results),
        float(np.mean(np.abs(predicted - best))),
    )


def explained(predicted: Array, observed: Array) -> float:
    """Share (up to 1, without lower bound) of the variance of observations (m,) that predictions explain; NaN if 0."""
    variance = float(np.sum((observed - observed.mean()) ** 2))
    return float(1.0 - np.sum((predicted - observed) ** 2) / variance) if variance else float("nan")

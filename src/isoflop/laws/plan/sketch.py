"""What a plan's page draws: the frontier with its band, isoFLOP slices, the chosen run and its neighbours."""

from __future__ import annotations

import numpy as np

from ...core.errors import IsoflopError, UsageError
from ...core.files import jsonable
from ...store.fits import StoredCurve
from ...store.plans import StoredPlan
from ..fit import Solved
from .answer import Plan
from .best import best, loss_at
from .draws import Basis, basis_of
from .limits import size_column, spans
from .minimum import best_sizes, isoflop

_BUDGETS = 13  # of the frontier
_SIZES = np.geomspace(0.05, 20.0, 61)  # of a slice, times its best size
_CHEAPER = (100.0, 10.0, 1.0)  # than the plan: the slices
_NEIGHBOURS = (("as planned", 1.0, 1.0), ("N x 2, equal C", 2.0, -1.0), ("N / 2, equal C", 0.5, -1.0),
               ("D x 2, equal N", 1.0, 2.0), ("D / 2, equal N", 1.0, 0.5))  # fmt: skip


def sketch(fit: Solved, plan: Plan, size: float, tokens: float) -> StoredPlan:
    """The plan of a run with its surroundings.

    Args:
        fit: the fit that answered; its law knows N and D.
        plan: the answers.
        size: N of the chosen run.
        tokens: its D.

    Raises:
        UsageError: a law without size or tokens, or one of repeated tokens.

    Example, with ``fitted(law)`` a fit:
        >>> from isoflop.laws.plan.ask import plan
        >>> law = fitted("chinchilla")
        >>> made = sketch(law, plan(law, params=1e9, tokens=2e10), 1e9, 2e10)
        >>> len(made.frontier), len(made.slices), made.runs[0]["name"]
        (13, 3, 'as planned')
    """
    name = size_column(fit)
    if "U" in fit.law.columns:
        raise UsageError(
            "a page draws plans on fresh tokens", where="page", fix="fit a law without repeats, e.g. chinchilla"
        )
    basis = basis_of(fit, plan.answers[0].level)
    compute = float(basis.cost.flops(size, tokens))
    x = fit.problem.x
    table = (basis.cost.flops(x[name], x["D"]), x[name], x["D"], fit.problem.y)
    points = [
        dict(zip(("compute", "N", "D", "loss"), map(float, row), strict=True)) for row in zip(*table, strict=True)
    ]
    low, high = spans(fit, basis.cost)["C"]
    budgets = np.geomspace(min(low, compute), max(high, compute), _BUDGETS)
    frontier = [row for budget in budgets if (row := _best(basis, float(budget))) is not None]
    slices = [curve for times in _CHEAPER if (curve := _slice(basis, compute / times)) is not None]
    runs = []
    for said, n, d in _NEIGHBOURS:
        there = size * n
        seen = tokens * d if d > 0 else float(basis.cost.tokens(there, compute))
        runs.append({"name": said, **_run(basis, there, seen)})
    return StoredPlan(
        law=plan.source,
        level=basis.level,
        answers=plan.to_json()["answers"],
        points=jsonable(points),
        frontier=jsonable(frontier),
        slices=slices,
        runs=jsonable(runs),
    )


def _run(basis: Basis, size: float, tokens: float) -> dict[str, float]:
    loss = loss_at(basis, size, tokens)
    spent = float(basis.cost.flops(size, tokens))
    return {"compute": spent, "N": size, "D": tokens, "loss": loss.value, "low": loss.low, "high": loss.high}


def _best(basis: Basis, compute: float) -> dict[str, float] | None:
    """The best run at a budget; None where the law has none."""
    try:
        found = best(basis, compute)
    except IsoflopError:
        return None
    return _run(basis, found["N"].value, found["D"].value)


def _slice(basis: Basis, compute: float) -> StoredCurve | None:
    """Loss around the best size at a budget; None where there is none."""
    fit, theta = basis.fit, basis.theta[:1]
    best_size = float(np.exp(best_sizes(fit, theta, compute, basis.cost)[0][0]))
    if not np.isfinite(best_size):
        return None
    sizes = best_size * _SIZES
    link = isoflop(fit, theta, compute, basis.cost)(np.log(sizes))[0]
    loss = np.asarray(fit.law.unlinked(link, fit.problem.link), dtype=float)
    return StoredCurve(compute=compute, N=sizes.tolist(), loss=jsonable(loss.tolist()), best_N=best_size)

"""Which runs next: from a pool of candidates with costs, for a budget and a target; asked again as results come in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...core.errors import DataError, IsoflopError, UsageError
from ...core.table import Table
from ..extrapolate import quantile
from ..fit import Solved, fit_law
from ..formula import Array, Formula
from ..tables import columns_of, read_columns
from .answer import digits
from .design import Criterion, Knowledge, bins, drawing_order, gaps, knowledge, pick, pilot, trust

STEP = 0.05
"""Share of the budget that is spent before the law is fitted again."""
_PILOT = 0.25  # of the budget, at most, for the runs before there is a fit
_SPARE = 2  # runs beyond twice the constants in the pilot


@dataclass(frozen=True)
class Pool:
    """Candidate runs.

    Attributes:
        law: the law that is to predict the target.
        x: its columns, (n,) each.
        y: results (n,); NaN where a run is not made.
        cost: (n,), in shares of the whole pool's.
        target: the law's columns of what is to be predicted, (m,) each.

    Example, with ``sweep`` a table of N, D and loss:
        >>> from isoflop.laws import Chinchilla
        >>> pool = pool_of(Chinchilla(), sweep, Table({"N": [2e10], "D": [4e11]}))
        >>> pool.y.shape, round(float(pool.cost.sum()), 6)
        ((64,), 1.0)
    """

    law: Formula
    x: dict[str, Array]
    y: Array
    cost: Array
    target: dict[str, Array]

    @property
    def made(self) -> Array:
        """Row numbers of the runs that are made."""
        return np.flatnonzero(np.isfinite(self.y))

    @property
    def spent(self) -> float:
        """Share of the pool's cost that is spent."""
        return float(self.cost[self.made].sum())

    @property
    def gap(self) -> Array:
        return gaps(self.law, self.x, self.target)


@dataclass(frozen=True)
class Lesson:
    """A chosen run.

    Attributes:
        row: its number in the pool, from 0.
        cost: share of the pool's.
        before: half width at the target, in the law's link space, before it.
        after: after it.
        teaches: the constant whose variance it lowers most, and to what share; "" in a pilot.

    Example:
        >>> Lesson(row=3, cost=0.01, before=0.2, after=0.1, teaches="").row
        3
    """

    row: int
    cost: float
    before: float
    after: float
    teaches: str = ""


@dataclass(frozen=True)
class Choice:
    """The runs to make next, in order.

    Attributes:
        lessons: the runs; none where the budget is spent.
        spent: share of the pool's cost that is spent, the lessons not counted.
        budget: share that may be.
        fit: the law as the results know it; None before there are enough.
        x: the pool's columns.
        drawn: the runs were drawn by chance.

    Example, with ``sweep`` a table of N, D and loss:
        >>> from isoflop.laws import Chinchilla
        >>> unmade = sweep.with_columns(loss=np.full(64, np.nan))
        >>> choice = next_runs(pool_of(Chinchilla(), unmade, Table({"N": [2e10], "D": [4e11]})), 0.1)
        >>> choice.spent, choice.budget, choice.fit is None
        (0.0, 0.1, True)
    """

    lessons: tuple[Lesson, ...]
    spent: float
    budget: float
    fit: Solved | None
    x: Mapping[str, Array]
    drawn: bool = False

    def __str__(self) -> str:
        left = f"{100 * self.spent:.3g} % of the pool's cost spent, {100 * self.budget:.3g} % allowed"
        if not self.lessons:
            return f"{left}: nothing more fits the budget"
        names = list(self.x)
        head = f"{'row':>6}{'cost %':>9}" + "".join(f"{name:>12}" for name in names) + "   half width, what it teaches"
        lines = [left, head]
        for lesson in self.lessons:
            values = "".join(f"{digits(float(self.x[name][lesson.row])):>12}" for name in names)
            why = "drawn" if self.drawn else "pilot"
            said = f"{lesson.before:.3g} -> {lesson.after:.3g}, {lesson.teaches}"
            known = f"   ({why})" if self.fit is None else f"   {said}"
            lines.append(f"{lesson.row + 1:>6}{100 * lesson.cost:>9.3g}{values}{known}")
        more = "fill in their results and ask again"
        return "\n".join([*lines, more if self.fit is None else f"{more}; half widths at the target, constants' error"])

    def to_json(self) -> dict[str, Any]:
        """JSON values; rows are counted from 1."""
        lessons = [{**vars(lesson), "row": lesson.row + 1} for lesson in self.lessons]
        return {
            "spent": self.spent,
            "budget": self.budget,
            "pilot": self.fit is None,
            "drawn": self.drawn,
            "runs": lessons,
        }


def pool_of(law: Formula, pool: Table, target: Table, cost: str | None = None, *, measured: bool = False) -> Pool:
    """Read a pool.

    Args:
        law: the law that is to predict the target.
        pool: its columns, its target where a run is made (else empty), and the cost.
        target: the law's columns of what is to be predicted.
        cost: column of costs; None: "cost", or the law's compute.
        measured: every run must have a result.

    Raises:
        DataError: columns that are missing or not positive; a pool without costs; no target rows.

    Example, with ``sweep`` a table of N, D and loss:
        >>> from isoflop.laws import Chinchilla
        >>> unmade = sweep.with_columns(loss=np.full(64, np.nan))
        >>> pool = pool_of(Chinchilla(), unmade, Table({"N": [2e10], "D": [4e11]}))
        >>> int(np.isnan(pool.y).sum())
        64
    """
    name = cost or "cost"
    x = columns_of(law, read_columns(law, pool, with_target=False))
    if name in pool:
        price = pool.numbers(name)
    elif cost is None and ({"N", "D"} <= set(law.columns) or "C" in law.columns):
        price = law.compute(x)
    else:
        raise DataError(
            f"the pool has no column {name!r}: what do its runs cost?", where="--cost", fix=f"it has {', '.join(pool)}"
        )
    if not (np.isfinite(price).all() and (price > 0).all()):
        row = int(np.argmin(np.isfinite(price) & (price > 0))) + 1
        raise DataError(f"column {name} is no positive cost in row {row}", where="pool", fix="give each run its cost")
    y = pool.numbers(law.target) if law.target in pool else np.full(pool.rows, np.nan)
    if measured and not np.isfinite(y).all():
        raise DataError("a rehearsal needs the result of every run", where="pool", fix="ask for the next runs instead")
    aims = columns_of(law, read_columns(law, target, with_target=False))
    x, aims = ({k: v for k, v in columns.items() if k in law.columns} for columns in (x, aims))
    return Pool(law, x, y, price / price.sum(), aims)


def next_runs(
    pool: Pool, budget: float, *, step: float = STEP, criterion: Criterion = "target", begun: Solved | None = None
) -> Choice:
    """The next runs to make within a budget.

    Make the runs, write their results into the pool, ask again: what is known by then decides the next ones.

    Args:
        pool: the candidates, with the results so far.
        budget: share of the pool's whole cost, spent runs counted.
        step: share of the budget to be spent before asking again; 1: all that is left.
        criterion: see ``isoflop.laws.plan.design.pick``.
        begun: an earlier fit, which weights the rows of the next.

    Raises:
        UsageError: a budget or step that is no share, or a budget that no run fits.

    Example, with ``sweep`` a table of N, D and loss:
        >>> from isoflop.laws import Chinchilla
        >>> unmade = sweep.with_columns(loss=np.full(64, np.nan))
        >>> choice = next_runs(pool_of(Chinchilla(), unmade, Table({"N": [2e10], "D": [4e11]})), 0.1)
        >>> len(choice.lessons) > 0, sum(lesson.cost for lesson in choice.lessons) <= 0.1
        (True, True)
    """
    if not 0 < budget <= 1 or not 0 < step <= 1:
        raise UsageError(f"budget {budget:g}, step {step:g}", where="--budget", fix="give shares, e.g. 0.1")
    made, spent = pool.made, pool.spent
    left = budget - spent
    unmade = np.setdiff1d(np.arange(len(pool.y)), made)
    if not len(made) and pool.cost.min() > budget:
        raise UsageError(
            f"the cheapest run costs {100 * pool.cost.min():.3g} % of the pool",
            where="--budget",
            fix="raise the budget",
        )
    if criterion == "drawn":
        drawn = tuple(Lesson(row, float(pool.cost[row]), np.inf, np.inf) for row in _drawn(pool, left, step * budget))
        return Choice(drawn, spent, budget, None, pool.x, drawn=True)
    fit = fitted(pool, begun) if len(unmade) else begun
    if fit is None:
        count = 2 * len(pool.law.parameters) + _SPARE - len(made)
        limit = _PILOT * budget if not len(made) else left
        rows = pilot(pool.x, pool.cost, made, limit, max(count, 1)) or pilot(pool.x, pool.cost, made, left, 1)
        lessons = tuple(Lesson(row, float(pool.cost[row]), np.inf, np.inf) for row in rows)
        return Choice(lessons, spent, budget, None, pool.x)
    lessons = tuple(_greedy(pool, fit, left, min(left, step * budget), criterion))
    return Choice(lessons, spent, budget, fit, pool.x)


def _drawn(pool: Pool, left: float, stop: float) -> list[int]:
    """The next runs by chance until ``stop`` is spent; none is passed over for its cost, or cheap ones would gain."""
    rows, used, made = list[int](), 0.0, set(pool.made.tolist())
    for row in drawing_order(len(pool.cost)).tolist():
        if row in made:
            continue
        if used >= stop * (1 - 1e-9) or used + pool.cost[row] > left + 1e-12:
            break
        rows.append(row)
        used += float(pool.cost[row])
    return rows


def fitted(pool: Pool, before: Solved | None = None, criterion: Criterion = "target") -> Solved | None:
    """The law fitted to the runs so far; None where they do not suffice.

    Runs near the target count more, but for those that were drawn by chance: they count alike.
    """
    made = pool.made
    if len(made) < len(pool.law.parameters) + 1:
        return None
    rows = {name: column[made] for name, column in pool.x.items()}
    weights = trust(None if criterion == "drawn" else before, pool.gap[made], len(made))
    try:
        fit = fit_law(pool.law, {**rows, pool.law.target: pool.y[made]}, None, weights=weights)
    except IsoflopError:  # columns that do not vary yet
        return None
    return fit if np.isfinite(fit.objective) else None


def _greedy(pool: Pool, fit: Solved, left: float, stop: float, criterion: Criterion) -> list[Lesson]:
    """Runs in order of gain until ``stop`` is spent; none that costs more than what is ``left``."""
    made = pool.made
    known = knowledge(fit, pool.x, pool.target, made, pool.gap)
    free, member = np.ones(len(pool.y), dtype=bool), bins(pool.cost)
    free[made] = False
    counts = np.bincount(member[made], minlength=int(member.max()) + 1)
    lessons: list[Lesson] = []
    used, half = 0.0, quantile(fit, 0.9)
    while used < stop * (1 - 1e-9):
        allowed = free & (pool.cost <= left - used + 1e-12)
        run = pick(known, pool.cost, allowed, criterion, counts[member])
        if run is None:
            break
        lessons.append(lesson_of(float(pool.cost[run]), [fit.law.names[j] for j in fit.problem.free], known, run, half))
        free[run], used = False, used + float(pool.cost[run])
        counts[member[run]] += 1
    return lessons


def lesson_of(cost: float, names: Sequence[str], known: Knowledge, run: int, half: float) -> Lesson:
    """A run as a lesson, which ``known`` then has learnt.

    Args:
        cost: of the run, as a share of the pool's.
        names: of the constants, (p,).
        known: what is known before.
        run: its number in the pool.
        half: half widths of an interval in standard deviations.
    """
    before, constants = known.spread(), known.constants()
    known.learn(run)
    share = known.constants() / constants
    most = int(np.argmin(share))
    teaches = f"{names[most]}'s variance to {100 * float(share[most]):.0f} %"
    return Lesson(run, cost, half * before, half * known.spread(), teaches)

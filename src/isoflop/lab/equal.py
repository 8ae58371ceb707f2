"""Quality at equal compute: a table that refuses to compare what did not cost the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from ..core.errors import UsageError
from ..core.table import Table
from ..store.results import Axis, StudyResult
from .multiplier import LEVEL, interval, measured

TOLERANCE = 0.01
"""Largest relative difference of what two arms spent."""


def equal_compute(result: StudyResult, axis: Axis, rung: int = 0, *, arms: Sequence[str] | None = None) -> Table:
    """Quality of the arms that ran at a rung, where all spent the same on ``axis`` to within 1 %.

    Returns:
        Columns arm, spent (mean), value (mean over seeds), difference from the baseline, paired over seeds, with its
        Student t interval (low, high) and p-value; negative is better.

    Raises:
        UsageError: an arm's spending differs by more than 1 % (named with the figures), or fewer than 3 common seeds.
    """
    ends = {
        (run.arm, run.seed): run.end
        for run in result.runs
        if run.role == "evaluation" and run.rung == rung and run.end is not None
    }
    wanted = [result.baseline, *result.arms] if arms is None else [result.baseline, *arms]
    ran = [arm for arm in wanted if any(arm == other for other, _ in ends)]
    seeds = sorted({s for _, s in ends if all((arm, s) in ends for arm in ran)})
    if len(seeds) < 3:
        raise UsageError(f"rung {rung} has {len(seeds)} seeds that all arms finished", fix="at least 3 are needed")
    spent = {arm: np.asarray([measured(ends[arm, s], axis) for s in seeds]) for arm in ran}
    own = spent[result.baseline]
    for arm, amounts in spent.items():
        worst = float(np.max(np.abs(amounts / own - 1)))
        if not worst <= TOLERANCE:
            raise UsageError(
                f"{arm} spent {amounts.mean():.4g} {axis}, {result.baseline} {own.mean():.4g}: {worst:.1%} apart",
                where=f"rung {rung}",
                fix="quality at equal compute allows 1 %; read the multiplier, which needs no equal spending",
            )
    values = {arm: np.asarray([ends[arm, s].value for s in seeds]) for arm in ran}
    rows: list[dict[str, Any]] = []
    for arm in ran:
        difference = values[arm] - values[result.baseline]
        mean, half = interval(difference, LEVEL)
        p = 1.0 if arm == result.baseline else float(stats.ttest_1samp(difference, 0.0).pvalue)
        rows.append(
            {
                "arm": arm,
                "spent": float(spent[arm].mean()),
                "value": float(values[arm].mean()),
                "difference": float(mean),
                "low": float(mean - half),
                "high": float(mean + half),
                "p": p,
            }
        )
    return Table.from_records(rows)

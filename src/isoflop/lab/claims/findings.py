"""What a stored result says about a bar: a value with its interval, or only that it is not known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...core.complaints import SEEDS, few_seeds
from ...core.errors import DataError, nearest
from ...core.significance import LEVEL, half_width
from ...store.measured import MeasuredResult
from ...store.pipelines import PipelineResult, StageRow
from ...store.results import MultiplierRow, StudyResult
from ..estimate import interval
from .claim import ClaimBar, Ratio, Widths

Stored = StudyResult | PipelineResult | MeasuredResult


@dataclass(frozen=True)
class Finding:
    """What was measured for a bar.

    Attributes:
        value: the mean over seeds; NaN where only a bound or nothing is known.
        low: lower end of its interval, -inf where nothing limits it from below.
        high: upper end of its interval.
        per_seed: the seeds' values, as far as each is known.
        size: the threshold of a bar that a pipeline states; else None.
        note: why less is known than was asked; "" if all is.

    Example:
        >>> Finding(value=1.3, low=1.2, high=1.4, per_seed=(1.25, 1.3, 1.35)).known
        True
    """

    value: float
    low: float
    high: float
    per_seed: tuple[float, ...] = ()
    size: float | None = None
    note: str = ""

    @property
    def known(self) -> bool:
        """Whether an interval or a bound is known."""
        return self.low > -math.inf or self.high < math.inf


def nothing(note: str) -> Finding:
    """That nothing is known."""
    return Finding(math.nan, -math.inf, math.inf, note=note)


def finding(bar: ClaimBar, result: Stored, level: float = LEVEL, other: Stored | None = None) -> Finding:
    """What a result says about a bar.

    Args:
        bar: what is asked.
        result: of the bar's study.
        level: confidence level of the interval; a study's multipliers have that of their own correction.
        other: the result of the study whose value is subtracted, if one is.

    Raises:
        DataError: the result holds nothing of what the bar names.
    """
    if isinstance(result, StudyResult):
        return _ratio(_wanted(bar.ratio, bar, "ratio"), result)
    if isinstance(result, MeasuredResult):
        values = _values(_wanted(bar.value, bar, "value"), result)
        if bar.less is not None and isinstance(other, MeasuredResult):
            taken = _values(bar.less.value, other)
            if len(taken) != len(values):
                return nothing(f"{len(values)} and {len(taken)} seeds cannot be paired")
            values = [value - less for value, less in zip(values, taken, strict=True)]
        if bar.exact or bar.p_value:  # what follows from a formula must hold in every seed, a test wherever it is made
            return Finding(float(np.mean(values)), min(values), max(values), tuple(values))
        return mean_of(values, level)
    if bar.stated is not None:
        return _stated(bar.stated, result, level)
    if bar.widths is not None:
        return _widths(bar.widths, result, level)
    terms, texts = _wanted(bar.terms, bar, "terms"), bar.texts or tuple(result.texts)
    _refuse_unknown(bar, [*terms], result.stages)
    _refuse_unknown(bar, texts, result.texts)
    metric = bar.metric or result.metrics[0]
    return mean_of(sum(c * np.array(result.values(stage, texts, metric)) for stage, c in terms.items()), level)


def mean_of(values: Any, level: float = LEVEL) -> Finding:
    """The mean of seeds' values with Student's interval; of fewer than three seeds there is no interval."""
    seeds = tuple(np.asarray(values, dtype=np.float64).tolist())
    mean = float(np.mean(seeds))
    if len(seeds) < SEEDS:
        return Finding(mean, -math.inf, math.inf, seeds, note=few_seeds(len(seeds)))
    half = float(half_width(seeds, level))
    return Finding(mean, mean - half, mean + half, seeds)


def _wanted(given: Any, bar: ClaimBar, key: str) -> Any:
    if given is None:
        raise DataError(f"the bar has no {key}, which its study {bar.study} would answer", where=bar.says)
    return given


def _refuse_unknown(bar: ClaimBar, names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise DataError(f"its study's result knows no {name!r}; {nearest(name, known)}", where=bar.says)


def _ratio(ratio: Ratio, result: StudyResult) -> Finding:
    """A multiplier, or one over another."""
    if (row := _row(ratio, ratio.arm, result)) is None:
        return nothing(_refusal(ratio, ratio.arm, result))
    if ratio.over is None:
        return _of_row(row)
    if (other := _row(ratio, ratio.over, result)) is None:
        return nothing(_refusal(ratio, ratio.over, result))
    if row.censored or other.censored:
        return nothing("a seed lies off the ladder: bounds cannot be divided")
    logs = np.log([m for m in row.per_seed if m]) - np.log([m for m in other.per_seed if m])
    found = interval(logs, LEVEL, math.hypot(row.interpolation, other.interpolation))
    return Finding(found.value, found.low, found.high, tuple(np.exp(logs).tolist()))


def _row(ratio: Ratio, arm: str, result: StudyResult) -> MultiplierRow | None:
    rows = [row for row in result.multipliers if row.arm == arm and row.axis == ratio.axis and not row.all_in]
    rows.sort(key=lambda row: row.rung)
    return next((row for row in rows if ratio.rung in (None, row.rung)), None)


def _refusal(ratio: Ratio, arm: str, result: StudyResult) -> str:
    """Why an arm has no multiplier on an axis."""
    if arm not in result.arms:
        raise DataError(f"the study has no arm {arm!r}; {nearest(arm, result.arms)}", where=result.name)
    own = result.arm_refusals.get(arm, {}).get(ratio.axis) or result.refusals.get(ratio.axis)
    return own or f"{arm} has no multiplier on {ratio.axis}: see the study's notes"


def _of_row(row: MultiplierRow) -> Finding:
    seeds = tuple(m for m in row.per_seed if m is not None)
    if row.value is not None and row.low is not None and row.high is not None:
        return Finding(row.value, row.low, row.high, seeds)
    note = f"{row.censored_seeds} of {row.seeds} seeds lie off the ladder: only a bound is known"
    if row.bound is None or (row.censored_seeds < row.seeds and row.bound_level is None):
        return Finding(math.nan, -math.inf, math.inf, seeds, note=note)
    low, high = (row.bound, math.inf) if row.censored == "above" else (-math.inf, row.bound)
    return Finding(math.nan, low, high, seeds, note=note)


def _values(name: str, result: MeasuredResult) -> list[float]:
    if name not in result.values:
        raise DataError(f"nothing measured {name!r}; {nearest(name, list(result.values))}", where=result.name)
    return result.values[name]


def _stated(says: str, result: PipelineResult, level: float) -> Finding:
    verdicts = {verdict.says: verdict for verdict in result.verdicts}
    if says not in verdicts:
        raise DataError(f"the pipeline states no bar {says!r}; {nearest(says, list(verdicts))}", where=result.name)
    own = verdicts[says]
    return replace(mean_of(own.per_seed, level), size=own.most)


def _widths(widths: Widths, result: PipelineResult, level: float) -> Finding:
    metric, total, notes = result.metrics[0], list[float](), list[str]()
    seeds = sorted({row.seed for row in result.rows if row.role == "tuning"})
    for seed in seeds:
        summed = 0.0
        for stage, factor in widths.terms.items():
            tried = _tried(result.rows, stage, seed, widths.key, metric)
            if not tried:
                raise DataError(f"{stage} has no trials of {widths.key}", where=result.name)
            width, open_end = good_range(tried, widths.within)
            notes += [f"{stage}: values at the end of its grid are good, too"] * open_end
            summed += factor * width
        total.append(summed)
    return replace(mean_of(total, level), note="; ".join(dict.fromkeys(notes)))


def _tried(rows: Sequence[StageRow], stage: str, seed: int, key: str, metric: str) -> dict[float, float]:
    """Value of the key -> mean over texts; infinite where the run diverged."""
    own = [row for row in rows if row.stage == stage and row.role == "tuning" and row.seed == seed]
    return {float(row.choice[key]): _mean(row.values, metric) for row in own if key in row.choice}


def _mean(values: Mapping[str, Mapping[str, float]], metric: str) -> float:
    return float(np.mean([value[metric] for value in values.values()])) if values else math.inf


def good_range(tried: Mapping[float, float], within: float) -> tuple[float, bool]:
    """How many doublings wide the range around the best value is that comes within ``within`` of it; lower is better.

    Args:
        tried: value -> quality, infinite where it diverged.
        within: how much worse than the best is still good.

    Returns:
        The width, and whether the range reaches an end of what was tried, so that it may be wider.

    Example:
        >>> good_range({0.5: 2.2, 1.0: 2.0, 2.0: 2.2}, within=0.1)
        (1.0, False)
    """
    x = np.log2(sorted(tried))
    y = np.array([tried[value] for value in sorted(tried)])
    best, limit = int(np.argmin(y)), float(np.min(y)) + within
    ends, reached = [], False
    for step in (-1, 1):
        at = best
        while 0 <= at + step < len(x) and y[at + step] <= limit:
            at += step
        if not 0 <= at + step < len(x):
            reached = True
            ends.append(x[at])
            continue
        rise = y[at + step] - y[at]
        share = (limit - y[at]) / rise if math.isfinite(rise) else 0.0
        ends.append(x[at] + share * (x[at + step] - x[at]))
    return float(ends[1] - ends[0]), reached

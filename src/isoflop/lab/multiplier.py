"""The multiplier: how many times more of an axis the baseline would have needed for the quality that an arm reached.

For each seed the baseline's rungs give a curve, made non-increasing by isotonic regression and linear between rungs in
(log x, y). ``reach`` inverts it and never extrapolates: a seed beyond the ladder is censored, known only to lie beyond
its limit. Log multipliers are paired over seeds, their interval is Student's t, their p-values are Holm's over the arms
of a study. With censored seeds there is only a bound: the geometric mean over all seeds, the censored at their limits.

Between rungs the chord lies above a convex curve, so m is biased upward a little: for y = E + A x^-a on a ladder of
factor 2 by at most a factor exp(a log(2)^2 / 8), 1.8 % at a = 0.3.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.optimize import isotonic_regression

from ..store.results import Axis, MultiplierRow, Point, RunRow
from .provenance import Environments, mixture

Side = Literal["", "above", "below"]
AXES: tuple[Axis, ...] = get_args(Axis)
LEVEL = 0.95
LESS = {
    "flops": ("less compute", "more compute"),
    "hardware_flops": ("less executed compute", "more executed compute"),
    "steps": ("fewer steps", "more steps"),
    "tokens": ("fewer tokens", "more tokens"),
    "text_bytes": ("less text", "more text"),
    "seconds": ("less time", "more time"),
}
"""How an axis reads in a sentence when the arm needs less, and when it needs more."""


@dataclass(frozen=True)
class Facts:
    """What decides whether two arms can be compared on an axis.

    ``parameters`` is the model's size, ``tokens_per_step`` the batch, ``tokenizer`` whatever identifies it.
    """

    parameters: int
    tokens_per_step: int
    tokenizer: str


@dataclass(frozen=True)
class Estimate:
    """A multiplier with its two-sided interval and the p-value of m = 1."""

    value: float
    low: float
    high: float
    p: float


def measured(point: Point, axis: Axis) -> float:
    """What a run had spent on ``axis`` at an evaluation."""
    return float(point.step if axis == "steps" else getattr(point, axis))


def reach(x: npt.ArrayLike, y: npt.ArrayLike, target: float) -> tuple[float, Side]:
    """The least x at which one seed's baseline curve reaches quality ``target``, within the ladder.

    Args:
        x: (K,) amounts of the rungs, positive and distinct, in any order.
        y: (K,) quality there, lower is better.

    Returns:
        (x, ""), or (x of the top rung, "above") if the target lies beyond it: more than that would be needed;
        or (x of the lowest rung, "below") if even the lowest rung is better than the target.
    """
    order = np.argsort(x)
    xs = np.asarray(x, dtype=np.float64)[order]
    fitted = isotonic_regression(np.asarray(y, dtype=np.float64)[order], increasing=False).x
    if target < fitted[-1]:
        return float(xs[-1]), "above"
    if target > fitted[0]:
        return float(xs[0]), "below"
    k = int(np.searchsorted(-fitted, -target, side="left"))  # the first rung that is good enough
    if k == 0:
        return float(xs[0]), ""
    share = (fitted[k - 1] - target) / (fitted[k - 1] - fitted[k])
    return float(min(xs[k - 1] * (xs[k] / xs[k - 1]) ** share, xs[k])), ""


def interval(logs: npt.ArrayLike, level: float = LEVEL) -> tuple[Any, Any]:
    """Mean of log multipliers over the last axis (n >= 3 seeds) and the half width of its Student t interval."""
    values = np.asarray(logs, dtype=np.float64)
    n = values.shape[-1]
    if n < 3:
        raise ValueError(f"an interval needs at least 3 seeds, got {n}")
    error = values.std(axis=-1, ddof=1) / math.sqrt(n)
    return values.mean(axis=-1), stats.t.ppf(0.5 + level / 2, n - 1) * error


def estimate(multipliers: Sequence[float], level: float = LEVEL) -> Estimate:
    """Geometric mean of the seeds' multipliers with its Student t interval and p-value; n >= 3."""
    logs = np.log(multipliers)
    mean, half = interval(logs, level)
    error = logs.std(ddof=1) / math.sqrt(len(logs))
    if error > 0:
        p = 2 * float(stats.t.sf(abs(mean) / error, len(logs) - 1))
    else:
        p = 1.0 if mean == 0 else 0.0
    return Estimate(math.exp(mean), math.exp(mean - half), math.exp(mean + half), p)


def holm(p: Sequence[float]) -> list[float]:
    """Holm-adjusted p-values (Holm 1979), in the order given."""
    adjusted = [0.0] * len(p)
    floor = 0.0
    for rank, index in enumerate(np.argsort(p, kind="stable").tolist()):
        floor = max(floor, min(1.0, (len(p) - rank) * p[index]))
        adjusted[index] = floor
    return adjusted


def illegal(
    axis: Axis,
    facts: Mapping[str, Facts],
    runs: Sequence[RunRow],
    baseline: str,
    environments: Environments | None = None,
) -> str:
    """Why ``axis`` allows no multiplier in this study; "" if it does.

    Args:
        facts: by arm, the baseline among them. runs: all evaluation runs; those that do not know the digests of
            their texts are taken to have the others'. environments: what made them, by the key that they name.
    """
    if len({run.heldout for run in runs} - {""}) > 1:
        return "the runs were evaluated on different text"
    texts = {(run.arm, run.fingerprint) for run in runs if run.fingerprint}
    if len(texts) > len({arm for arm, _ in texts}):
        return "the training text changed between the runs of an arm"
    ends = [(run, run.end) for run in runs]
    missing = [run.run for run, end in ends if end is not None and not measured(end, axis) > 0]
    if missing:
        return f"it was not measured in every run ({', '.join(missing[:3])}{' ...' if len(missing) > 3 else ''})"
    rungs = {run.rung for run, end in ends if run.arm == baseline and end is not None}
    if len(rungs) < 3:
        return f"{baseline} has {len(rungs)} rungs on it, at least 3 are needed"
    own = facts[baseline]
    for arm, other in facts.items():
        if axis == "steps" and other.tokens_per_step != own.tokens_per_step:
            return (
                f"steps of different batches cannot be compared: {baseline} takes {own.tokens_per_step} tokens a step, "
                f"{arm} {other.tokens_per_step}"
            )
        if axis in ("tokens", "text_bytes") and other.parameters != own.parameters:
            return (
                f"a token costs more in a larger model: {baseline} has {own.parameters} parameters, "
                f"{arm} {other.parameters}"
            )
        if axis == "tokens" and other.tokenizer != own.tokenizer:
            return f"{baseline} and {arm} have different tokenizers, so their tokens are different amounts of text"
    if axis == "seconds" and not all(run.exclusive for run in runs):
        return "the runs shared the machine; only runs made one at a time (workers = 1) can be compared in seconds"
    if axis == "seconds" and (mixed := mixture(runs, environments or {})):
        return f"the runs were made by different code or machines ({mixed})"
    return ""


def multipliers(
    runs: Iterable[RunRow],
    *,
    baseline: str,
    axis: Axis,
    tuning: Mapping[str, float] | None = None,
) -> list[MultiplierRow]:
    """The multiplier of every arm at every rung that it ran, on one legal axis.

    Args:
        runs: the study's evaluation runs. A diverged run never ranks: an arm with one at a rung has no row there, and a
            baseline's one leaves its seed's curve without that rung.
        tuning: arm -> what its equal trials spent on ``axis``: gives the all-in multiplier, which charges them to both
            sides. The baseline's second tuning at its top rung is not charged, which can only favour the baseline.

    Returns:
        Rows with sentence, in order of arms and rungs; p-values are Holm's over the arms at one rung.
    """
    rows = [run for run in runs if run.role == "evaluation"]
    curves: dict[int, list[Point]] = {}
    for run in rows:
        if run.arm == baseline and run.end is not None:
            curves.setdefault(run.seed, []).append(run.end)
    cells: dict[tuple[str, int], list[RunRow]] = {}
    for run in rows:
        if run.arm != baseline:
            cells.setdefault((run.arm, run.rung), []).append(run)
    found = [
        _row(arm, rung, axis, members, curves, baseline, tuning)
        for (arm, rung), members in cells.items()
        if len(members) >= 3 and all(m.end is not None and len(curves.get(m.seed, ())) >= 3 for m in members)
    ]
    return [_judged(row, found, baseline) for row in found]


def crossing(rows: Sequence[MultiplierRow], amounts: Sequence[float]) -> float | None:
    """Where an arm's advantage turns over: the amount C at which its multiplier passes 1, or None if it does not.

    Args:
        rows: one arm's rows on one axis. amounts: by rung, what the study's budgets allow.

    It crosses if the intervals (or bounds) of two rungs lie on both sides of 1.
    """
    sided = [(row, side) for row in sorted(rows, key=lambda row: row.rung) if (side := _side(row))]
    for (before, one), (after, other) in pairwise(sided):
        if one != other:
            a, b = math.log(amounts[before.rung]), math.log(amounts[after.rung])
            share = 0.5  # a bound says nothing about where between the two
            if before.value is not None and after.value is not None:
                share = math.log(before.value) / (math.log(before.value) - math.log(after.value))
            return math.exp(a + share * (b - a))
    return None


def _row(
    arm: str,
    rung: int,
    axis: Axis,
    members: Sequence[RunRow],
    curves: Mapping[int, Sequence[Point]],
    baseline: str,
    tuning: Mapping[str, float] | None,
) -> MultiplierRow:
    """One arm at one rung, before the arms are judged together."""
    own, theirs = (tuning[arm], tuning[baseline]) if tuning is not None else (0.0, 0.0)
    ratios: list[tuple[float, Side]] = []
    for run in sorted(members, key=lambda run: run.seed):
        assert run.end is not None
        curve = curves[run.seed]
        needed, side = reach([measured(p, axis) for p in curve], [p.value for p in curve], run.end.value)
        ratios.append(((needed + theirs) / (measured(run.end, axis) + own), side))
    sides = [side for _, side in ratios if side]
    common: dict[str, Any] = {
        "arm": arm,
        "rung": rung,
        "axis": axis,
        "all_in": tuning is not None,
        "seeds": len(ratios),
        "per_seed": [None if side else m for m, side in ratios],
    }
    if not sides:
        e = estimate([m for m, _ in ratios])
        return MultiplierRow(**common, value=e.value, low=e.low, high=e.high, p=e.p)
    mixed = len(set(sides)) > 1
    bound = None if mixed else math.exp(float(np.log([m for m, _ in ratios]).mean()))
    return MultiplierRow(**common, censored="mixed" if mixed else sides[0], bound=bound, censored_seeds=len(sides))


def _judged(row: MultiplierRow, rows: Sequence[MultiplierRow], baseline: str) -> MultiplierRow:
    """The row with its p-value adjusted over the arms at its rung, its significance and its sentence."""
    if row.p is not None:
        family = [other for other in rows if other.rung == row.rung]  # a censored arm counts, as if it came last
        adjusted = holm([1.0 if other.p is None else other.p for other in family])[family.index(row)]
        row = row.model_copy(update={"p": adjusted, "significant": adjusted < 1 - LEVEL})
    return row.model_copy(update={"sentence": sentence(row, baseline)})


def sentence(row: MultiplierRow, baseline: str) -> str:
    """The row in words, as printed."""
    less, more = LESS[row.axis]
    counted = f"{row.seeds} seeds, tuned alike" + (", tuning charged" if row.all_in else "")
    limits = ", counted at their limits" if row.censored_seeds < row.seeds else ""
    if row.censored == "mixed":
        return (
            f"{row.arm} against {baseline} on {row.axis}: no bound (censored: {row.censored_seeds} of {row.seeds} "
            f"seeds lie outside the ladder, on both sides), {counted}"
        )
    if row.bound is not None and row.censored == "above":
        return (
            f"{row.arm} reaches {baseline}'s bits per byte with > {math.floor(round(10 * row.bound, 6)) / 10:.1f}x "
            f"{less} (censored: {row.censored_seeds} of {row.seeds} seeds beyond the top rung{limits}), {counted}"
        )
    if row.bound is not None:
        return (
            f"{row.arm} falls short of {baseline}'s lowest rung: multiplier < "
            f"{math.ceil(round(100 * row.bound, 6)) / 100:.2f}x on {row.axis} "
            f"(censored: {row.censored_seeds} of {row.seeds} seeds{limits}), {counted}"
        )
    value, low, high = (v for v in (row.value, row.low, row.high) if v is not None)
    word = less
    if value < 1:
        value, low, high, word = 1 / value, 1 / high, 1 / low, more
    digits = 1 if min(abs(v - 1) for v in (value, low, high)) >= 0.05 else 2
    span = f"[{low:.{digits}f}, {high:.{digits}f}] at {LEVEL:.0%}".replace("%", " %")
    if not row.significant:
        return f"{row.arm} against {baseline}: {value:.{digits}f}x {word} {span}, {counted}: not significant"
    if word == more:
        return f"{row.arm} needs {value:.{digits}f}x {word} for {baseline}'s bits per byte {span}, {counted}"
    return f"{row.arm} reaches {baseline}'s bits per byte with {value:.{digits}f}x {word} {span}, {counted}"


def _side(row: MultiplierRow) -> int:
    """1: the whole interval (or bound) lies above 1; -1: below; 0: neither."""
    if row.low is not None and row.high is not None:
        return 1 if row.low > 1 else -1 if row.high < 1 else 0
    if row.bound is None:
        return 0
    return {"above": int(row.bound >= 1), "below": -int(row.bound <= 1)}.get(row.censored, 0)

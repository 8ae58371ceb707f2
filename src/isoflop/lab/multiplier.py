"""The multiplier: how many times more of an axis the baseline would have needed for the quality that an arm reached.

For each seed the baseline's rungs give a monotone curve in (log x, y) (``lab.ladder``). ``reach`` inverts it and never
extrapolates: a seed beyond the ladder is censored, known only to lie beyond its limit. With censored seeds there is
only a bound: the geometric mean over all seeds, the censored at their limits.

Log multipliers are paired over seeds. Two things make their mean wrong: the noise of runs, which differs from seed to
seed and is seen in the standard deviation s, and the curve between rungs, which is wrong by the same b in every seed
however many there are. b is estimated by leaving rungs out (``interpolation_error``). The two are independent, so the
mean of n seeds has the variance s^2 / n + b^2, and the interval is

    mean log m  +-  t(n - 1; level) sqrt(s^2 / n + b^2),

Student's t exactly where b is 0. Degrees of freedom stay those of the seeds: that is cautious, as b is a scale and not
a mean of few draws. Measured coverage is in docs/architecture.md.

Every arm at every rung that it ran makes a claim, so Holm's correction is over all of these on an axis (a row that
diverged or is censored counts as p = 1). A row's interval is at the level at which Holm tests it, 95 % of one claim
alone: it excludes 1 exactly if the row is significant.
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

from ..core.errors import DataError
from ..core.significance import LEVEL, half_width, holm
from ..store.results import Axis, MultiplierRow, Point, RunRow, decimals
from . import ladder
from .provenance import Environments, mixture

Side = Literal["", "above", "below"]
AXES: tuple[Axis, ...] = get_args(Axis)
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

    ``parameters`` is the model's size, ``tokens_per_step`` the batch, ``tokenizer`` whatever identifies it, ``device``
    what the runs are made on, as a recipe says it.
    """

    parameters: int
    tokens_per_step: int
    tokenizer: str
    device: str = "cpu"


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
        x: (K,) amounts of the rungs, positive and distinct, in any order; K >= 3.
        y: (K,) quality there, lower is better. A run that diverged has none: leave its rung out.

    Returns:
        (x, ""), or (x of the top rung, "above") if the target lies beyond it: more than that would be needed;
        or (x of the lowest rung, "below") if even the lowest rung is better than the target.

    Raises:
        DataError: amounts or qualities that are no such numbers, or of which there are too few.
    """
    xs, ys = _rungs(x, y)
    reached = _numbers(target, "the quality to be reached", 0)
    u, side = ladder.invert(np.log(xs), ys, reached)
    if side:
        return (float(xs[-1]), "above") if side > 0 else (float(xs[0]), "below")
    at = np.flatnonzero(np.log(xs) == u)  # a rung itself, to the last digit
    return float(xs[at[0]] if len(at) else np.clip(np.exp(u), xs[0], xs[-1])), ""


def interpolation_error(ladders: Iterable[tuple[npt.ArrayLike, npt.ArrayLike]]) -> float:
    """Standard error of a mean log multiplier that comes from interpolating between the baseline's rungs.

    Args:
        ladders: the seeds' (x, y) as for ``reach``. Seeds with fewer rungs than others are left out of it.

    Raises:
        DataError: as ``reach``; also if there is no seed.
    """
    checked = [_rungs(x, y) for x, y in ladders]
    if not checked:
        raise DataError("needs the ladder of at least one seed", where="interpolation_error")
    most = max(len(x) for x, _ in checked)
    whole = [(np.log(x), y) for x, y in checked if len(x) == most]
    return float(ladder.interpolation_error(np.stack([u for u, _ in whole]), np.stack([y for _, y in whole])))


def estimate(multipliers: Sequence[float], level: float = LEVEL, error: float = 0.0) -> Estimate:
    """Geometric mean of the seeds' multipliers with its interval and p-value.

    Args:
        multipliers: (n,) one a seed, finite and positive, none censored; n >= 3.
        error: standard error of the mean log multiplier that the seeds share: ``interpolation_error`` of their ladders.

    Raises:
        DataError: multipliers or an error that are no such numbers, too few seeds, or a level outside (0, 1).
    """
    logs = np.log(_numbers(multipliers, "multiplier", 1, positive=True))
    shared = float(_numbers(error, "error", 0))
    if len(logs) < 3:
        raise DataError(f"an interval needs at least 3 seeds, got {len(logs)}", where="estimate")
    if shared < 0 or not 0 < level < 1:
        raise DataError(f"error {shared:g} must be 0 or more and level {level:g} between 0 and 1", where="estimate")
    mean, half = logs.mean(), half_width(logs, level, shared)
    deviation = math.hypot(logs.std(ddof=1) / math.sqrt(len(logs)), shared)
    if deviation > 0:
        p = 2 * float(stats.t.sf(abs(mean) / deviation, len(logs) - 1))
    else:
        p = 1.0 if mean == 0 else 0.0
    return Estimate(math.exp(mean), math.exp(mean - half), math.exp(mean + half), p)


def _rungs(x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[ladder.Array, ladder.Array]:
    """One seed's rungs in ascending order; DataError if they make no ladder."""
    xs, ys = _numbers(x, "amount", 1, positive=True), _numbers(y, "quality", 1)
    if len(xs) != len(ys):
        raise DataError(f"{len(xs)} amounts and {len(ys)} qualities: one of each a rung", where="ladder")
    if len(xs) < 3:
        raise DataError(f"{len(xs)} rungs, at least 3 are needed", where="ladder")
    order = np.argsort(xs)
    xs, ys = xs[order], ys[order]
    if np.any(np.diff(np.log(xs)) <= 0):
        same = xs[:-1][np.diff(np.log(xs)) <= 0][0]
        raise DataError(f"two rungs have the amount {same:g}", where="ladder", fix="give one seed at a time")
    return xs, ys


def _numbers(values: npt.ArrayLike, what: str, dimensions: int, *, positive: bool = False) -> ladder.Array:
    """Float64 of so many dimensions; DataError that names the first that is missing, infinite or not positive."""
    try:
        found = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"not every {what} is a number ({error})", where="multiplier") from error
    if found.ndim != dimensions:
        raise DataError(f"{what} has shape {found.shape}, wanted {dimensions} dimensions", where="multiplier")
    wrong = ~np.isfinite(found) | ((found <= 0) if positive else False)
    if np.any(wrong):
        place = f"{what} {np.flatnonzero(wrong)[0]}" if dimensions else what
        raise DataError(
            f"{place} is {found[wrong][0]:g}, wanted a {'positive' if positive else 'finite'} number",
            where="multiplier",
            fix="a run that diverged never ranks: leave it out",
        )
    return found


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
    spent = [(r.seed, measured(e, axis)) for r, e in ends if r.arm == baseline and r.role == "evaluation" and e]
    if len(set(spent)) < len(spent):
        return f"two rungs of {baseline} spent the same on it"
    own = facts[baseline]
    for arm, other in facts.items():
        if axis == "hardware_flops" and other.device.partition(":")[0] != "cpu":
            return f"what is counted is what a CPU's kernels execute, and {arm} ran on {other.device}"
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
        Rows with sentence, in order of arms and rungs; p-values and levels are Holm's over all arms and rungs.
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
    ladders = [_ladder(points, axis) for points in curves.values() if len(points) >= 3]
    error = interpolation_error(ladders) if ladders else 0.0
    found = [
        _row(arm, rung, axis, members, curves, baseline, tuning, error)
        for (arm, rung), members in cells.items()
        if len(members) >= 3 and all(m.end is not None and len(curves.get(m.seed, ())) >= 3 for m in members)
    ]
    judged = _judged(found, len(cells))
    return [row.model_copy(update={"sentence": sentence(row, baseline)}) for row in judged]


def crossing(rows: Sequence[MultiplierRow], amounts: Sequence[float]) -> float | None:
    """Where an arm's advantage turns over: the amount C at which its multiplier passes 1, or None if it does not.

    Args:
        rows: one arm's rows on one axis. amounts: by rung, what the study's budgets allow.

    It crosses if the intervals of two rungs lie on both sides of 1; where all seeds are censored the bound stands for
    the interval.
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
    error: float,
) -> MultiplierRow:
    """One arm at one rung, before the arms are judged together."""
    own, theirs = (tuning[arm], tuning[baseline]) if tuning is not None else (0.0, 0.0)
    ratios: list[tuple[float, Side]] = []
    shares = []
    for run in sorted(members, key=lambda run: run.seed):
        assert run.end is not None
        needed, side = reach(*_ladder(curves[run.seed], axis), run.end.value)
        shares.append(needed / (needed + theirs))  # of what the error of ``needed`` is diluted to by tuning
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
        error *= math.fsum(shares) / len(shares)
        e = estimate([m for m, _ in ratios], error=error)
        return MultiplierRow(**common, value=e.value, p=e.p, interpolation=error)
    mixed = len(set(sides)) > 1
    bound = None if mixed else math.exp(float(np.log([m for m, _ in ratios]).mean()))
    return MultiplierRow(**common, censored="mixed" if mixed else sides[0], bound=bound, censored_seeds=len(sides))


def _ladder(points: Sequence[Point], axis: Axis) -> tuple[list[float], list[float]]:
    """Amounts and qualities of one seed's rungs."""
    return [measured(point, axis) for point in points], [point.value for point in points]


def _judged(rows: Sequence[MultiplierRow], comparisons: int) -> list[MultiplierRow]:
    """The rows with adjusted p-values, significance, and intervals at the levels of Holm's correction.

    Of k comparisons Holm tests the best at 5 % / k, the next at 5 % / (k - 1) and so on; from the first that fails on,
    all others stay at that one's level.
    """
    raw = [1.0 if row.p is None else row.p for row in rows] + [1.0] * (comparisons - len(rows))
    adjusted = [1.0 if p is None else p for p in holm(raw)]
    won = sum(p < 1 - LEVEL for p in adjusted)
    place = {index: place for place, index in enumerate(np.argsort(raw, kind="stable").tolist())}
    judged = []
    for index, row in enumerate(rows):
        if row.p is not None:
            level = 1 - (1 - LEVEL) / (comparisons - min(place[index], won))
            e = estimate([m for m in row.per_seed if m is not None], level, row.interpolation)
            changes = {"low": e.low, "high": e.high, "level": level}
            significant = adjusted[index] < 1 - LEVEL
            row = row.model_copy(update={**changes, "p": adjusted[index], "significant": significant})
        judged.append(row)
    return judged


def spoken(row: MultiplierRow) -> tuple[str, str, str]:
    """A row without censored seeds as it is said, never below 1: ("1.14x", "fewer tokens", "[1.09, 1.20] at 95 %")."""
    assert row.value is not None
    assert row.low is not None
    assert row.high is not None
    (less, more), value, low, high = LESS[row.axis], row.value, row.low, row.high
    word = less
    if value < 1:
        value, low, high, word = 1 / value, 1 / high, 1 / low, more
    digits = decimals(low, high)
    level = f"{100 * row.level:.3g} %" + (" (Holm)" if row.level > LEVEL else "")
    return f"{value:.{digits}f}x", word, f"[{low:.{digits}f}, {high:.{digits}f}] at {level}"


def sentence(row: MultiplierRow, baseline: str) -> str:
    """The row in words, as printed."""
    counted = f"{row.seeds} seeds, tuned alike" + (", tuning charged" if row.all_in else "")
    if row.censored:
        return f"{_censored(row, baseline)}, {counted}"
    value, word, span = spoken(row)
    if not row.significant:
        return f"{row.arm} against {baseline}: {value} {word} {span}, {counted}: not significant"
    if word == LESS[row.axis][1]:
        return f"{row.arm} needs {value} {word} for {baseline}'s bits per byte {span}, {counted}"
    return f"{row.arm} reaches {baseline}'s bits per byte with {value} {word} {span}, {counted}"


def _censored(row: MultiplierRow, baseline: str) -> str:
    """What is known of a row some of whose seeds lie beyond the ladder."""
    some = f"{row.censored_seeds} of {row.seeds} seeds"
    against = f"{row.arm} against {baseline} on {row.axis}"
    if row.bound is None:
        return f"{against}: no bound (censored: {some} lie outside the ladder, on both sides)"
    limits = ", counted at their limits" if row.censored_seeds < row.seeds else ""
    least = f"> {math.floor(round(10 * row.bound, 6)) / 10:.1f}x"
    most = f"< {math.ceil(round(100 * row.bound, 6)) / 100:.2f}x"
    if row.censored == "above" and row.bound >= 1:
        return (
            f"{row.arm} reaches {baseline}'s bits per byte with {least} {LESS[row.axis][0]} "
            f"(censored: {some} beyond the top rung{limits})"
        )
    if row.censored == "above":
        return f"{against}: only a bound is known, {least} (censored: {some} beyond the top rung{limits})"
    if _side(row) < 0:
        return f"{row.arm} falls short of {baseline}'s lowest rung: multiplier {most} on {row.axis} (censored: {some})"
    return f"{against}: only a bound is known, {most} (censored: {some} at or below the ladder's start{limits})"


def _side(row: MultiplierRow) -> int:
    """1: the whole interval (or the bound, of seeds all censored) lies above 1; -1: below; 0: neither."""
    if row.low is not None and row.high is not None:
        return 1 if row.low > 1 else -1 if row.high < 1 else 0
    if row.bound is None or row.censored_seeds < row.seeds:
        return 0
    return {"above": int(row.bound >= 1), "below": -int(row.bound <= 1)}.get(row.censored, 0)

"""The multiplier: how many times more of an axis the baseline would have needed for the quality that an arm reached.

For each seed the baseline's rungs give a monotone curve in (log x, y) (``lab.ladder``), which is inverted within the
ladder (``lab.estimate``, which also derives the interval). With censored seeds there is only a bound. Where every seed
is censored, it is the limit that all of them passed. Where some are, each stands at its limit, which can only be short
of its true place; the mean of these is no bound yet (with a fifth of the seeds censored it lies beyond the truth in
half of the studies, or more), so the bound is the end of a 99 % interval around it: true in at least 95 % of simulated
studies.

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

from ..core.device import Device
from ..core.scale import Scale
from ..core.significance import LEVEL, holm
from ..store.records import UNSAID
from ..store.results import Axis, MultiplierRow, Point, RunRow
from .estimate import Estimate, Side, estimate, interpolation_error, interval, reach
from .provenance import Environments, mixture
from .wording import sentence, side_of_one

__all__ = [
    "AXES", "Estimate", "Facts", "Side", "crossing", "estimate", "illegal", "interpolation_error", "measured",
    "multipliers", "reach",
]  # fmt: skip
AXES: tuple[Axis, ...] = get_args(Axis)
BOUND_LEVEL = 0.99
"""Confidence level of the interval whose end is the bound where only some seeds are censored."""
UNDISTURBED = 0.8
"""Share of its time that a run must have had the processor for its seconds to be compared."""


@dataclass(frozen=True)
class Facts:
    """What decides whether two arms can be compared on an axis.

    Args:
        parameters: the model's size.
        tokens_per_step: the batch.
        tokenizer: whatever identifies it.
        device: what the runs are made on, as a recipe says it.

    Example:
        >>> Facts(parameters=10**6, tokens_per_step=1024, tokenizer="bytes").device
        'cpu'
    """

    parameters: int
    tokens_per_step: int
    tokenizer: str
    device: str = "cpu"


def measured(point: Point, axis: Axis) -> float:
    """What a run had spent on ``axis`` at an evaluation."""
    return float(point.step if axis == "steps" else getattr(point, axis))


def illegal(
    axis: Axis,
    facts: Mapping[str, Facts],
    runs: Sequence[RunRow],
    baseline: str,
    environments: Environments | None = None,
) -> str:
    """Why ``axis`` allows no multiplier in this study; "" if it does.

    Args:
        axis: what would be compared.
        facts: by arm, the baseline among them.
        runs: all evaluation runs; those that do not know the digests of their texts are taken to have the others'.
        baseline: the arm that the others are compared with.
        environments: what made the runs, by the key that they name.
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
    if alike := _alike(runs):
        return f"the runs of {alike} ended alike in every seed: nothing is known of their noise"
    own = facts[baseline]
    for arm, other in facts.items():
        if axis == "hardware_flops" and not Device.of(other.device).is_cpu:
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
    if axis == "seconds" and (share := _processor(runs, facts)) < UNDISTURBED:
        return f"other work used the processor beside the runs: they had it {share:.0%} of the time, the worst of them"
    if axis == "seconds" and (mixed := mixture(runs, environments or {})):
        return f"the runs were made by different code or machines ({mixed})"
    return ""


def _processor(runs: Sequence[RunRow], facts: Mapping[str, Facts]) -> float:
    """The least share of its time that a CPU's run had the processor, of those that know it; 1 where none does."""
    known = [(run.cpu_seconds, run.wall_seconds) for run in runs if Device.of(facts[run.arm].device).is_cpu]
    return min((cpu / wall for cpu, wall in known if cpu is not None and wall), default=1.0)


def _alike(runs: Sequence[RunRow]) -> str:
    """The first arm and rung whose evaluation runs, if there are several, all ended with one quality; else ""."""
    values: dict[tuple[str, int], list[float]] = {}
    for run in runs:
        if run.role == "evaluation" and run.end is not None:
            values.setdefault((run.arm, run.rung), []).append(run.end.value)
    alike = (cell for cell, ends in values.items() if len(ends) > 1 and len(set(ends)) == 1)
    return next((f"{arm} at rung {rung}" for arm, rung in alike), "")


def multipliers(
    runs: Iterable[RunRow],
    *,
    baseline: str,
    axis: Axis,
    tuning: Mapping[str, float] | None = None,
    scale: Scale = UNSAID,
) -> list[MultiplierRow]:
    """The multiplier of every arm at every rung that it ran, on one legal axis.

    ``compare`` calls it for every legal axis. Call it yourself on rows that were trained elsewhere; ``illegal`` says
    beforehand whether an axis may be compared.

    Args:
        runs: the study's evaluation runs. A diverged run never ranks: an arm with one at a rung has no row there, and a
            diverged baseline run drops that rung from its seed's curve.
        baseline: the arm that the others are compared with.
        axis: what is compared, one of ``AXES``.
        tuning: arm -> what its equal trials spent on ``axis``: gives the all-in multiplier, which charges them to both
            sides. The baseline's second tuning at its top rung is not charged, which can only favour the baseline.
        scale: what the runs' values are measured on; by default bits per byte, of which fewer are better.

    Returns:
        Rows with sentence, in order of arms and rungs; p-values and levels are Holm's over all arms and rungs.

    Example, an arm that takes three quarters of the compute at each of three seeds:
        >>> def row(arm, rung, seed, flops):
        ...     amounts = {axis: flops for axis in AXES if axis != "steps"}
        ...     end = Point(step=flops, **amounts, value=1 + 100 / (512 * 2**rung) ** 0.5 + seed / 100, stderr=None)
        ...     name = f"{arm}-{rung}-{seed}"
        ...     return RunRow(run=name, recipe_hash=name, arm=arm, rung=rung, seed=seed, role="evaluation",
        ...                   status="done", curve=[end])
        >>> runs = [row("adamw", rung, seed, 512 * 2**rung) for rung in range(3) for seed in (1, 2, 3)]
        >>> runs += [row("muon", 1, seed, 768) for seed in (1, 2, 3)]
        >>> [round(found.value, 2) for found in multipliers(runs, baseline="adamw", axis="flops")]
        [1.33]
    """
    rows = [_descending(run, scale) for run in runs if run.role == "evaluation"]
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
    return [row.model_copy(update={"sentence": sentence(row, baseline, scale.unit)}) for row in judged]


def _descending(run: RunRow, scale: Scale) -> RunRow:
    """The run with values turned so that lower is better: the one place where a scale's direction matters here."""
    curve = [point.model_copy(update={"value": scale.cost(point.value)}) for point in run.curve]
    return run.model_copy(update={"curve": curve})


def crossing(rows: Sequence[MultiplierRow], amounts: Sequence[float]) -> float | None:
    """Where an arm's advantage turns over: the amount C at which its multiplier passes 1, or None if it does not.

    Args:
        rows: one arm's rows on one axis.
        amounts: by rung, what the study's budgets allow.

    It crosses if the intervals of two rungs lie on both sides of 1; where all seeds are censored the bound stands for
    the interval.
    """
    sided = [(row, at) for row in sorted(rows, key=lambda row: row.rung) if (at := side_of_one(row))]
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
        "bounds": _whose_bounds(members, [curves[run.seed] for run in members]),
        "per_seed": [None if side else m for m, side in ratios],
    }
    if not sides:
        error *= math.fsum(shares) / len(shares)
        e = interval(np.log([m for m, _ in ratios]), LEVEL, error)
        return MultiplierRow(**common, value=e.value, p=e.p, interpolation=error)
    if len(set(sides)) > 1:
        return MultiplierRow(**common, censored="mixed", censored_seeds=len(sides))
    logs = np.log([m for m, _ in ratios])
    if len(sides) == len(ratios):
        limit = math.exp(float(logs.mean()))
        return MultiplierRow(**common, censored=sides[0], bound=limit, censored_seeds=len(sides))
    e = interval(logs, BOUND_LEVEL, error)
    limit = e.low if sides[0] == "above" else e.high
    return MultiplierRow(**common, censored=sides[0], bound=limit, bound_level=BOUND_LEVEL, censored_seeds=len(sides))


def _whose_bounds(
    members: Sequence[RunRow], ladders: Sequence[Sequence[Point]]
) -> Literal["", "arm", "baseline", "both"]:
    """Which side's qualities are bounds, of those that a row compares."""
    arm = any(run.end is not None and run.end.bound for run in members)
    baseline = any(point.bound for points in ladders for point in points)
    return "both" if arm and baseline else "arm" if arm else "baseline" if baseline else ""


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
            e = interval(np.log([m for m in row.per_seed if m is not None]), level, row.interpolation)
            changes = {"low": e.low, "high": e.high, "level": level}
            significant = adjusted[index] < 1 - LEVEL
            row = row.model_copy(update={**changes, "p": adjusted[index], "significant": significant})
        judged.append(row)
    return judged

"""What a study could see before it is run: the smallest multiplier that is found, and what more seeds would add.

Seeds tell the noise, so it is taken from studies of the same baseline that exist; without any, from the study's
``[expect]``. Either is said with the answer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..core.errors import DataError, IsoflopError
from ..core.recipe import Recipe
from ..core.rng import Rng
from ..core.significance import LEVEL, half_width
from ..store.results import STUDY, StudyResult
from .estimate import interpolation_error
from .study import Study

POWER = 0.8
DRAWS = 40_000
"""Simulated studies; a chance of 80 % is right to 0.2 %."""


@dataclass(frozen=True)
class Noise:
    """What a plan assumes of the runs.

    Args:
        seed_sd: standard deviation over seeds of a run's quality, beside another run of the seed, in the metric's unit.
        per_doubling: what doubling the budget gains the baseline, in the same unit.
        curve: standard error of a mean log multiplier that comes from the curve between rungs.
        source: where this is known from.

    Example:
        >>> noise = Noise(seed_sd=0.02, per_doubling=0.15)
        >>> round(noise.log_sd, 3)
        0.131
    """

    seed_sd: float
    per_doubling: float
    curve: float = 0.0
    source: str = "the study's [expect], for no study of this baseline exists yet"

    @property
    def log_sd(self) -> float:
        """Standard deviation of one seed's log multiplier."""
        return math.sqrt(2) * self.seed_sd / (self.per_doubling / math.log(2))

    def text(self, unit: str) -> str:
        """The assumption in words."""
        told = (
            f"assumed: two runs of a seed differ by {self.seed_sd * math.sqrt(2):.2g} {unit} (standard deviation over "
            f"seeds), doubling the budget gains {self.per_doubling:.2g}"
        )
        curve = f", the curve between rungs is wrong by {self.curve:.1%}" if self.curve else ""
        return f"{told}{curve}; from {self.source}"


@dataclass(frozen=True)
class Sight:
    """What an arm's multiplier on FLOPs at a rung could show.

    Attributes:
        low: the least multiplier that can be measured, at the lowest rung of the baseline's ladder.
        high: the largest that can be measured, at its top rung. A seed outside leaves the row with a bound.
        smallest: the least multiplier that is found, significant, with a chance of 80 %; None if none is. Holm's
            correction is taken at its first, hardest step.
        bounded: the chance of no more than a bound if the arm is just as good as the baseline.

    Example:
        >>> Sight("muon", 0, low=0.5, high=4.0, smallest=1.3, bounded=0.1).smallest
        1.3
    """

    arm: str
    rung: int
    low: float
    high: float
    smallest: float | None
    bounded: float


def noise_of(study: Study, root: Path | None) -> Noise:
    """What earlier studies of the same baseline below ``root`` show, the newest; else what the study expects."""
    found = []
    for path in sorted(root.glob(f"*/{STUDY}")) if root is not None else ():
        with suppress(IsoflopError):
            result = StudyResult.read(path)
            if _same_baseline(study, result) and (noise := shown_by(result, str(path))) is not None:
                found.append((result.created, noise))
    if found:
        return max(found, key=lambda pair: pair[0])[1]
    return Noise(study.expect.seed_sd, study.expect.per_doubling)


def shown_by(result: StudyResult, source: str) -> Noise | None:
    """The noise of a result's runs; None of fewer than three seeds or rungs, or where doubling gained nothing.

    It is that of its arms' multipliers, whose runs share seed, data and budget with the baseline's; without any, of
    one rung beside the next, which shares less and is noisier.
    """
    ends = {
        (run.seed, run.rung): run.end
        for run in result.runs
        if run.role == "evaluation" and run.arm == result.baseline and run.end is not None
    }
    rungs = range(len(result.rungs))
    seeds = [seed for seed in sorted({seed for seed, _ in ends}) if all((seed, rung) in ends for rung in rungs)]
    if len(seeds) < 3 or len(rungs) < 3:
        return None
    quality = np.asarray([[result.scale.cost(ends[seed, rung].value) for rung in rungs] for seed in seeds])
    gains = quality[:, :-1] - quality[:, 1:]
    sd, gain = math.sqrt(float(gains.var(axis=0, ddof=1).mean()) / 2), float(gains.mean())
    if (own := _spread(result)) is not None:
        sd = own * gain / math.log(2) / math.sqrt(2)
    if gain <= 0 or sd == 0:
        return None
    with suppress(DataError):
        spent = [[float(ends[seed, rung].flops) for rung in rungs] for seed in seeds]
        curve = interpolation_error(zip(spent, quality, strict=True))
        return Noise(sd, gain, curve, f"the {len(seeds)} seeds of {source}")
    return None


def sights(
    study: Study, flops: Mapping[tuple[str, int], int], noise: Noise, seeds: int | None = None
) -> tuple[Sight, ...]:
    """What every arm could show at every rung that it runs at.

    Args:
        study: what is planned.
        flops: by arm and rung, of one evaluation run.
        noise: what is assumed of the runs.
        seeds: of the evaluation; default: the study's.
    """
    ends = flops[study.baseline, 0], flops[study.baseline, study.top]
    rows = [(arm, rung) for arm in study.arms for rung in study.rungs_of(arm)]
    count = len(study.seeds) if seeds is None else seeds
    found = []
    for row in rows:
        low, high = (end / flops[row] for end in ends)
        found.append(Sight(*row, low, high, *chances(noise.log_sd, count, len(rows), low, high, noise.curve)))
    return tuple(found)


def least(seen: Sequence[Sight]) -> float | None:
    """The effect that every row finds; None if there is a row that finds none."""
    smallest = [sight.smallest for sight in seen]
    return None if None in smallest or not smallest else max(value for value in smallest if value is not None)


def chances(
    sd: float, seeds: int, comparisons: int, low: float, high: float, curve: float = 0.0
) -> tuple[float | None, float]:
    """The smallest multiplier that is found with a chance of 80 %, and the chance of only a bound if it is 1.

    Found: no seed censored, and the interval at the level of the first of so many ``comparisons`` above 1. None if no
    multiplier is that likely to be: more seeds narrow the interval, but each of them may be censored.

    Args:
        sd: standard deviation of one seed's log multiplier, normal.
        seeds: evaluation runs of an arm at a rung.
        comparisons: rows that Holm's correction is over.
        low: the least multiplier that the ladder can measure; one below it is only a bound.
        high: the largest that it can measure.
        curve: standard error of the mean log multiplier that all seeds share.

    Example:
        >>> smallest, bounded = chances(sd=0.1, seeds=3, comparisons=1, low=0.5, high=4.0)
        >>> 1 < smallest < 2, bounded < 0.01
        (True, True)
    """
    noise = sd * Rng(0)("power").at().standard_normal((DRAWS, seeds))
    noise += curve * Rng(0)("curve").at().standard_normal((DRAWS, 1))
    half = half_width(noise, 1 - (1 - LEVEL) / comparisons, curve)
    first, last = math.log(low) - noise.min(axis=1), math.log(high) - noise.max(axis=1)
    bounded = 1 - float(np.mean((first <= 0) & (last >= 0)))
    found_from = np.maximum(first, half - noise.mean(axis=1))  # the log multipliers at which a draw is found
    some = found_from <= last
    starts, stops = np.sort(found_from[some]), np.sort(last[some])
    found = np.arange(1, len(starts) + 1) - np.searchsorted(stops, starts)
    enough = np.flatnonzero(found >= POWER * DRAWS)
    return (math.exp(starts[enough[0]]) if len(enough) else None), bounded


def _spread(result: StudyResult) -> float | None:
    """Standard deviation over seeds of the arms' log multipliers on FLOPs, pooled; None where every row is censored."""
    rows = [row.per_seed for row in result.multipliers if row.axis == "flops" and not row.all_in]
    known = [np.log([m for m in row if m is not None]) for row in rows if len(row) >= 3 and None not in row]
    return math.sqrt(float(np.mean([logs.var(ddof=1) for logs in known]))) if known else None


def _same_baseline(study: Study, result: StudyResult) -> bool:
    """Whether a result's baseline is trained and measured as the study's, but for budget, seed and tuned value."""
    text = result.recipes.get(result.baseline, "")
    if not text:
        return False
    free = ("budget", "seed", study.tuning.hyper)
    differences = study.base(study.baseline).differences(Recipe.from_toml(text))
    return all(
        any(f"{path}.".startswith(f"{key}.") for key in free) for path in (d.partition(":")[0] for d in differences)
    )

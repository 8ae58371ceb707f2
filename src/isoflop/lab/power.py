"""What a study could see before it is run: the smallest multiplier that is found, and what more seeds would add.

Seeds tell the noise, so it is taken from studies of the same baseline that exist; without any, from the study's
``[expect]``. Either is said with the answer.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..core.errors import DataError, IsoflopError
from ..core.recipe import Recipe
from ..core.rng import Rng
from ..core.significance import LEVEL, half_width
from ..store.results import STUDY, StudyResult
from .estimate import interpolation_error
from .study import Study

POWER = 0.8
DRAWS = 10_000
"""Simulated studies; a chance of 80 % is right to 0.4 %."""
TRIED = 48
"""Multipliers that are tried for the smallest that is found."""


@dataclass(frozen=True)
class Noise:
    """What a plan assumes of the runs.

    Args:
        seed_sd: standard deviation over seeds of a run's quality, beside another run of the seed, in the metric's unit.
        per_doubling: what doubling the budget gains the baseline, in the same unit.
        curve: standard error of a mean log multiplier that comes from the curve between rungs.
        source: where this is known from.
        bend: how fast the gain falls along the ladder: by exp(-bend) for each e-fold of the budget.

    Example:
        >>> noise = Noise(seed_sd=0.02, per_doubling=0.15)
        >>> round(noise.log_sd, 3)
        0.131
    """

    seed_sd: float
    per_doubling: float
    curve: float = 0.0
    source: str = "the study's [expect], for no study of this baseline exists yet"
    bend: float = 0.0

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
        return Noise(sd, gain, curve, f"the {len(seeds)} seeds of {source}", bend=bend_of(gains.mean(axis=0), spent[0]))
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
        seen = chances(noise.log_sd, count, len(rows), low, high, noise.curve, noise.bend)
        found.append(Sight(*row, low, high, *seen))
    return tuple(found)


def least(seen: Sequence[Sight]) -> float | None:
    """The effect that every row finds; None if there is a row that finds none."""
    smallest = [sight.smallest for sight in seen]
    return None if None in smallest or not smallest else max(value for value in smallest if value is not None)


def chances(
    sd: float, seeds: int, comparisons: int, low: float, high: float, curve: float = 0.0, bend: float = 0.0
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
        bend: how fast the baseline's gain falls along the ladder, as ``Noise`` has it: what is noise of the quality is
            the more noise of the multiplier the farther up the baseline must go.

    Example:
        >>> smallest, bounded = chances(sd=0.1, seeds=3, comparisons=1, low=0.5, high=4.0)
        >>> 1 < smallest < 2, bounded < 0.01
        (True, True)
    """
    chance = Chance(sd, seeds, comparisons, low, high, curve, bend)
    tried = np.exp(np.linspace(0.0, math.log(high), TRIED)[1:]).tolist() if high > 1 else []
    before = 1.0
    for multiplier in tried:
        if chance.found(multiplier) >= POWER:
            return _refined(chance, before, multiplier), chance.bounded
        before = multiplier
    return None, chance.bounded


@dataclass(frozen=True)
class Chance:
    """How likely a study is to find an effect: noise of quality carried through a baseline that gains ever less.

    With u = log m, quality falls as v(u) = (1 - exp(-bend u)) / bend, whose slope is 1 at the arm's own place; a seed's
    u is then v^-1(v(log m) + noise). At a rung the noise is that of two runs; between rungs the curve is a mean of
    several, and quieter: halfway a cubic weighs them 9/16, 9/16, -1/16, -1/16, whose squares sum to .64. At a share t
    of the way the curve's variance is 1 - 1.44 t (1 - t) of a run's, smeared by the noise itself.

    Args:
        sd: standard deviation of one seed's log multiplier at m = 1.
        seeds: evaluation runs of an arm at a rung.
        comparisons: rows that Holm's correction is over.
        low: the least multiplier that the ladder can measure.
        high: the largest.
        curve: standard error of the mean log multiplier that all seeds share.
        bend: how fast the gain falls.

    Example:
        >>> chance = Chance(sd=0.1, seeds=5, comparisons=1, low=0.5, high=4.0, bend=0.3)
        >>> chance.found(1.05) < 0.5 < 0.9 < chance.found(1.4)
        True
    """

    sd: float
    seeds: int
    comparisons: int
    low: float
    high: float
    curve: float = 0.0
    bend: float = 0.0

    @functools.cached_property
    def noise(self) -> npt.NDArray[np.float64]:
        """Of quality, (draws, seeds)."""
        return np.asarray(self.sd * Rng(0)("power").at().standard_normal((DRAWS, self.seeds)))

    @functools.cached_property
    def curves(self) -> npt.NDArray[np.float64]:
        """Errors of the curve, (draws, 1), which all seeds of a study share."""
        return np.asarray(self.curve * Rng(0)("curve").at().standard_normal((DRAWS, 1)))

    def drawn(self, multiplier: float) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        """Log multipliers of the seeds, and which studies have one off the ladder."""
        noise = self.noise * math.sqrt(self._variance(multiplier) / self._variance(1.0))
        if self.bend > 0:
            v = -math.expm1(-self.bend * math.log(multiplier)) / self.bend + noise
            u = -np.log(np.maximum(1 - self.bend * v, 1e-12)) / self.bend + self.curves
        else:
            u = math.log(multiplier) + noise + self.curves
        return u, np.any((u < math.log(self.low)) | (u > math.log(self.high)), axis=1)

    @property
    def bounded(self) -> float:
        """The chance of no more than a bound if the arm is just as good as the baseline."""
        return float(np.mean(self.drawn(1.0)[1]))

    def _variance(self, multiplier: float) -> float:
        """Of the difference of two runs, in units of one run's, at a multiplier's place between the rungs."""
        turn = 2 * math.pi * math.log2(multiplier / self.low)
        smeared = math.exp(-2 * (math.pi * self.sd / math.log(2)) ** 2)  # of t (1 - t) = 1/6 - cos(2 pi t) / pi^2 - ...
        return 2 - 1.44 * (1 / 6 - smeared * math.cos(turn) / math.pi**2)

    def found(self, multiplier: float) -> float:
        """The chance that no seed is censored and the corrected interval lies on the effect's side of 1."""
        u, off = self.drawn(multiplier)
        half = half_width(u, 1 - (1 - LEVEL) / self.comparisons, self.curve)
        mean = u.mean(axis=1) * (1 if multiplier >= 1 else -1)
        return float(np.mean((mean > half) & ~off))


def _refined(chance: Chance, short: float, enough: float) -> float:
    """The multiplier between two at which an effect begins to be found."""
    for _ in range(12):
        middle = math.sqrt(short * enough)
        short, enough = (short, middle) if chance.found(middle) >= POWER else (middle, enough)
    return enough


def bend_of(gains: npt.NDArray[np.float64], spent: Sequence[float]) -> float:
    """How fast the gains of successive rungs fall, per e-fold of what they spent; 0 where they do not."""
    if np.any(gains <= 0):
        return 0.0
    places = np.log(spent)
    between = (places[1:] + places[:-1]) / 2
    return max(0.0, -float(np.polyfit(between, np.log(gains), 1)[0]))


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

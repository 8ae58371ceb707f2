"""What a study would cost on this machine and what it could see, before any of its runs starts."""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..core.digests import digest
from ..core.errors import NumericsError
from ..core.files import jsonable
from ..core.reading import user_path
from ..core.recipe import Budget
from ..core.rng import Rng
from ..core.significance import LEVEL, half_width
from ..ledger.budgets import step_cost, steps_within
from ..store.environment import process
from ..store.machine import once
from ..store.names import CACHE
from ..store.results import RunRow
from ..store.run import Run
from .compare import trial_runs
from .study import Study
from .tuning import Trial
from .workers import Assignment, Executor, LocalWorkers

TIMED_STEPS = 24
POWER = 0.8
DRAWS = 40_000
"""Simulated studies; a chance of 80 % is right to 0.2 %."""


@dataclass(frozen=True)
class Speed:
    """How fast an arm runs here.

    Args:
        flops_per_second: model FLOP/s in training.
        evaluation_seconds: seconds of one evaluation.
        setup_seconds: seconds of setting a run up.
        cpu_share: processor time over wall-clock time: below 1 where others use the machine too.
        spent_flops: model FLOPs of the short runs that found it out, which are in no study's bill.
        spent_seconds: processor seconds of the same.
    """

    flops_per_second: float
    evaluation_seconds: float
    setup_seconds: float = 0.0
    cpu_share: float = 1.0
    spent_flops: int = 0
    spent_seconds: float = 0.0

    def seconds(self, flops: float, evaluations: int) -> float:
        """Wall-clock time of one run."""
        return self.setup_seconds + flops / self.flops_per_second + evaluations * self.evaluation_seconds


UNTIMED = Speed(math.nan, math.nan)
"""The speed of an arm whose device is not on this machine."""


@dataclass(frozen=True)
class PlannedRuns:
    """Equal runs of the plan.

    Args:
        role: "tuning" or "evaluation".
        arm: the baseline or an arm, by name.
        rung: index into the ladder.
        runs: how many there are.
        steps: optimizer steps of one.
        flops: model FLOPs of one.
        seconds: wall-clock seconds of one; NaN: untimed.
        cpu_seconds: processor seconds of one; NaN: untimed.
    """

    role: str
    arm: str
    rung: int
    runs: int
    steps: int
    flops: int
    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class Sight:
    """What an arm's multiplier on FLOPs at a rung could show.

    Attributes:
        low: the least multiplier that can be measured, at the lowest rung of the baseline's ladder.
        high: the largest that can be measured, at its top rung. A seed outside leaves the row with a bound.
        smallest: the least multiplier that is found, significant, with a chance of 80 %; None if none is. Holm's
            correction is taken at its first, hardest step.
        bounded: the chance of no more than a bound if the arm is just as good as the baseline.
    """

    arm: str
    rung: int
    low: float
    high: float
    smallest: float | None
    bounded: float


@dataclass(frozen=True)
class StudyPlan:
    """A study's runs, what they cost here, and what each row on FLOPs could see if the study's expectations hold."""

    study: str
    batches: tuple[PlannedRuns, ...]
    workers: int
    sights: tuple[Sight, ...]
    spare: int
    """Runs that may be added because an optimum lies at the edge of its grid."""
    spare_cpu_seconds: float
    """CPU-seconds of those runs."""
    preflight: str = ""
    """What timing the arms spent, in words; "" if none was timed."""

    @property
    def runs(self) -> int:
        return sum(batch.runs for batch in self.batches)

    @property
    def flops(self) -> int:
        return sum(batch.runs * batch.flops for batch in self.batches)

    @property
    def cpu_seconds(self) -> float:
        return sum(batch.runs * batch.cpu_seconds for batch in self.batches)

    @property
    def minutes(self) -> float:
        """Wall-clock time with all workers busy."""
        return sum(batch.runs * batch.seconds for batch in self.batches) / self.workers / 60

    def to_json(self) -> dict[str, Any]:
        """JSON values; times that are not known are None."""
        totals = {"runs": self.runs, "flops": self.flops, "cpu_seconds": self.cpu_seconds, "minutes": self.minutes}
        return dict(jsonable({**asdict(self), **totals}))

    def text(self) -> str:
        """The plan as a table with a summary."""
        untimed = math.isnan(self.cpu_seconds)
        head = f"{'phase':<11}{'arm':<20}{'rung':>5}{'runs':>6}{'steps':>9}{'FLOPs each':>13}{'s each':>9}"
        lines = [
            f"{b.role:<11}{b.arm:<20}{b.rung:>5}{b.runs:>6}{b.steps:>9,}{b.flops:>13.3e}"
            + (f"{'-':>9}" if untimed else f"{b.seconds:>9.1f}")
            for b in self.batches
        ]
        total = f"{self.runs} runs, {self.flops:.3e} FLOPs"
        edge = f"up to {self.spare} runs more if an optimum lies at an edge"
        if untimed:
            total += f", not timed: their device is not on this machine; {edge}"
        else:
            total += (
                f", about {self.minutes:.1f} minutes with {self.workers} workers ({self.cpu_seconds:.0f} CPU-seconds); "
                f"{edge} ({self.spare_cpu_seconds:.0f} CPU-seconds)"
            )
        if self.preflight:
            total += f"\n{self.preflight}"
        return "\n".join([head, *lines, total, *self._outlook()])

    def _outlook(self) -> list[str]:
        lines = [f"{'on FLOPs':<11}{'arm':<20}{'rung':>5}{'measurable':>18}{'smallest':>10}{'only a bound':>14}"]
        for sight in self.sights:
            smallest = "none" if sight.smallest is None else f"{sight.smallest:.2f}x"
            measurable = f"{sight.low:.2f}x to {sight.high:.2f}x"
            lines.append(f"{'':11}{sight.arm:<20}{sight.rung:>5}{measurable:>18}{smallest:>10}{sight.bounded:>14.0%}")
        lines.append(
            f"smallest: found with a chance of {POWER:.0%}; only a bound: the chance of it if the arm is just as good, "
            "because a seed lies off the ladder"
        )
        above = {sight.arm for sight in self.sights if sight.rung > 0}
        lines += [
            f"{sight.arm} runs only at rung 0, below which the baseline has no rung: "
            f"arms.{sight.arm}.rungs = [1] would leave room"
            for sight in self.sights
            if sight.arm not in above and sight.bounded >= 1 - POWER
        ]
        return lines


def plan(
    study: Study,
    root: Path | str = "runs",
    *,
    workers: int = 2,
    executor: Executor | None = None,
) -> StudyPlan:
    """The whole list of a study's runs and their cost; only a few steps of each arm are run, to time them.

    Args:
        study: what is planned.
        root: directory of runs; the speeds are remembered in its cache.
        workers: processes that would run at once.
        executor: times the arms instead of local worker processes. Without it, and without the study's device on this
            machine, nothing is run and no time is known.

    Raises:
        NumericsError: an arm diverges within the steps that time it.
    """
    if executor is not None:
        speeds: Mapping[str, Speed] = preflight(study, executor)
    elif _devices_here(study):
        speeds = speeds_here(study, user_path(root), workers)
    else:
        speeds = dict.fromkeys(study.everyone, UNTIMED)
    return priced(study, speeds, workers)


def priced(study: Study, speeds: Mapping[str, Speed], workers: int) -> StudyPlan:
    """The plan at given speeds."""
    batches = []
    for arm in study.everyone:
        grid = study.grid(arm)
        batches.append(_batch(study, "tuning", arm, 0, len(grid) * len(study.tuning.seeds), speeds[arm]))
    top = study.tuning.top_points or len(study.grid(study.baseline))
    again = top * len(study.tuning.seeds)
    batches.append(_batch(study, "tuning", study.baseline, study.top, again, speeds[study.baseline]))
    for arm in study.everyone:
        for rung in study.rungs_of(arm):
            batches.append(_batch(study, "evaluation", arm, rung, len(study.seeds), speeds[arm]))
    searched = [b for b in batches if b.role == "tuning" and not (b.rung and study.tuning.top_points)]
    each = study.tuning.extensions * len(study.tuning.seeds)
    spare, spare_seconds = each * len(searched), each * sum(batch.cpu_seconds for batch in searched)
    return StudyPlan(study.name, tuple(batches), workers, sights(study, batches), spare, spare_seconds, _spent(speeds))


def sights(study: Study, batches: Sequence[PlannedRuns]) -> tuple[Sight, ...]:
    """What every arm could show at every rung that it runs at."""
    flops = {(b.arm, b.rung): b.flops for b in batches if b.role == "evaluation"}
    ends = flops[study.baseline, 0], flops[study.baseline, study.top]
    rows = [(arm, rung) for arm in study.arms for rung in study.rungs_of(arm)]
    sd = math.sqrt(2) * study.expect.seed_sd / (study.expect.per_doubling / math.log(2))
    found = []
    for row in rows:
        low, high = (end / flops[row] for end in ends)
        found.append(Sight(*row, low, high, *chances(sd, len(study.seeds), len(rows), low, high)))
    return tuple(found)


def speeds_here(study: Study, root: Path, workers: int) -> dict[str, Speed]:
    """The arms' speeds with so many worker processes on this processor: measured once for the same short runs.

    They are remembered in ``<root>/cache/preflight.json`` (delete it to measure anew); the runs are not kept.
    """
    first, timed = _short_runs(study)
    path = root / CACHE / "preflight.json"
    key = digest([process(), _device_names(study), workers, {job.arm: job.recipe.hash for job in timed}])

    def measure() -> dict[str, Speed]:
        places = [root / f"{job.recipe.name}-{job.recipe.id}" for job in (first, *timed)]
        _remove(places)  # left by a kill, and timed beside who knows how many others
        try:
            with LocalWorkers(root, workers) as local:
                return preflight(study, local)
        finally:
            _remove(places)

    return once(path, key, dict[str, Speed], measure)


def preflight(study: Study, executor: Executor) -> dict[str, Speed]:
    """Time a few steps and an evaluation of every arm, all at once as in the study, after the corpus was prepared.

    Raises NumericsError if an arm diverges within them.
    """
    first, timed = _short_runs(study)
    prepared = list(executor([first]))  # fills the cache, so that the runs that are timed find it
    speeds = {}
    for row in executor(timed):
        rows = [row, *(prepared if row.arm == study.baseline else ())]
        flops = sum(int(amounts.get("flops", 0)) for each in rows for amounts in each.ledger.values())
        seconds = sum(each.cpu_seconds or 0.0 for each in rows)
        speeds[row.arm] = replace(speed_of(row), spent_flops=flops, spent_seconds=seconds)
    return speeds


def speed_of(row: RunRow) -> Speed:
    """The speed that a short run with two evaluations shows; what came before the first also warmed up.

    Raises NumericsError if it diverged.
    """
    if row.end is None:
        raise NumericsError(
            f"diverged within the {TIMED_STEPS} steps that time it",
            where=f"{row.arm}, {', '.join(f'{key} {value:g}' for key, value in row.hyper.items())}",
            fix="lower the arm's grid of tuned values",
        )
    first, last = row.curve[0], row.curve[-1]
    evaluating = row.ledger["evaluation"]["seconds"]
    speed = Speed(
        flops_per_second=(last.flops - first.flops) / (last.seconds - first.seconds),
        evaluation_seconds=evaluating / len(row.curve),
    )
    if row.wall_seconds is None or row.cpu_seconds is None:
        return speed
    setup = max(row.wall_seconds - last.seconds - evaluating, 0.0)
    return replace(speed, setup_seconds=setup, cpu_share=row.cpu_seconds / row.wall_seconds)


def chances(sd: float, seeds: int, comparisons: int, low: float, high: float) -> tuple[float | None, float]:
    """The smallest multiplier that is found with a chance of 80 %, and the chance of only a bound if it is 1.

    Found: no seed censored, and the interval at the level of the first of so many ``comparisons`` above 1. None if no
    multiplier is that likely to be: more seeds narrow the interval, but each of them may be censored.

    Args:
        sd: standard deviation of one seed's log multiplier, normal.
        seeds: evaluation runs of an arm at a rung.
        comparisons: rows that Holm's correction is over.
        low: the least multiplier that the ladder can measure; one below it is only a bound.
        high: the largest that it can measure.
    """
    noise = sd * Rng(0)("power").at().standard_normal((DRAWS, seeds))
    half = half_width(noise, 1 - (1 - LEVEL) / comparisons)
    first, last = math.log(low) - noise.min(axis=1), math.log(high) - noise.max(axis=1)
    bounded = 1 - float(np.mean((first <= 0) & (last >= 0)))
    found_from = np.maximum(first, half - noise.mean(axis=1))  # the log multipliers at which a draw is found
    some = found_from <= last
    starts, stops = np.sort(found_from[some]), np.sort(last[some])
    found = np.arange(1, len(starts) + 1) - np.searchsorted(stops, starts)
    enough = np.flatnonzero(found >= POWER * DRAWS)
    return (math.exp(starts[enough[0]]) if len(enough) else None), bounded


def _batch(study: Study, role: str, arm: str, rung: int, runs: int, speed: Speed) -> PlannedRuns:
    recipe = study.run_recipe(arm, rung, study.seeds[0])
    cost = step_cost(recipe)
    steps = steps_within(recipe.budget, cost)
    flops = cost.run(steps).flops
    seconds = speed.seconds(flops, recipe.train.evaluations)
    return PlannedRuns(role, arm, rung, runs, steps, flops, seconds, speed.cpu_share * seconds)


def _spent(speeds: Mapping[str, Speed]) -> str:
    flops, seconds = (sum(getattr(s, key) for s in speeds.values()) for key in ("spent_flops", "spent_seconds"))
    if not flops:
        return ""
    return f"timing the arms once took {flops:.3e} FLOPs and {seconds:.0f} CPU-seconds, outside the bill"


def _devices_here(study: Study) -> bool:
    """Whether every arm's device is on this machine."""
    devices = _other_devices(study)
    if not devices:
        return True
    from ..train.devices import has_device

    return all(map(has_device, devices))


def _device_names(study: Study) -> list[str]:
    """Full names of the study's devices beside the processor."""
    devices = _other_devices(study)
    if not devices:
        return []
    from ..train.devices import device_name

    return [device_name(device) for device in devices]


def _other_devices(study: Study) -> list[str]:
    """The arms' devices, but for the processor: those that only torch knows about."""
    return sorted({study.base(arm).train.device for arm in study.everyone} - {"cpu"})


def _short_runs(study: Study) -> tuple[Assignment, list[Assignment]]:
    """The run that prepares the corpus, and every arm's that is timed."""
    return _short(study, study.baseline, 2), [_short(study, arm, TIMED_STEPS) for arm in study.everyone]


def _remove(directories: Iterable[Path]) -> None:
    """Remove run directories, none that another process works on (UsageError)."""
    for directory in directories:
        with Run.read(directory).lock() if (directory / "resolved.json").is_file() else contextlib.nullcontext():
            shutil.rmtree(directory, ignore_errors=True)


def _short(study: Study, arm: str, steps: int) -> Assignment:
    """A run of a few steps with two evaluations."""
    grid = study.grid(arm)
    (job,) = trial_runs(study, Trial(arm, 0, grid[len(grid) // 2]))[:1]
    train = job.recipe.train.model_copy(update={"evaluations": 2})
    recipe = job.recipe.having(name=f"{study.name}-preflight"[:64], budget=Budget(steps=steps), train=train)
    return Assignment(recipe, arm, 0, "tuning", job.hyper)

"""What a study would cost on this machine and what it could see, before any of its runs starts."""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from scipy import optimize, stats

from ..core.digests import digest
from ..core.errors import NumericsError
from ..ledger.budgets import step_cost, steps_within
from ..store.environment import cpu_model
from ..store.machine import once
from ..store.results import RunRow
from ..store.run import Run
from .compare import trial_runs
from .multiplier import LEVEL
from .study import Study
from .tuning import Trial
from .workers import Assignment, Executor, LocalWorkers

TIMED_STEPS = 24
POWER = 0.8


@dataclass(frozen=True)
class Speed:
    """How fast an arm runs here: FLOP/s in training, seconds of one evaluation and of setting a run up.

    ``cpu_share`` is processor time over wall-clock time: below 1 where others use the machine too.
    """

    flops_per_second: float
    evaluation_seconds: float
    setup_seconds: float = 0.0
    cpu_share: float = 1.0

    def seconds(self, flops: float, evaluations: int) -> float:
        """Wall-clock time of one run."""
        return self.setup_seconds + flops / self.flops_per_second + evaluations * self.evaluation_seconds


@dataclass(frozen=True)
class Batch:
    """Equal runs of the plan; ``steps``, ``flops``, wall-clock and processor ``seconds`` are of one of them."""

    role: str
    arm: str
    rung: int
    runs: int
    steps: int
    flops: int
    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class Plan:
    """A study's runs, what they cost here, and the smallest multiplier that it would call significant.

    ``smallest`` is found with a chance of 80 % if the study's expectations hold; censoring and Holm's correction (at
    its first, hardest step) are allowed for.
    """

    study: str
    batches: tuple[Batch, ...]
    workers: int
    smallest: float
    spare: int
    """Runs that may be added because an optimum lies at the edge of its grid."""

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
        totals = {"runs": self.runs, "flops": self.flops, "cpu_seconds": self.cpu_seconds, "minutes": self.minutes}
        return {**asdict(self), "batches": [asdict(batch) for batch in self.batches], **totals}

    def text(self) -> str:
        """The plan as a table with a summary."""
        head = f"{'phase':<11}{'arm':<20}{'rung':>5}{'runs':>6}{'steps':>9}{'FLOPs each':>13}{'s each':>9}"
        lines = [
            f"{b.role:<11}{b.arm:<20}{b.rung:>5}{b.runs:>6}{b.steps:>9,}{b.flops:>13.3e}{b.seconds:>9.1f}"
            for b in self.batches
        ]
        total = (
            f"{self.runs} runs, {self.flops:.3e} FLOPs, about {self.minutes:.1f} minutes with {self.workers} workers "
            f"({self.cpu_seconds:.0f} CPU-seconds); up to {self.spare} runs more if an optimum lies at an edge"
        )
        smallest = f"smallest multiplier that it would find with a chance of {POWER:.0%}: {self.smallest:.2f}x"
        return "\n".join([head, *lines, total, smallest])


def plan(
    study: Study,
    root: Path | str = "runs",
    *,
    workers: int = 2,
    executor: Executor | None = None,
) -> Plan:
    """The whole list of a study's runs and their cost; only a few steps of each arm are run, to time them.

    ``executor`` carries these out instead of local worker processes.
    """
    speeds = speeds_here(study, Path(root), workers) if executor is None else preflight(study, executor)
    return priced(study, speeds, workers)


def priced(study: Study, speeds: Mapping[str, Speed], workers: int) -> Plan:
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
    searches = len(study.everyone) + (0 if study.tuning.top_points else 1)
    spare = study.tuning.extensions * searches * len(study.tuning.seeds)
    sd = math.sqrt(2) * study.expect.seed_sd / (study.expect.per_doubling / math.log(2))
    smallest = smallest_multiplier(sd, len(study.seeds), len(study.arms))
    return Plan(study.name, tuple(batches), workers, smallest, spare)


def speeds_here(study: Study, root: Path, workers: int) -> dict[str, Speed]:
    """The arms' speeds with so many worker processes on this processor: measured once for the same short runs.

    They are remembered in ``<root>/cache/preflight.json`` (delete it to measure anew); the runs are not kept.
    """
    first, timed = _short_runs(study)
    path = root / "cache" / "preflight.json"
    key = digest([cpu_model(), workers, {job.arm: job.recipe.hash for job in timed}])

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
    for _ in executor([first]):
        pass  # fills the cache, so that the runs that are timed find it
    return {row.arm: speed_of(row) for row in executor(timed)}


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


def smallest_multiplier(sd: float, seeds: int, arms: int, power: float = POWER) -> float:
    """The multiplier that a two-sided t-test over seeds finds with chance ``power``, at 5 % shared among the arms.

    Args:
        sd: standard deviation of one seed's log multiplier.
    """
    critical = stats.t.ppf(1 - (1 - LEVEL) / arms / 2, seeds - 1)

    def missing(delta: float) -> float:
        return float(stats.nct.sf(critical, seeds - 1, delta)) - power

    return math.exp(optimize.brentq(missing, 0.0, 10 * critical + 10) * sd / math.sqrt(seeds))


def _batch(study: Study, role: str, arm: str, rung: int, runs: int, speed: Speed) -> Batch:
    recipe = study.run_recipe(arm, rung, study.seeds[0])
    cost = step_cost(recipe)
    steps = steps_within(recipe.budget, cost.total, cost.tokens)
    flops = steps * cost.total.model
    seconds = speed.seconds(flops, recipe.train.evaluations)
    return Batch(role, arm, rung, runs, steps, flops, seconds, speed.cpu_share * seconds)


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
    recipe = job.recipe.with_(f"budget={{steps={steps}}}", "train.evaluations=2", f"name={study.name}-preflight"[:64])
    return Assignment(recipe, arm, 0, "tuning", job.hyper)

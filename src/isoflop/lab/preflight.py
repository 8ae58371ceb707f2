"""How fast each arm of a study runs here, and what one of its runs takes of memory and disk: a few steps tell."""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ..core.digests import digest
from ..core.errors import NumericsError
from ..core.recipe import Budget
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
        memory_bytes: most main memory that a worker process held; 0: not known.
        disk_bytes: what a run leaves on the disk; 0: not known.

    Example:
        >>> Speed(flops_per_second=1e9, evaluation_seconds=0.5, setup_seconds=2.0).seconds(1e10, evaluations=2)
        13.0
    """

    flops_per_second: float
    evaluation_seconds: float
    setup_seconds: float = 0.0
    cpu_share: float = 1.0
    spent_flops: int = 0
    spent_seconds: float = 0.0
    memory_bytes: int = 0
    disk_bytes: int = 0

    def seconds(self, flops: float, evaluations: int) -> float:
        """Wall-clock time of one run."""
        return self.setup_seconds + flops / self.flops_per_second + evaluations * self.evaluation_seconds


UNTIMED = Speed(math.nan, math.nan)
"""The speed of an arm whose device is not on this machine."""


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
                speeds = preflight(study, local)
            disk = {job.arm: _size(root / f"{job.recipe.name}-{job.recipe.id}") for job in timed}
            return {arm: replace(speed, disk_bytes=disk[arm]) for arm, speed in speeds.items()}
        finally:
            _remove(places)

    return once(path, key, dict[str, Speed], measure)


def preflight(study: Study, executor: Executor) -> dict[str, Speed]:
    """Time a few steps and an evaluation of every arm, all at once as in the study, after the corpus was prepared.

    Raises NumericsError if an arm diverges within them.

    Args:
        study: whose arms are timed.
        executor: carries out the short runs.

    Example, with ``study`` a tiny study, and ``executor`` one that computes qualities instead of training:
        >>> sorted(preflight(study, executor))  # doctest: +SKIP
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
    speed = replace(speed, memory_bytes=row.memory_bytes or 0)
    if row.wall_seconds is None or row.cpu_seconds is None:
        return speed
    setup = max(row.wall_seconds - last.seconds - evaluating, 0.0)
    return replace(speed, setup_seconds=setup, cpu_share=row.cpu_seconds / row.wall_seconds)


def spent_on(speeds: Mapping[str, Speed]) -> str:
    flops, seconds = (sum(getattr(s, key) for s in speeds.values()) for key in ("spent_flops", "spent_seconds"))
    if not flops:
        return ""
    return f"timing the arms once took {flops:.3e} FLOPs and {seconds:.0f} CPU-seconds, outside the bill"


def devices_here(study: Study) -> bool:
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


def _size(directory: Path) -> int:
    """Bytes of all files below a directory."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


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

"""What a study would cost on this machine and what it could see, before any of its runs starts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..core.files import jsonable
from ..core.reading import user_path
from ..ledger.budgets import step_cost
from ..store.notebook import text
from ..store.run import Run
from .branches import most_shared
from .compare import evaluation_runs, trial_runs
from .corpus import corpus_facts, passes, text_tokens
from .power import POWER, Noise, Sight, least, noise_of, sights
from .preflight import UNTIMED, Speed, devices_here, preflight, speeds_here, spent_on
from .study import Study, planned_runs
from .tuning import Trial, quality, tune
from .workers import Assignment, Executor, finished

__all__ = ["PlannedRuns", "StudyPlan", "plan", "priced"]


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
        finished: how many of them exist already.

    Example:
        >>> PlannedRuns("evaluation", "muon", 0, 3, steps=200, flops=10**12, seconds=60.0, cpu_seconds=60.0).runs
        3
    """

    role: str
    arm: str
    rung: int
    runs: int
    steps: int
    flops: int
    seconds: float
    cpu_seconds: float
    finished: int = 0


@dataclass(frozen=True)
class StudyPlan:
    """A study's runs, what they cost here, and what each row on FLOPs could see, if what is assumed holds.

    ``isoflop study plan`` prints it: read it before a study is begun, for what it would cost and whether its seeds
    could see the effect that one hopes for.

    Example, with ``study`` a tiny study:
        >>> from isoflop.lab.preflight import Speed
        >>> made = priced(study, {arm: Speed(1e9, 0.1) for arm in study.everyone}, workers=2)
        >>> [(batch.role, batch.arm, batch.rung) for batch in made.batches][:2]
        [('tuning', 'adamw', 0), ('tuning', 'muon', 0)]
    """

    study: str
    batches: tuple[PlannedRuns, ...]
    workers: int
    sights: tuple[Sight, ...]
    spare: int
    """Runs that may be added because an optimum lies at the edge of its grid."""
    spare_cpu_seconds: float
    """CPU-seconds of those runs."""
    noise: Noise
    """What is assumed of the runs."""
    seeds: tuple[tuple[int, float | None, float], ...]
    """Numbers of seeds, the study's first: the least effect that every row finds (None: none is found), and the
    study's compute with them over that with its own."""
    unit: str
    ladder: str
    """The budgets of the baseline's rungs, in words."""
    preflight: str = ""
    """What timing the arms spent, in words; "" if none was timed."""
    memory_bytes: int = 0
    """Most main memory of a worker process; 0: not known."""
    disk_bytes: int = 0
    """What the runs that are still to be made leave on the disk; 0: not known."""
    tokens: int = 0
    """Tokens that the longest baseline run trains on."""
    text_tokens: int = 0
    """Tokens of the training text; 0: not known."""
    shared_flops: int = 0
    """Most of the FLOPs that rungs which branch make once instead of several times."""

    @property
    def runs(self) -> int:
        return sum(batch.runs for batch in self.batches)

    @property
    def finished(self) -> int:
        return sum(batch.finished for batch in self.batches)

    @property
    def flops(self) -> int:
        return sum(batch.runs * batch.flops for batch in self.batches)

    @property
    def cpu_seconds(self) -> float:
        return sum(batch.runs * batch.cpu_seconds for batch in self.batches)

    @property
    def minutes(self) -> float:
        """Wall-clock time of the runs that are still to be made, with all workers busy."""
        return sum((batch.runs - batch.finished) * batch.seconds for batch in self.batches) / self.workers / 60

    @property
    def epochs(self) -> float | None:
        """How often the longest baseline run passes over the training text; None where its size is not known."""
        return self.tokens / self.text_tokens if self.text_tokens else None

    def _repr_html_(self) -> str:
        """What a notebook shows: the plan as on a terminal."""
        return text(self.text())

    def to_json(self) -> dict[str, Any]:
        """JSON values; times that are not known are None."""
        names = ("runs", "finished", "flops", "cpu_seconds", "minutes", "epochs")
        return dict(jsonable({**asdict(self), **{name: getattr(self, name) for name in names}}))

    def text(self) -> str:
        """The plan as tables and sentences; nothing is cut, whatever an arm is called."""
        untimed = math.isnan(self.cpu_seconds)
        runs = [
            (
                b.role, b.arm, str(b.rung), f"{b.runs}" + (f" ({b.finished} done)" if b.finished else ""),
                f"{b.steps:,}", f"{b.flops:.3e}", "-" if untimed else f"{b.seconds:.1f}",
            )
            for b in self.batches
        ]  # fmt: skip
        seen = [
            (
                s.arm, str(s.rung), f"{s.low:.2f}x to {s.high:.2f}x",
                "none" if s.smallest is None else f"{s.smallest:.2f}x", f"{s.bounded:.0%}",
            )
            for s in self.sights
        ]  # fmt: skip
        return "\n".join(
            [
                *_aligned(("phase", "arm", "rung", "runs", "steps", "FLOPs each", "s each"), runs, left=2),
                *self._cost(untimed),
                "",
                *_aligned(("on FLOPs", "rung", "measurable", "smallest", "only a bound"), seen, left=1),
                *self._outlook(),
            ]
        )

    def _cost(self, untimed: bool) -> Iterator[str]:
        yield f"a rung is one of the baseline's budgets, 0 the lowest: {self.ladder}"
        total = f"{self.runs} runs, {self.flops:.3e} FLOPs"
        edge = f"up to {self.spare} runs more if an optimum lies at an edge"
        if untimed:
            yield f"{total}, not timed: their device is not on this machine; {edge}"
        else:
            yield (
                f"{total}, about {self.minutes:.1f} minutes with {self.workers} workers ({self.cpu_seconds:.0f} "
                f"CPU-seconds); {edge} ({self.spare_cpu_seconds:.0f} CPU-seconds)"
            )
        if self.shared_flops:
            yield (
                f"up to {self.shared_flops:.3e} of the FLOPs ({self.shared_flops / self.flops:.0%}) are steps that "
                "longer runs take over from shorter ones, where their tuned values agree: they are made once"
            )
        if self.finished:
            yield f"{self.finished} of them are finished already and not repeated: the minutes are those of the others"
        needs = []
        if self.memory_bytes:
            each = f"{self.memory_bytes / 1e9:.2g} GB of memory for each of {self.workers} workers"
            needs.append(each if self.workers > 1 else f"{self.memory_bytes / 1e9:.2g} GB of memory")
        if self.disk_bytes:
            needs.append(f"{self.disk_bytes / 1e9:.2g} GB of disk")
        if needs:
            yield f"they take about {' and '.join(needs)}"
        if self.epochs is not None:
            yield passes(self.epochs)
        if self.preflight:
            yield self.preflight

    def _outlook(self) -> Iterator[str]:
        yield (
            f"smallest: found with a chance of {POWER:.0%}; only a bound: the chance of it if the arm is just as good, "
            "because a seed lies off the ladder"
        )
        (own, found, _), *more = self.seeds
        if found is None:
            first = f"with {own} seeds there is no effect that every row is expected to show"
        else:
            first = f"with {own} seeds no effect below {found:.2f}x is expected to show"
        others = [
            f"{count} seeds: {'none' if effect is None else f'{effect:.2f}x'}, {cost - 1:.0%} more compute"
            for count, effect, cost in more
        ]
        yield "; ".join([first, *others])
        yield self.noise.text(self.unit)
        above = {sight.arm for sight in self.sights if sight.rung > 0}
        for sight in self.sights:
            if sight.arm not in above and sight.bounded >= 1 - POWER:
                yield (
                    f"{sight.arm} runs only at rung 0, below which the baseline has no rung: "
                    f"arms.{sight.arm}.rungs = [1] would leave room"
                )


def plan(
    study: Study,
    root: Path | str = "runs",
    *,
    workers: int = 2,
    executor: Executor | None = None,
) -> StudyPlan:
    """The whole list of a study's runs and their cost, and what it could see; a few steps of each arm time them.

    Args:
        study: what is planned.
        root: directory of runs; the speeds are remembered in its cache.
        workers: processes that would run at once.
        executor: times the arms instead of local worker processes. Without it, and without the study's device on this
            machine, nothing is run and no time is known.

    Raises:
        NumericsError: an arm diverges within the steps that time it.

    Example, with ``study`` a tiny study, and ``executor`` one that computes qualities instead of training:
        >>> plan(study, executor=executor).runs  # doctest: +SKIP
    """
    root = user_path(root)
    if executor is not None:
        return priced(study, preflight(study, executor), workers)
    if not devices_here(study):
        return priced(study, dict.fromkeys(study.everyone, UNTIMED), workers, root)
    speeds = speeds_here(study, root, workers)
    return replace(priced(study, speeds, workers, root), text_tokens=text_tokens(corpus_facts(study, root)))


def priced(study: Study, speeds: Mapping[str, Speed], workers: int, root: Path | None = None) -> StudyPlan:
    """The plan at given speeds.

    Args:
        study: what is planned.
        speeds: of every arm.
        workers: processes that would run at once.
        root: directory of runs: those that are finished there are counted, and studies there tell the noise.

    Example, with ``study`` a tiny study:
        >>> from isoflop.lab.preflight import Speed
        >>> speeds = {arm: Speed(flops_per_second=1e9, evaluation_seconds=0.1) for arm in study.everyone}
        >>> made = priced(study, speeds, workers=2)
        >>> made.runs, made.flops > 0
        (24, True)
    """
    done = Finished(study, root)
    evaluated = done.evaluated()
    batches = []
    for role, arm, rung, runs in planned_runs(study):
        made = evaluated[arm, rung] if role == "evaluation" else min(done.tuned(arm, rung), runs)
        batches.append(_batch(study, role, arm, rung, runs, speeds[arm], made))
    searched = [b for b in batches if b.role == "tuning" and not (b.rung and study.tuning.top_points)]
    each = study.tuning.extensions * len(study.tuning.seeds)
    flops = {(b.arm, b.rung): b.flops for b in batches if b.role == "evaluation"}
    noise = noise_of(study, root)
    seen = sights(study, flops, noise)
    longest = next(b for b in batches if (b.role, b.arm, b.rung) == ("evaluation", study.baseline, study.top))
    return StudyPlan(
        study=study.name,
        batches=tuple(batches),
        workers=workers,
        sights=seen,
        spare=each * len(searched),
        spare_cpu_seconds=each * sum(batch.cpu_seconds for batch in searched),
        noise=noise,
        seeds=_by_seeds(study, batches, flops, noise, least(seen)),
        unit=study.scale.unit,
        ladder=f"{', '.join(f'{rung:,g}' for rung in study.ladder.rungs)} {study.ladder.axis}",
        preflight=spent_on(speeds),
        memory_bytes=max(speed.memory_bytes for speed in speeds.values()),
        disk_bytes=sum((b.runs - b.finished) * speeds[b.arm].disk_bytes for b in batches),
        tokens=longest.steps * step_cost(study.base(study.baseline)).tokens,
        shared_flops=most_shared(study),
    )


class Finished:
    """Which of a study's runs exist already.

    Example, with ``study`` a tiny study:
        >>> isinstance(Finished(study, Path("runs")), Finished)
        True
    """

    def __init__(self, study: Study, root: Path | None) -> None:
        self.study, self.root = study, root

    def tuned(self, arm: str, rung: int) -> int:
        """Finished tuning runs of an arm's grid at a rung."""
        trials = [Trial(arm, rung, value) for value in self.study.grid(arm)]
        return sum(self._run(job) is not None for trial in trials for job in trial_runs(self.study, trial))

    def evaluated(self) -> Counter[tuple[str, int]]:
        """Finished evaluation runs by arm and rung; none before all tuning is done, for they depend on it."""
        try:
            tuned = tune(self.study, self._measured)
        except _Missing:
            return Counter()
        jobs = evaluation_runs(self.study, tuned)
        return Counter((job.arm, job.rung) for job in jobs if self._run(job) is not None)

    def _run(self, job: Assignment) -> Run | None:
        return None if self.root is None else finished(self.root, job.recipe)

    def _measured(self, trials: Sequence[Trial]) -> dict[Trial, float | None]:
        return {trial: self._quality(trial) for trial in trials}

    def _quality(self, trial: Trial) -> float | None:
        """As ``compare`` measures it; _Missing if a run of the trial is not finished."""
        values = []
        for job in trial_runs(self.study, trial):
            if (run := self._run(job)) is None:
                raise _Missing
            values.append(run.result.get("value"))
        return quality(values)


class _Missing(Exception):
    """A run that tuning asks for is not there."""


def _by_seeds(
    study: Study, batches: Sequence[PlannedRuns], flops: Mapping[tuple[str, int], int], noise: Noise, own: float | None
) -> tuple[tuple[int, float | None, float], ...]:
    """The study's number of seeds and two larger ones, each with what it finds and what the study then costs."""
    count = len(study.seeds)
    total = sum(batch.runs * batch.flops for batch in batches)
    each = sum(batch.flops for batch in batches if batch.role == "evaluation")
    more = (count + 2, 2 * count) if count > 2 else (count + 2,)
    rest = [(n, least(sights(study, flops, noise, n)), 1 + (n - count) * each / total) for n in dict.fromkeys(more)]
    return ((count, own, 1.0), *rest)


def _batch(study: Study, role: str, arm: str, rung: int, runs: int, speed: Speed, made: int) -> PlannedRuns:
    steps, flops = study.takes(arm, rung)
    seconds = speed.seconds(flops, study.base(arm).train.evaluations)
    return PlannedRuns(role, arm, rung, runs, steps, flops, seconds, speed.cpu_share * seconds, made)


def _aligned(head: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """Lines of a table whose first ``left`` columns are aligned left, the others right, each as wide as it needs."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    place: list[Callable[[str, int], str]] = [str.ljust if i < left else str.rjust for i in range(len(widths))]
    lines = [[put(cell, width) for put, cell, width in zip(place, row, widths, strict=True)] for row in (head, *rows)]
    return ["  ".join(line).rstrip() for line in lines]

"""A study from beginning to end: tune alike, evaluate, and say how much more the baseline would have needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..core.errors import IsoflopError
from ..core.files import write_atomic
from ..core.reading import user_path
from ..core.scale import Scale
from ..ledger.ledger import AXES as LEDGER_AXES
from ..ledger.ledger import PHASES
from ..store.environment import process
from ..store.progress import AskedRun, ProgressBoard
from ..store.records import joined
from ..store.results import STUDY, RunRow, StudyResult, spent
from . import branches
from .corpus import corpus_facts, epochs, passes
from .factors import interactions, told
from .provenance import Environments, environments_of, remarks
from .study import Study, planned_runs
from .tracking import Trackers
from .tuning import Trial, Tuned, quality, tune
from .verdict import findings, headline, judge
from .workers import Assignment, Executor, LocalWorkers

Say = Callable[[str], None]


def compare(
    study: Study,
    root: Path | str = "runs",
    *,
    workers: int = 2,
    progress: Say | None = None,
    executor: Executor | None = None,
    corpus: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
    track: Sequence[str] = (),
) -> StudyResult:
    """Run a study and return its result; it also lies in its ``home(root)`` as study.json and points.csv.

    Beside them lies study.toml, which makes the same study again. Runs that are finished under ``root`` are not
    repeated; a study that was stopped or killed goes on.

    Args:
        study: what is compared.
        root: directory of runs and studies.
        workers: processes, one thread each. Seconds are compared only with one.
        progress: called with a line of text whenever a run ends.
        executor: carries out the runs instead of local worker processes; leaves their directories under ``root``.
        corpus: facts about the corpus to be kept with the result; by default what its source says of itself.
        notes: remarks to be kept in front of the study's own.
        track: trackers that local worker processes show the runs in (``lab.tracking``).

    Raises:
        NumericsError: every trial of an arm diverged.
        Stopped: a signal; the state of all runs is saved.
        WorkerDied, RunFailed: a run could not be finished; names it.
        DataError: finished runs were made on another corpus.
        UsageError: a part that the workers do not know.

    Example, with ``study`` a tiny study, and ``executor`` one that computes qualities instead of training:
        >>> result = compare(study, "runs", executor=executor, corpus={})
        >>> row = next(row for row in result.multipliers if row.axis == "tokens")
        >>> row.arm, round(row.value, 2), row.low < 1.5 < row.high
        ('muon', 1.5, True)
    """
    root = user_path(root)
    with _board(study, root, workers) as board:
        journal = Journal(study.scale, progress, workers, board=board)
        if executor is None:
            Trackers(track)  # a missing one is said before anything runs
            with LocalWorkers(root, workers, track=track, group=study.name) as local:
                rows, tuned = run_study(study, local, journal)
        else:
            rows, tuned = run_study(study, executor, journal)
    corpus = dict(corpus_facts(study, root) if corpus is None else corpus)
    if "left_out" in corpus:
        notes = [*notes, str(corpus.pop("left_out"))]
    notes = [*notes, *corpus.pop("remarks", ())]
    times = epochs(corpus, [row for row in rows if row.arm == study.baseline], study.top)
    if times is not None:
        corpus["epochs"] = times
        notes = [*notes, passes(times)]
    made = environments_of(root, rows)
    result = conclude(study, rows, tuned, corpus=corpus, notes=notes, environments=made, workers=workers)
    home = result.home(root)
    if progress is not None and home.name != study.name:
        progress(f"{_other(study, root / study.name)}: this one's result lies in {home}")
    write_atomic(home / "study.toml", result.definition)
    result.table().to_csv(home / "points.csv")
    result.write(home / STUDY)
    return result


def _board(study: Study, root: Path, workers: int) -> ProgressBoard:
    """Where the study says what it has asked for, while it runs."""
    return ProgressBoard(
        root,
        name=study.name,
        title=study.title or study.name,
        baseline=study.baseline,
        arms=list(study.arms),
        rung_axis=study.ladder.axis,
        rungs=list(study.ladder.rungs),
        **asdict(study.scale),
        definition=study.to_toml(),
        workers=workers,
    )


def run_study(study: Study, executor: Executor, journal: Journal) -> tuple[list[RunRow], Tuned]:
    """Tune, then evaluate; every run's row (tuning first) and what tuning chose."""
    rows: list[RunRow] = []
    journal.ahead = planned_flops(study)

    def measure(trials: Sequence[Trial]) -> dict[Trial, float | None]:
        jobs = {trial: trial_runs(study, trial) for trial in trials}
        again = _again(study, trials) if rows else ""
        done = journal.follow("tuning", [job for each in jobs.values() for job in each], executor, again)
        rows.extend(done[job] for each in jobs.values() for job in each)
        return {trial: quality([_value(done[job]) for job in each]) for trial, each in jobs.items()}

    tuned = tune(study, measure)
    jobs = evaluation_runs(study, tuned)
    done = journal.follow("evaluation", jobs, executor)
    return rows + [done[job] for job in jobs], tuned


def _again(study: Study, trials: Sequence[Trial]) -> str:
    """Why there is more tuning after the first of it."""
    top = len(trials) > 1 and all(trial.rung == study.top for trial in trials)
    return "at the top rung" if top else "one value more, since an optimum lay at an edge"


def planned_flops(study: Study) -> int:
    """FLOPs that the planned runs take."""
    return sum(runs * study.takes(arm, rung)[1] for _, arm, rung, runs in planned_runs(study))


def trial_runs(study: Study, trial: Trial) -> list[Assignment]:
    """The runs of one tuning trial, one for each tuning seed."""
    hyper = {study.tuning.hyper: trial.value, **dict(trial.knobs)}
    recipes = [study.run_recipe(trial.arm, trial.rung, seed, trial.value, trial.knobs) for seed in study.tuning.seeds]
    return [Assignment(recipe, trial.arm, trial.rung, "tuning", hyper, study.branch(recipe)) for recipe in recipes]


def evaluation_runs(study: Study, tuned: Tuned) -> list[Assignment]:
    """The runs that are compared: every arm at its rungs, with its tuned value, on every evaluation seed."""
    jobs = []
    for arm in study.everyone:
        for rung in study.rungs_of(arm):
            value = tuned.value(study, arm, rung)
            for seed in study.seeds:
                recipe = study.run_recipe(arm, rung, seed, value, tuned.chosen(arm))
                hyper = {study.tuning.hyper: value, **dict(tuned.chosen(arm))}
                jobs.append(Assignment(recipe, arm, rung, "evaluation", hyper, study.branch(recipe)))
    return jobs


def conclude(
    study: Study,
    rows: Sequence[RunRow],
    tuned: Tuned,
    *,
    corpus: Mapping[str, Any],
    notes: Sequence[str] = (),
    environments: Environments,
    workers: int,
) -> StudyResult:
    """The result of a study whose runs are done: multipliers on every legal axis, refusals, bill, notes, headline."""
    now, scale = process(), study.scale
    verdict = judge(study, rows, environments)
    pairs = interactions(study.factors, verdict.rows)
    lowest, seed = {arm: min(study.rungs_of(arm)) for arm in study.everyone}, study.seeds[0]
    return StudyResult(
        name=study.name,
        title=study.title or study.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        baseline=study.baseline,
        arms=list(study.arms),
        rung_axis=study.ladder.axis,
        rungs=list(study.ladder.rungs),
        **asdict(scale),
        runs=list(rows),
        tunings=tuned.all,
        multipliers=verdict.rows,
        interactions=pairs,
        estimator="cubic",
        refusals=verdict.refusals,
        arm_refusals=verdict.arm_refusals,
        headline=headline(study, verdict.rows, tuned.all),
        notes=[
            *notes,
            *verdict.notes,
            *branches.remarks(study, tuned, rows),
            *told(pairs),
            *findings(study, rows, verdict.rows),
            *remarks(rows, environments, now),
            *study.caveats,
        ],
        bill=bill(rows),
        ancestors=joined(row.ancestors for row in rows),
        corpus=dict(corpus),
        recipes={
            arm: study.run_recipe(arm, rung, seed, tuned.value(study, arm, rung), tuned.chosen(arm)).to_toml()
            for arm, rung in lowest.items()
        },
        definition=study.to_toml(),
        environments={key: dict(environment) for key, environment in environments.items()},
        environment={**now, "workers": workers},
    )


def bill(rows: Sequence[RunRow]) -> dict[str, dict[str, float]]:
    """Phase -> axis -> amount over all runs, each once; all that tuning runs trained is phase ``tuning``."""
    total: dict[str, dict[str, float]] = {}
    for _, phase, amounts in spent(rows):
        into = total.setdefault(phase, dict.fromkeys(LEDGER_AXES, 0))
        for axis, amount in amounts.items():
            into[axis] += amount
    return {phase: total[phase] for phase in PHASES if phase in total}


@dataclass
class Journal:
    """Follows runs as they end: a line each, with the time left by the FLOPs still to do and the workers there are.

    ``ahead`` are the FLOPs of runs that are yet to come; ``board`` is told which ones are asked for.

    Example:
        >>> from isoflop.core.scale import Scale
        >>> Journal(Scale("bits per byte"), workers=2).ahead
        0.0
    """

    scale: Scale
    say: Say | None = None
    workers: int = 1
    ahead: float = 0.0
    board: ProgressBoard | None = None

    def follow(
        self, phase: str, jobs: Sequence[Assignment], executor: Executor, again: str = ""
    ) -> dict[Assignment, RunRow]:
        """Run jobs; the row of each. Jobs of one recipe are one run.

        Args:
            phase: "tuning" or "evaluation".
            jobs: what is run.
            executor: carries it out.
            again: why the phase goes on after it seemed done; "" the first time.
        """
        named = f"{phase} ({again})" if again else phase
        by_hash = {job.recipe.hash: job for job in jobs}
        sizes = {key: job.flops for key, job in by_hash.items()}
        done: dict[str, RunRow] = {}
        spent = flops = 0.0
        self.ahead = max(self.ahead - sum(sizes.values()), 0.0)
        if self.board is not None:
            self.board.ask(map(asked_run, by_hash.values()), self.ahead)
        for row in executor(list(by_hash.values())):
            done[row.recipe_hash] = row
            if self.board is not None:
                self.board.begun = True
            if not row.reused:
                spent += _seconds(row)
                flops += sizes[row.recipe_hash]
            left = sum(size for key, size in sizes.items() if key not in done)
            pace = spent / flops / self.workers if flops else 0.0
            eta = self._eta(phase, pace * left, pace * (left + self.ahead))
            self._line(named, len(done), len(by_hash), by_hash[row.recipe_hash].label, row, eta)
        return {job: done[job.recipe.hash].model_copy(update={"arm": job.arm, "rung": job.rung}) for job in jobs}

    def _line(self, phase: str, count: int, total: int, label: str, row: RunRow, eta: str) -> None:
        if self.say is None:
            return
        end, scale = row.end, self.scale
        outcome = row.status if end is None else f"{scale.text(end.value, bound=end.bound)} {scale.unit}"
        spent = "finished before" if row.reused else f"{_seconds(row):.0f} s"
        self.say(f"{phase} {count}/{total}: {label}: {outcome} ({spent}{eta})")

    def _eta(self, phase: str, here: float, whole: float) -> str:
        """The time left of a phase, and of the whole study where more phases follow."""
        if whole < 1:
            return ""
        if not self.ahead:
            return f"; about {_span(here)} of {phase} left"
        return f"; about {_span(here)} of {phase} left, {_span(whole)} in all"


def asked_run(job: Assignment) -> AskedRun:
    """A run as files tell others that it is asked for."""
    return AskedRun(
        arm=job.arm,
        rung=job.rung,
        seed=job.seed,
        role=job.role,
        hyper=dict(job.hyper),
        recipe_hash=job.recipe.hash,
        flops=job.flops,
    )


def _other(study: Study, place: Path) -> str:
    """What has the directory that the study would have had, and where the two differ."""
    with suppress(IsoflopError):
        other = Study.from_toml(StudyResult.read(place / STUDY).definition)
        return f"{place} holds another study of this name, which differs in {', '.join(study.differences(other))}"
    return f"{place} holds something else of this name"


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _seconds(row: RunRow) -> float:
    """Wall-clock time of a run, as far as it is known."""
    if row.wall_seconds is not None:
        return row.wall_seconds
    return sum(amounts.get("seconds", 0.0) for amounts in row.ledger.values())


def _value(row: RunRow) -> float | None:
    """A run's quality; None if it diverged."""
    return None if row.end is None else row.end.value

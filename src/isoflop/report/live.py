"""A study under way, read from the store: which runs are done, where the others are, and how long it will take."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..core.errors import DataError
from ..store.index import runs as stored_runs
from ..store.progress import AskedRun, StudyProgress
from ..store.results import Point, RunRow, StudyResult
from ..store.run import Run
from . import charts, render
from .html import AGAIN, figure, frame, section, table_of, titled
from .ladders import learning, noise_sheet
from .sheets import Sheet, evaluation_ends, rung_budget
from .text import amount, clean, duration, moment

ENDED = ("done", "diverged")


@dataclass
class FollowedRun:
    """A run that a study has asked for, as it stands.

    Attributes:
        asked: what was asked for.
        state: of its directory; "waiting" where it has none.
        step: steps done.
        horizon: steps in all; 0: not known yet.
        seconds: that it took, building and evaluation included; of one under way those of training up to its last
            evaluation.
        points: its evaluations.

    Example:
        >>> asked = AskedRun(arm="muon", rung=0, seed=1, role="tuning", hyper={}, recipe_hash="ab", flops=10**9)
        >>> FollowedRun(asked).share
        0.0
    """

    asked: AskedRun
    state: str = "waiting"
    step: int = 0
    horizon: int = 0
    seconds: float = 0.0
    points: list[Point] = field(default_factory=list)

    @property
    def share(self) -> float:
        """Of its steps, those that are done."""
        return 1.0 if self.state in ENDED else self.step / self.horizon if self.horizon else 0.0

    @property
    def label(self) -> str:
        chosen = ", ".join(f"{clean(key.rpartition('.')[2])} {value:.3g}" for key, value in self.asked.hyper.items())
        return f"seed {self.asked.seed}" + (f", {chosen}" if chosen else "")


@dataclass(frozen=True)
class LiveStudy:
    """A study under way with all runs that it has asked for.

    Example:
        >>> LiveStudy.read(Path("runs"), Path("runs/demo")).left  # doctest: +SKIP
        340.5
    """

    directory: Path
    progress: StudyProgress
    runs: tuple[FollowedRun, ...]

    @classmethod
    def read(cls, root: Path, directory: Path) -> LiveStudy:
        """Read what stands now. DataError if the directory holds no study that is under way."""
        progress = StudyProgress.read(directory)
        places = {record["hash"]: record["path"] for record in stored_runs(root).records()}
        followed = (_followed(root, asked, places.get(asked.recipe_hash)) for asked in progress.runs)
        return cls(directory, progress, tuple(followed))

    @property
    def state(self) -> str:
        """running or stopped."""
        return "running" if self.progress.alive else "stopped"

    @property
    def left(self) -> float | None:
        """Seconds that the rest takes with all workers busy; None while nothing tells how fast runs are."""
        worked = [run for run in self.runs if run.points and run.seconds]
        seconds, flops = sum(run.seconds for run in worked), sum(run.points[-1].flops for run in worked)
        if not flops:
            return None
        rest = self.progress.ahead + sum(run.asked.flops * (1 - run.share) for run in self.runs)
        return rest * seconds / flops / self.progress.workers

    def headline(self) -> str:
        """Where it stands, in a sentence."""
        done = sum(run.state in ENDED for run in self.runs)
        tuning = all(run.asked.role == "tuning" for run in self.runs)
        said = f"{done} of {len(self.runs)} runs{' of tuning' if tuning else ''} are done"
        said += "; evaluation follows" if tuning else ""
        if self.state != "running":
            return f"Stopped: {said}. The same command goes on from here."
        return said + (f"; about {duration(self.left)} left." if self.left is not None else ".")

    def sheets(self) -> list[Sheet]:
        """The runs by arm and budget, and those that are under way."""
        return [sheet for sheet in (self._by_arm(), self._under_way()) if sheet.rows]

    def _by_arm(self) -> Sheet:
        groups: dict[tuple[str, str, int], list[FollowedRun]] = defaultdict(list)
        for run in self.runs:
            groups[run.asked.role, run.asked.arm, run.asked.rung].append(run)
        lines, so_far = [], self.result()
        for (role, arm, rung), found in groups.items():
            values = [run.points[-1].value for run in found if run.state == "done" and run.points]
            best = sum(values) / len(values) if role == "evaluation" and values else self._best(values)
            states = Counter(run.state for run in found)
            told = ", ".join(f"{count} {state}" for state, count in states.items())
            said = "" if best is None else so_far.scale.text(best)
            lines.append((clean(arm), role, rung_budget(so_far, rung), told, said))
        unit = clean(self.progress.unit)
        note = "Of tuning the best so far, of evaluation the mean over the seeds that are done."
        return Sheet("Runs", ("arm", "phase", "budget", "runs", unit), lines, frozenset({4}), note)

    def _best(self, values: list[float]) -> float | None:
        pick = max if self.progress.higher_is_better else min
        return pick(values) if values else None

    def _under_way(self) -> Sheet:
        lines, so_far = [], self.result()
        for run in self.runs:
            if run.state not in (*ENDED, "waiting"):
                value = run.points[-1].value if run.points else None
                place = f"{run.step:,} of {run.horizon:,}" if run.horizon else f"{run.step:,}"
                budget = rung_budget(so_far, run.asked.rung)
                said = "" if value is None else so_far.scale.text(value)
                lines.append((clean(run.asked.arm), budget, run.label, run.state, place, said))
        columns = ("arm", "budget", "run", "state", "step", clean(self.progress.unit))
        return Sheet("Under way", columns, lines, frozenset({4, 5}))

    def result(self, *, unfinished: bool = False) -> StudyResult:
        """What is there so far, as a result without a verdict.

        Args:
            unfinished: with runs that have not ended, at their last evaluation.
        """
        shown = [run for run in self.runs if run.state == "done" or (unfinished and run.points)]
        rows = [
            RunRow(
                run=run.asked.recipe_hash[:12],
                **run.asked.model_dump(exclude={"flops"}),
                status="done",
                curve=run.points,
            )
            for run in shown
        ]
        keys = ("name", "title", "baseline", "arms", "rung_axis", "rungs", "unit", "higher_is_better", "definition")
        facts = {key: getattr(self.progress, key) for key in keys}
        return StudyResult(**facts, created=self.progress.started, runs=rows, headline="")

    def facts(self) -> dict[str, Any]:
        """JSON values."""
        runs = [
            run.asked.model_dump()
            | {"state": run.state, "step": run.step, "horizon": run.horizon}
            | {"value": run.points[-1].value if run.points else None}
            for run in self.runs
        ]
        return {"state": self.state, "seconds_left": self.left, "said": self.headline(), "runs": runs}


def live_page(live: LiveStudy) -> str:
    """The page of a study under way, which a browser reads again every few seconds."""
    figures, so_far = {}, live.result()
    if (curves := learning(live.result(unfinished=True))) is not None:
        figures["learning"] = curves
    if evaluation_ends(so_far):
        figures["quality"] = charts.quality(so_far)
    specs = render.specifications(figures)
    drawn = {name: figure(name) for name in specs}
    progress = live.progress
    facts = {
        "Study": clean(progress.name),
        "State": live.state,
        "Begun": moment(progress.started),
        "Workers": str(progress.workers),
        "Planned besides": amount("flops", progress.ahead) if progress.ahead else "",
    }
    sections = [
        *(section(sheet.title, table_of(sheet)) for sheet in live.sheets()),
        section("Learning curves", drawn.get("learning", "")),
        section("Quality against compute", drawn.get("quality", "")),
        section(*titled(noise_sheet(so_far))),
    ]
    return frame(
        kind="isoflop study, under way",
        title=progress.title or progress.name,
        headline=live.headline(),
        facts=facts,
        sections=sections,
        specs=specs,
        data=live.facts(),
        refresh=AGAIN if live.state == "running" else 0,
    )


def _followed(root: Path, asked: AskedRun, place: str | None) -> FollowedRun:
    followed = FollowedRun(asked)
    if place is None:
        return followed
    with suppress(DataError):  # half written, or gone meanwhile
        run = Run.read(root / place)
        status = run.status
        followed.state, followed.step, followed.horizon = run.state, status.step, status.horizon
        followed.points = list(_points(run.metrics("evaluation")))
        ended = sum(each.get("seconds", 0.0) for each in run.events("ended")) if followed.state in ENDED else 0.0
        followed.seconds = ended or (followed.points[-1].seconds if followed.points else 0.0)
    return followed


def _points(records: Iterable[Mapping[str, Any]]) -> Iterator[Point]:
    for record in records:
        with suppress(ValidationError):
            yield Point(**{key: record[key] for key in Point.model_fields if key in record})

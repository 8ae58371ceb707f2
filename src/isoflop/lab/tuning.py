"""Tuning alike: the same number of trials for every arm, no optimum at an edge, the baseline tuned again at its top."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ..core.errors import NumericsError
from ..core.scale import Scale
from ..store.records import UNSAID
from ..store.results import Tuning
from .study import Knobs, Study


@dataclass(frozen=True)
class Trial:
    """One arm at one rung with one value of the hyper-parameter, over all tuning seeds.

    Example:
        >>> Trial("muon", 0, 3e-3).value
        0.003
    """

    arm: str
    rung: int
    value: float
    knobs: Knobs = ()


Measure = Callable[[Sequence[Trial]], Mapping[Trial, float | None]]
"""Runs trials; their quality on the study's scale, None where one diverged."""


def quality(values: Sequence[float | None]) -> float | None:
    """A trial's quality: the mean over its seeds; None if any of them diverged.

    Example:
        >>> quality([2.0, 3.0]), quality([2.0, None])
        (2.5, None)
    """
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


@dataclass
class Search:
    """The trials of one arm at one rung; ``quality`` by value, None where it diverged.

    Example:
        >>> search = Search("muon", 0, grid=(1e-3, 3e-3, 9e-3), quality={1e-3: 2.3, 3e-3: 2.1, 9e-3: 2.2})
        >>> search.best, search.edge
        (0.003, 0)
    """

    arm: str
    rung: int
    grid: Sequence[float]
    quality: dict[float, float | None] = field(default_factory=dict)
    scale: Scale = UNSAID
    knobs: Knobs = ()

    def run(self, measure: Measure) -> None:
        run_all([self], measure)

    @property
    def values(self) -> list[float]:
        return sorted(self.quality)

    @property
    def best(self) -> float | None:
        """The best value; a diverged trial is never it. None if all diverged."""
        finite = [value for value in self.values if self.quality[value] is not None]
        return min(finite, key=self._cost, default=None)

    @property
    def edge(self) -> int:
        """-1, 1: the best value is the lowest, the highest tried; 0: it lies inside. All diverged counts as -1."""
        if self.best is None or self.best == self.values[0]:
            return -1
        return int(self.best == self.values[-1])

    def further(self) -> float:
        """The next value to try: beyond the edge that holds the optimum, else between it and its better neighbour."""
        values = self.values
        if self.edge < 0:
            return _tidy(values[0] ** 2 / values[1])
        if self.edge > 0:
            return _tidy(values[-1] ** 2 / values[-2])
        assert self.best is not None
        at = values.index(self.best)
        beside = min((values[at - 1], values[at + 1]), key=self._cost)
        return _tidy(math.sqrt(self.best * beside))

    @property
    def least(self) -> float:
        """What its best value costs; infinite if all diverged."""
        return math.inf if self.best is None else self._cost(self.best)

    def _cost(self, value: float) -> float:
        """What values are ranked by, lower is better; a diverged one comes last."""
        quality = self.quality[value]
        return math.inf if quality is None else self.scale.cost(quality)

    def stored(self, hyper: str) -> Tuning:
        """What the result keeps. NumericsError if every trial diverged."""
        if self.best is None:
            tried = ", ".join(f"{value:g}" for value in self.values)
            raise NumericsError(
                f"every trial of {self.arm} diverged ({hyper} = {tried})",
                where=f"rung {self.rung}",
                fix=f"give lower values in tuning.grids.{self.arm}",
            )
        return Tuning(
            arm=self.arm,
            rung=self.rung,
            hyper=hyper,
            values=self.values,
            quality=[self.quality[value] for value in self.values],
            chosen=self.best,
            edge=self.edge != 0,
        )


@dataclass(frozen=True)
class Tuned:
    """What tuning chose. ``low`` is by arm, ``top`` the baseline's at its top rung, ``knobs`` what else was chosen.

    Example, with ``study`` a tiny study, and ``executor`` one that computes qualities instead of training:
        >>> from isoflop.lab.compare import Journal, run_study
        >>> rows, tuned = run_study(study, executor, Journal(study.scale))
        >>> tuned.low["muon"].chosen, tuned.value(study, "muon", 0)
        (0.004, 0.004)
    """

    low: Mapping[str, Tuning]
    top: Tuning
    knobs: Mapping[str, Knobs] = field(default_factory=dict)
    knob_tunings: tuple[Tuning, ...] = ()

    @property
    def all(self) -> list[Tuning]:
        return [*self.low.values(), self.top, *self.knob_tunings]

    def chosen(self, arm: str) -> Knobs:
        """The values of an arm's knobs."""
        return self.knobs.get(arm, ())

    def value(self, study: Study, arm: str, rung: int) -> float:
        """The value that an arm runs with at a rung; the baseline's is interpolated in log between its two tunings."""
        if arm != study.baseline:
            return self.low[arm].chosen
        if rung in (0, study.top):
            return (self.top if rung else self.low[arm]).chosen
        rungs = study.ladder.rungs
        share = math.log(rungs[rung] / rungs[0]) / math.log(rungs[-1] / rungs[0])
        return _tidy(self.low[arm].chosen ** (1 - share) * self.top.chosen**share)


def tune(study: Study, measure: Measure) -> Tuned:
    """Tune every arm at the lowest rung with equal trials, and the baseline again at the top rung.

    An optimum at the edge of its grid adds a trial to every arm: beyond the edge there, between the best value and its
    better neighbour for the others; at most ``tuning.extensions`` times, and as far as the arm's recipe allows. The
    top rung's grid is the lowest's one, widened on its own.

    Raises:
        NumericsError: every trial of an arm diverged.
    """
    plan, scale = study.tuning, study.scale
    if plan.knobs:
        return _with_knobs(study, measure)
    low = [Search(arm, 0, study.grid(arm), scale=scale) for arm in study.everyone]
    top = Search(study.baseline, study.top, study.grid(study.baseline), scale=scale)
    run_all(low if plan.top_points else [*low, top], measure)  # together, so that no worker idles
    widen(low, study, measure)
    if plan.top_points:
        top.grid = around(low[0], plan.top_points)
        top.run(measure)
    else:
        widen([top], study, measure)
    return Tuned({search.arm: search.stored(plan.hyper) for search in low}, top.stored(plan.hyper))


def _with_knobs(study: Study, measure: Measure) -> Tuned:
    """``tune`` where more numbers than one are searched; the top rung takes those chosen at the lowest."""
    plan, scale = study.tuning, study.scale
    search = _jointly if plan.search == "joint" else _by_coordinate
    low, knobs, found = search(study, measure)
    top = Search(study.baseline, study.top, study.grid(study.baseline), scale=scale, knobs=knobs[study.baseline])
    if plan.top_points:
        top.grid = around(low[0], plan.top_points)
    top.run(measure)
    if not plan.top_points:
        widen([top], study, measure)
    stored = {each.arm: each.stored(plan.hyper) for each in low}
    return Tuned(stored, top.stored(plan.hyper), knobs, tuple(found))


Searched = tuple[list[Search], dict[str, Knobs], list[Tuning]]
"""The best search of each arm at the lowest rung, each arm's knobs, and each knob's profile."""


def _jointly(study: Study, measure: Measure) -> Searched:
    """Every value of every knob with every value of the grid."""
    plan = study.tuning
    combinations = [tuple(zip(plan.knobs, values, strict=True)) for values in itertools.product(*plan.knobs.values())]
    every = [
        Search(arm, 0, study.grid(arm), scale=study.scale, knobs=knobs)
        for arm in study.everyone
        for knobs in combinations
    ]
    run_all(every, measure)
    best = [min((s for s in every if s.arm == arm), key=lambda s: s.least) for arm in study.everyone]
    widen(best, study, measure)
    profiles = []
    for chosen in best:
        for key, values in plan.knobs.items():
            own = [s for s in every if s.arm == chosen.arm]
            least = {v: min((s for s in own if (key, v) in s.knobs), key=lambda s: s.least) for v in values}
            quality = {v: None if s.best is None else s.quality[s.best] for v, s in least.items()}
            profiles.append(_profile(chosen.arm, key, quality, dict(chosen.knobs)[key]))
    return best, {each.arm: each.knobs for each in best}, profiles


def _by_coordinate(study: Study, measure: Measure) -> Searched:
    """The grid first, at the recipes' own knobs; then one knob after another, at the best found so far."""
    plan = study.tuning
    low = [Search(arm, 0, study.grid(arm), scale=study.scale) for arm in study.everyone]
    run_all(low, measure)
    widen(low, study, measure)
    chosen: dict[str, Knobs] = {each.arm: () for each in low}
    profiles = []
    for key, values in plan.knobs.items():
        trials = {}
        for each in low:
            if each.best is None:
                each.stored(plan.hyper)  # says that all diverged
            for value in values:
                assert each.best is not None
                knobs = (*chosen[each.arm], (key, value))
                trials[each.arm, value] = Trial(each.arm, 0, each.best, knobs)
        found = measure(list(trials.values()))
        for each in low:
            quality = {value: found[trials[each.arm, value]] for value in values}
            costs = {v: math.inf if q is None else study.scale.cost(q) for v, q in quality.items()}
            best = min(values, key=lambda value: costs[value])
            profiles.append(_profile(each.arm, key, quality, best))
            chosen[each.arm] = (*chosen[each.arm], (key, best))
    return low, chosen, profiles


def _profile(arm: str, key: str, quality: Mapping[float, float | None], chosen: float) -> Tuning:
    values = list(quality)
    edge = len(values) > 2 and chosen in (values[0], values[-1])
    return Tuning(arm=arm, rung=0, hyper=key, values=values, quality=list(quality.values()), chosen=chosen, edge=edge)


def widen(searches: Sequence[Search], study: Study, measure: Measure) -> None:
    """Add a trial to every search for as long as one has its optimum at an edge and more are allowed."""
    for _ in range(study.tuning.extensions):
        if not any(search.edge for search in searches):
            return
        added = [(search, search.further()) for search in searches]
        if not all(study.allows(search.arm, value, search.knobs) for search, value in added):
            return
        for search, value in added:
            search.grid = [*search.grid, value]
        run_all(searches, measure)


def run_all(searches: Sequence[Search], measure: Measure) -> None:
    """Run whatever of the searches' grids has not been tried, in one go."""
    missing = [(s, Trial(s.arm, s.rung, v, s.knobs)) for s in searches for v in s.grid if v not in s.quality]
    found = measure([trial for _, trial in missing])
    for search, trial in missing:
        search.quality[trial.value] = found[trial]


def around(search: Search, count: int) -> list[float]:
    """``count`` neighbouring values around the best, rather below it: longer runs want lower rates."""
    values = search.values
    at = values.index(search.best) if search.best is not None else 0
    start = min(max(at - count // 2, 0), max(len(values) - count, 0))
    return values[start : start + count]


def _tidy(value: float) -> float:
    return float(f"{value:.6g}")

"""The cheapest form of a study that finds a wanted effect with a chance of 80 %: its rungs, seeds and arms' rungs."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import UsageError
from ..ledger.budgets import whole_run
from .power import POWER, Chance, Noise, noise_of
from .study import Study, trials_of

SEEDS = range(3, 17)
"""Numbers of evaluation seeds that are tried."""
RUNGS = range(3, 8)
"""Numbers of rungs that are tried."""


@dataclass(frozen=True)
class Proposal:
    """A form of a study, and what it finds.

    Attributes:
        detect: the multiplier that is to be found, above 1 or below.
        overrides: what it changes in the study, as ``isoflop compare`` takes it.
        chance: of finding it, that of the arm that is hardest to judge.
        flops: of all planned runs.
        noise: what is assumed of the runs.

    Example:
        >>> from isoflop.lab.power import Noise
        >>> Proposal(1.2, ("seeds=[1, 2, 3]",), 0.83, 10**12, Noise(0.01, 0.15)).overrides
        ('seeds=[1, 2, 3]',)
    """

    detect: float
    overrides: tuple[str, ...]
    chance: float
    flops: float
    noise: Noise

    def text(self, source: str, unit: str) -> str:
        """The proposal in words, with the command that plans or runs it.

        Args:
            source: the study's file or name.
            unit: of the first metric.
        """
        changes = " ".join(f"'{change}'" for change in self.overrides)
        cost = f"{self.flops:.3e} FLOPs, tuning included"
        return "\n".join(
            [
                f"{self.detect:g}x is found with a chance of {self.chance:.0%} by {cost}",
                self.noise.text(unit),
                f"isoflop compare {source} {changes}",
            ]
        )

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {"detect": self.detect, "overrides": list(self.overrides), "chance": self.chance, "flops": self.flops}


def propose(study: Study, detect: float, root: Path | None = None) -> Proposal:
    """The cheapest number of rungs and seeds, and the arms' rung, that find an effect.

    The lowest rung and everything else stay as the study has them. All arms run at one rung, so that every row of
    Holm's correction is counted once.

    Args:
        study: what is asked.
        detect: the multiplier that is to be found, positive and not 1.
        root: directory of runs: earlier studies of the same baseline there tell the noise.

    Raises:
        UsageError: no effect to be found, or none of the forms that are tried finds it.

    Example, with ``study`` a tiny study:
        >>> proposal = propose(study.with_("expect.seed_sd=0.01"), 1.5)
        >>> proposal.chance >= 0.8, len(proposal.overrides)
        (True, 3)
    """
    if not (math.isfinite(detect) and detect > 0 and detect != 1):
        raise UsageError(f"{detect:g} is no effect: a multiplier above 1 or between 0 and 1", where="--detect")
    noise, costs = noise_of(study, root), _Costs(study)
    best: Proposal | None = None
    for rungs, at in itertools.product(RUNGS, range(max(RUNGS) - 1)):
        if at > rungs - 2:
            continue
        for seeds in SEEDS:
            flops = costs.total(rungs, at, seeds)
            if best is not None and flops >= best.flops:
                break
            chance = _chance(costs, noise, detect, rungs, at, seeds)
            if chance >= POWER:
                best = Proposal(detect, _overrides(study, rungs, at, seeds), chance, flops, noise)
                break
    if best is None:
        most = f"no study of up to {max(RUNGS)} rungs and {max(SEEDS)} seeds"
        what = f"{most} finds {detect:g}x with a chance of {POWER:.0%}"
        raise UsageError(
            what, where="--detect", fix="ask for a larger effect, or lower the noise: a longer lowest rung"
        )
    return best


class _Costs:
    """FLOPs of a study's runs, if its ladder went on beyond its top as it begins."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.lowest: dict[str, float] = {}
        for arm in study.everyone:
            self.lowest[arm] = float(whole_run(study.base(arm))[1].flops)

    def run(self, arm: str, rung: int) -> float:
        """Of one run."""
        return self.lowest[arm] * float(2**rung)

    def total(self, rungs: int, at: int, seeds: int) -> float:
        """Of all planned runs."""
        study, baseline = self.study, self.study.baseline
        trials = len(study.tuning.seeds) * trials_of(study, baseline)
        whole = len(study.tuning.seeds) * len(study.grid(baseline))
        top = whole if study.tuning.top_points is None else len(study.tuning.seeds) * study.tuning.top_points
        tuning = trials * sum(self.lowest.values()) + top * self.run(baseline, rungs - 1)
        ladder = sum(self.run(baseline, rung) for rung in range(rungs))
        return tuning + seeds * (ladder + sum(self.run(arm, at) for arm in study.arms))


def _chance(costs: _Costs, noise: Noise, detect: float, rungs: int, at: int, seeds: int) -> float:
    """Of finding the effect in the arm that is hardest to judge."""
    study, found = costs.study, 1.0
    for arm in study.arms:
        own = costs.run(arm, at)
        low, high = (costs.run(study.baseline, rung) / own for rung in (0, rungs - 1))
        if not low < detect < high:
            return 0.0
        chance = Chance(noise.log_sd, seeds, len(study.arms), low, high, noise.curve, noise.bend)
        if chance.bounded > 1 - POWER:  # an arm that is just as good would be no more than a bound
            return 0.0
        found = min(found, chance.found(detect))
    return found


def _overrides(study: Study, rungs: int, at: int, seeds: int) -> tuple[str, ...]:
    """What the form changes, as overrides; the study's own seeds are kept and others added."""
    first = study.ladder.rungs[0]
    whole = study.ladder.axis != "flops"
    ladder = [int(first) * 2**k if whole else first * 2**k for k in range(rungs)]
    taken = {*study.seeds, *study.tuning.seeds}
    more = [seed for seed in range(1, 200) if seed not in taken]
    wanted = [*study.seeds, *more][:seeds]
    return (f"ladder.rungs={ladder}", f"seeds={wanted}", *(f"arms.{arm}.rungs=[{at}]" for arm in study.arms))

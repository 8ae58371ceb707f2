"""Watching a run: what progress bars and trackers hear, and when a run that stayed finite diverged all the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean, variance
from typing import Any, Protocol

from ..core.errors import NumericsError
from ..core.scale import Scale
from ..store.run import Run

WINDOW = 10
"""Steps at a run's beginning and end whose losses are averaged to tell whether it diverged."""
STANDARD_ERRORS = 3
"""How far above its start a run must end to have diverged, so that noise alone condemns about one run in a thousand."""


@dataclass(frozen=True)
class Progress:
    """What a progress bar wants to know.

    Args:
        step: steps done.
        horizon: steps in all; 0: the budget is in seconds.
        loss: of the last step, nats a unit.
        seconds: of training so far, evaluation not counted.
        tokens_per_second: of the last step.
        utilisation: the last step's share of the machine's matmul rate; 0: unknown.
        value: of the last evaluation's first metric, on ``scale``; None before any.
        bound: that value is a bound.
        scale: what it is measured on.
        new: it was measured at this very step.
    """

    step: int
    horizon: int
    loss: float
    seconds: float
    tokens_per_second: float
    utilisation: float
    value: float | None
    bound: bool
    scale: Scale
    new: bool = True


class Follower(Protocol):
    """Follows a run from outside. Nothing of the run depends on it: it is no part of the recipe, and must not raise."""

    def begin(self, run: Run, step: int) -> None:
        """The run is about to train from ``step`` steps on; whatever it recorded behind them will be recorded again."""

    def record(self, record: Mapping[str, Any]) -> None:
        """A line that was added to the run's ``metrics.jsonl``."""

    def end(self, run: Run) -> None:
        """The run has ended, or stopped for now: its directory says how."""


@contextmanager
def following(run: Run, follower: Follower | None) -> Iterator[Callable[[int], None]]:
    """Let a follower hear what the run records, from a call of what this gives, with the steps done so far, to the end.

    It hears of the end only once the run's directory says how it ended.
    """

    def begin(step: int) -> None:
        if follower is not None:
            follower.begin(run, step)
            run.hear = follower.record

    try:
        yield begin
    finally:
        if follower is not None and run.hear is not None:
            run.hear = None
            follower.end(run)


def refuse_divergence(first: Sequence[float], last: Sequence[float]) -> None:
    """A run that ends clearly above where it began has diverged, however finite it is.

    Args:
        first: losses of the first ``WINDOW`` steps.
        last: losses of the last ``WINDOW`` steps.

    Raises:
        NumericsError: the mean of the last ones exceeds that of the first by ``STANDARD_ERRORS`` of the difference's.
    """
    noise = math.sqrt((variance(first) + variance(last)) / WINDOW)
    if fmean(last) > fmean(first) + STANDARD_ERRORS * noise:
        raise NumericsError(
            f"the loss ended at {fmean(last):.3f}, above its start {fmean(first):.3f}: the run diverged",
            fix="try a lower learning rate",
        )

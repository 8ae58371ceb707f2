"""Showing runs in the trackers that people already use. Nothing of a run depends on it: no recipe names a tracker."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from ..core.errors import UsageError, nearest
from ..core.facade import classes_in
from ..store.records import numbers
from ..store.run import Run

FOLDER = Path(__file__).parent / "trackers"
PROJECT = "isoflop"
"""The project that runs belong to, in trackers that ask for one."""
EVENT = "tracked"
"""The kind of event by which a run remembers that a tracker began with it."""


@dataclass(frozen=True)
class Tracked:
    """A run as trackers know it.

    Args:
        id: the same whenever the run goes on, and of no other run.
        name: of the run's directory.
        group: the study that it belongs to; "" if none.
        directory: of the run.
        root: of all runs.
        config: the recipe as JSON values.
        step: steps done; what the tracker was told of this one and later ones will be told again.

    Example:
        >>> Tracked("9f2c", "base-9f2c", "", Path("runs/base-9f2c"), Path("runs"), {"seed": 1}, step=0).config["seed"]
        1
    """

    id: str
    name: str
    group: str
    directory: Path
    root: Path
    config: Mapping[str, Any]
    step: int


class Tracker(Protocol):
    """One run in a tracker. Whatever it raises is told once, and the run goes on without it."""

    def begin(self, run: Tracked) -> None:
        """Make the run known, or go on with it where it is known already."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of one step, by names such as ``train/loss``."""

    def end(self, state: str, values: Mapping[str, float]) -> None:
        """The run is done, stopped, diverged or failed; with the numbers of its result."""


def trackers() -> dict[str, str]:
    """The trackers that there are, by file: the class of each.

    Example:
        >>> sorted(trackers())
        ['tensorboard', 'trackio', 'wandb']
    """
    return {file: name for name, file in classes_in(FOLDER).items()}


def make(name: str) -> Tracker:
    """A tracker by its name.

    Raises:
        UsageError: there is none of that name, or its package is not installed.
    """
    known = trackers()
    if name not in known:
        raise UsageError(f"no tracker is named {name!r}", where="--track", fix=nearest(name, known))
    try:
        module = import_module(f"{__package__}.trackers.{name}")
        return getattr(module, known[name])()  # type: ignore[no-any-return]
    except ModuleNotFoundError as error:
        what = f"{name} needs the package {error.name}"
        raise UsageError(what, where="--track", fix="pip install 'isoflop[track]'") from error


class Trackers:
    """A ``train.watch.Follower`` that shows a run in trackers; one that fails is left out from then on.

    A tracker that has not seen the run before is told first what was recorded without it.

    Args:
        names: of the trackers.
        group: the study that the run belongs to; "" if none.
        warn: called once for each tracker that fails; by default that goes to standard error.

    Raises:
        UsageError: see ``make``.

    Example:
        >>> Trackers([]).names
        ()
    """

    def __init__(self, names: Sequence[str], group: str = "", warn: Callable[[str], None] | None = None) -> None:
        self.names, self.group, self._warn = tuple(dict.fromkeys(names)), group, warn or _say
        self._live: dict[str, Tracker] = {name: make(name) for name in self.names}
        self._run: Run | None = None

    def begin(self, run: Run, step: int) -> None:
        """Begin in every tracker; see ``train.watch.Follower``."""
        self._run = run
        tracked = Tracked(run.id, run.path.name, self.group, run.path, run.path.parent, run.resolved, step)
        before = {event.get("tracker") for event in run.events(EVENT)}
        for name in list(self._live):
            self._try(name, lambda tracker: tracker.begin(tracked))
            for record in run.metrics():  # all of it to who is new, else what the last checkpoint's step had recorded
                if name not in before or record.get("step") == step:
                    self._try(name, _logging(record))
            if name in self._live and name not in before:
                run.event(EVENT, tracker=name)

    def record(self, record: Mapping[str, Any]) -> None:
        """Pass a record on."""
        for name in list(self._live):
            self._try(name, _logging(record))

    def end(self, run: Run) -> None:
        """Say how the run ended, with its result if it has one."""
        state, values = run.status.state, dict(numbers(run.result))
        for name in list(self._live):
            self._try(name, lambda tracker: tracker.end(state, values))

    def _try(self, name: str, act: Callable[[Tracker], None]) -> None:
        """Let a tracker act, if it still lives; whatever goes wrong in somebody else's program is not the run's."""
        if name not in self._live:
            return
        try:
            with redirect_stdout(io.StringIO()):  # what they like to say is no output of ours
                act(self._live[name])
        except Exception as error:
            del self._live[name]
            what = f"{name} failed ({type(error).__name__}: {error}): the run goes on without it"
            with suppress(Exception):
                self._warn(what)
            if self._run is not None:
                with suppress(Exception):
                    self._run.event("tracker", message=what)


def _logging(record: Mapping[str, Any]) -> Callable[[Tracker], None]:
    kind = "train" if record.get("kind") == "step" else str(record.get("kind"))
    step = int(record.get("step", 0))
    values = {f"{kind}/{name}": value for name, value in numbers(record) if name != "step"}
    return lambda tracker: tracker.log(step, values)


def _say(message: str) -> None:
    print(f"note: {message}", file=sys.stderr)

"""What a study that is under way leaves for whoever watches it: which runs it has begun to ask for, and who works."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast

from ..core.documents import Frozen
from ..core.errors import DataError, UsageError
from ..core.files import write_json
from ..core.reading import read_json
from .names import printable
from .results import Axis, study_home
from .run import process_lives

PROGRESS = "progress.json"
"""The file of a study's directory that says so; gone once the study's result is there."""


class AskedRun(Frozen):
    """A run that a study has asked for, by the hash of its recipe.

    Example:
        >>> AskedRun(arm="muon", rung=0, seed=1, role="tuning", hyper={}, recipe_hash="ab", flops=10**9).arm
        'muon'
    """

    arm: str
    rung: int
    seed: int
    role: Literal["tuning", "evaluation"]
    hyper: dict[str, float]
    recipe_hash: str
    flops: int
    """Model FLOPs that training it takes."""


class StudyProgress(Frozen):
    """``progress.json``: a study under way, or one that was stopped.

    Example:
        >>> shape = dict(name="duel", title="", baseline="adamw", arms=["muon"], rung_axis="steps", rungs=[100.0])
        >>> made = StudyProgress(**shape, unit="bits per byte", higher_is_better=False, definition="", workers=2)
        >>> made.runs, made.alive
        ([], True)
    """

    name: str
    title: str
    baseline: str
    arms: list[str]
    rung_axis: Axis
    rungs: list[float]
    unit: str
    higher_is_better: bool
    definition: str
    """The study's TOML."""
    workers: int
    """Processes that run at once."""
    started: str = ""
    """When this process began with it."""
    pid: int = os.getpid()
    host: str = socket.gethostname()
    runs: list[AskedRun] = []
    """Those asked for so far; tuning decides what follows."""
    ahead: float = 0.0
    """Model FLOPs of the runs that are planned besides."""

    @property
    def alive(self) -> bool:
        """Whether the process still works on it, as far as this machine can tell."""
        return self.host != socket.gethostname() or process_lives(self.pid)

    @classmethod
    def read(cls, directory: Path) -> StudyProgress:
        """Of a study's directory; DataError if it has none."""
        return cast(StudyProgress, read_json(directory / PROGRESS, cls))


class ProgressBoard:
    """Keeps ``progress.json`` up to date while a study runs; a context manager that leaves it only where work is left.

    Args:
        root: directory of runs and studies.
        facts: the study's, as ``StudyProgress`` has them.

    Example:
        >>> shape = dict(name="duel", title="", baseline="adamw", arms=["muon"], rung_axis="steps", rungs=[100.0])
        >>> with ProgressBoard(Path("runs"), **shape, unit="bits per byte", higher_is_better=False, definition="",
        ...                    workers=2) as board:
        ...     board.ask([], ahead=0.0)
        ...     (board.home / PROGRESS).exists()
        True
        >>> (board.home / PROGRESS).exists()
        False
    """

    def __init__(self, root: Path, **facts: Any) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self.state = StudyProgress(**facts, started=now, pid=os.getpid(), host=socket.gethostname())
        self.home = study_home(root, self.state.name, self.state.definition)
        self._first = not root.exists()
        self.begun = False
        """Whether a run has come back: else a refusal leaves nothing."""

    def __enter__(self) -> ProgressBoard:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if kind is None or (issubclass(kind, UsageError | DataError) and not self.begun):
            with suppress(OSError):
                (self.home / PROGRESS).unlink()
                self.home.rmdir()  # unless there is more in it
                if self._first:
                    self.home.parent.rmdir()

    def ask(self, runs: Iterable[AskedRun], ahead: float) -> None:
        """Say that these runs are asked for now.

        Args:
            runs: which ones; those that were asked for before stay.
            ahead: model FLOPs of the runs that are planned besides.
        """
        known = {run.recipe_hash for run in self.state.runs}
        more = [run for run in runs if run.recipe_hash not in known]
        self.state = self.state.model_copy(update={"runs": [*self.state.runs, *more], "ahead": ahead})
        write_json(self.home / PROGRESS, self.state.model_dump(mode="json"))


def unfinished(root: Path) -> dict[str, StudyProgress]:
    """The studies below a root that are under way or were stopped, by the name of their directory."""
    places = sorted(root.glob(f"[!.]*/{PROGRESS}"))
    return {printable(place.parent.name): StudyProgress.read(place.parent) for place in places}

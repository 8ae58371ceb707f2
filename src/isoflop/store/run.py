"""A run directory: one executed recipe, with everything that it was told, spent, measured and saved.

::

    <root>/<label>-<hash12>/
      recipe.toml        as given              resolved.json   the recipe with every default
      environment.json   versions, machine     status.json     state, heartbeat, process
      metrics.jsonl      append-only           events.jsonl    append-only
      ledger.json        what was spent        result.json     what came out
      ancestors.json     whose models it uses  lock            held while a process works on the run
      checkpoints/<step>/

Readers (``Run.read``, the index, reports) need no torch and import no part.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import socket
import time
from collections.abc import Callable, Container, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from ..core.errors import DataError, RecipeError, UsageError
from ..core.files import (
    append_jsonl,
    clear_leftovers,
    disk_errors,
    mend_jsonl,
    open_output,
    take_lock,
    write_atomic,
    write_json,
)
from ..core.reading import contained, each_jsonl, read_bytes, read_json, read_jsonl, user_path
from ..core.recipe import Recipe, StoredRecipe, hash_of
from .checkpoint import FOLDER, Warn, commit, newest, steps
from .environment import determinism, differences, environment, told
from .fresh import create, fill, now
from .names import component, printable
from .records import Ancestors, Change, Event, Ledger, MetricRecord, Result, State, Status

_LABELLED = re.compile(r"-[0-9a-f]{12}$")
_BEAT = 1.0  # seconds between heartbeats, or 100 times what one takes to write if that is more


class Run:
    """One run directory. ``Run.open`` makes or continues one, ``Run.read`` only looks at it.

    A run is its directory: everything of it can be read there by any program, while it trains and after. Train through
    ``isoflop.train``, which opens, locks and fills it; read with this class.

    Attributes:
        path: the directory.
        resolved: the recipe as JSON values.
        hash: the recipe's hash (64 hex digits).
        warn: called with each warning (a damaged checkpoint, a changed environment), which also becomes an event.
        hear: called with each metric that was recorded.

    Example, with ``recipe`` a recipe of nine steps:
        >>> run = Run.open("runs", recipe)
        >>> run.record("step", step=1, loss=5.5)
        >>> Run.read(run.path).state, [record["loss"] for record in run.metrics("step")]
        ('created', [5.5])
    """

    def __init__(self, path: Path, resolved: Mapping[str, Any]) -> None:
        self.path = path
        self.resolved = dict(resolved)
        self.hash = hash_of(self.resolved)
        self.warn: Callable[[str], None] | None = None
        self.hear: Callable[[Mapping[str, Any]], None] | None = None
        self._next_beat = 0.0

    # ------------------------------------------------------------ opening

    @classmethod
    def open(cls, root: str | Path, recipe: Recipe, *, text: str | None = None, name: str | None = None) -> Run:
        """The run of ``recipe`` under ``root``: the one that is there, under whatever label, or a new one.

        Args:
            root: directory of all runs; made if needed.
            recipe: what is to be trained.
            text: the TOML that the recipe was read from; by default the recipe written out.
            name: the directory's whole name (one path component) instead of ``<label>-<hash12>``.

        Raises:
            RecipeError: the directory ``name`` holds another recipe; lists every key that differs.
            UsageError: ``name`` is not one path component.
            StorageError: the disk refused.
        """
        root = user_path(root)
        found = None if name else cls.find(root, recipe)
        path = found.path if found else root / (component(name) if name else f"{recipe.name}-{recipe.id}")
        if not os.path.lexists(path):
            create(path, recipe, recipe.to_toml() if text is None else text)
        run = cls.read(path)
        if run.hash != recipe.hash:
            changes = run.recipe.differences(recipe)
            headline = "holds a run of another recipe, so give this one another name; what differs:"
            if all(change.startswith("budget.") for change in changes):
                headline = (
                    "holds a run with another budget, so give this one another name: it goes on from that run's state "
                    f"where its schedule allows that, else start={path} goes on from its weights; what differs:"
                )
            raise RecipeError([headline, *changes], source=str(path))
        run.recipe = recipe
        return run

    @classmethod
    def within(cls, directory: Path, recipe: Recipe) -> Run:
        """A new run of ``recipe`` in an empty directory, which whoever made that publishes when the run is whole."""
        fill(directory, recipe, recipe.to_toml())
        run = cls.read(directory)
        run.recipe = recipe
        return run

    @classmethod
    def find(cls, root: str | Path, recipe: Recipe) -> Run | None:
        """The run of ``recipe`` under ``root``, under whatever label or name: a finished one, if there are several."""
        found = None
        for path in _candidates(user_path(root), recipe.id):
            with contextlib.suppress(DataError):
                run = cls.read(path)
                if run.hash == recipe.hash:
                    found = found or run
                    if run.finished:
                        return run
        return found

    @classmethod
    def read(cls, path: str | Path) -> Run:
        """The run stored at ``path``; DataError if that is none or its recipe cannot be read."""
        path = user_path(path)
        if not os.path.isfile(path / "resolved.json"):
            raise DataError("is not a run directory", where=str(path), fix="`isoflop runs` lists the runs there are")
        resolved = read_json(contained(path, "resolved.json"), dict[str, Any])
        try:
            return cls(path, resolved)
        except RecursionError as error:
            raise DataError(f"does not hold a recipe ({error})", where=str(path / "resolved.json")) from error

    # ------------------------------------------------------------ what it holds

    @property
    def id(self) -> str:
        """The first 12 digits of the hash."""
        return self.hash[:12]

    @property
    def label(self) -> str:
        """The directory's name without the hash."""
        return printable(self.path.name.removesuffix(f"-{self.id}"))

    @functools.cached_property
    def recipe(self) -> Recipe:
        """The recipe, validated again (imports its parts); RecipeError if this version of isoflop refuses it."""
        return StoredRecipe.from_json(self.resolved, source=str(self.path / "resolved.json"))

    @property
    def environment(self) -> dict[str, Any]:
        return self._tree("environment.json", dict[str, Any])

    @property
    def ledger(self) -> dict[str, dict[str, float]]:
        """What was spent, by phase and axis; {} before anything was written."""
        return self._tree("ledger.json", Ledger)

    @property
    def ancestors(self) -> Ancestors:
        """What was spent on the models that it begins with or uses, by the hash of the recipe that made each."""
        return self._tree("ancestors.json", Ancestors)

    @property
    def result(self) -> dict[str, Any]:
        """What came out (``records.Result``); {} before the end."""
        return self._tree("result.json", Result)

    def figure(self, name: str) -> float:
        """A number of the result ("value", "flops" ...); DataError if the result has none of that name."""
        value = self.result.get(name)
        if not isinstance(value, int | float):
            fix = "restore that file, or train the recipe again under another --name"
            raise DataError(f"lacks the number {name!r}", where=str(self.path / "result.json"), fix=fix)
        return value

    @property
    def text(self) -> str:
        """The recipe as it was given; "" where the run does not have it."""
        file = contained(self.path, "recipe.toml")
        return read_bytes(file).decode(errors="replace") if os.path.lexists(file) else ""

    @property
    def status(self) -> Status:
        return cast(Status, read_json(contained(self.path, "status.json"), Status))

    @property
    def state(self) -> str:
        """The status' state, or "interrupted" where it says running but no process on this host works on the run."""
        status = self.status
        if status.state != "running" or status.host != socket.gethostname():
            return status.state
        held = _held(self.path / "lock")
        return "running" if (process_lives(status.pid) if held is None else held) else "interrupted"

    @property
    def finished(self) -> bool:
        """Nothing is left to do: the run is done, or diverged (it would again)."""
        return self.status.state in ("done", "diverged")

    @property
    def begun(self) -> bool:
        """Whether anything came of it that is kept: a measurement, a checkpoint, a result."""
        return any(os.path.lexists(self.path / name) for name in ("metrics.jsonl", "result.json", FOLDER))

    @property
    def steps(self) -> list[int]:
        """Steps of the checkpoints that are there, damaged ones included, the newest first."""
        return steps(self._checkpoints)

    def metrics(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Recorded metrics in order (``records.MetricRecord``), all or of one kind; a torn last line is left out."""
        return self._records("metrics.jsonl", kind, MetricRecord)

    def events(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Recorded events in order (``records.Event``), all or of one kind."""
        return self._records("events.jsonl", kind, Event)

    # ------------------------------------------------------------ working on it

    @contextlib.contextmanager
    def lock(self) -> Iterator[Run]:
        """Work on the run alone; a lock vanishes with its process. Clears what a killed process left.

        Raises:
            UsageError: another process holds it (at once, naming pid and host).
        """
        file = self.path / "lock"
        handle = open_output(file, os.O_RDWR)
        try:
            if not take_lock(handle, tries=5):  # a reader that looks whether it is free holds it a moment
                holder = printable(os.read(handle, 200).decode(errors="replace")) or "another process"
                fix = "wait for it, or stop it and run again"
                raise UsageError(f"is in use by {holder}", where=str(self.path), fix=fix)
            with disk_errors(file):
                os.ftruncate(handle, 0)
                os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
                self._clear_leftovers()
            yield self
            os.ftruncate(handle, 0)
        finally:
            os.close(handle)

    def set_status(
        self, state: State, *, step: int | None = None, horizon: int | None = None, message: str = ""
    ) -> None:
        """Change the state; ``step`` and ``horizon`` stay as they were unless given."""
        old = self.status
        new = Status(
            state=state,
            created=old.created,
            updated=now(),
            pid=os.getpid(),
            host=socket.gethostname(),
            step=old.step if step is None else step,
            horizon=old.horizon if horizon is None else horizon,
            message=message,
        )
        write_json(self.path / "status.json", new.model_dump())

    def heartbeat(self, step: int) -> None:
        """Say that the run is alive at ``step``: at most once a second, and at most 1 % of the time on a slow disk."""
        start = time.monotonic()
        if start < self._next_beat:
            return
        self.set_status("running", step=step)
        self._next_beat = start + max(_BEAT, 100 * (time.monotonic() - start))

    def record(self, kind: str, **values: Any) -> None:
        """Append a metric; give ``step=`` (steps completed) so that a resumed run can drop what it does again."""
        record = {"kind": kind, **values}
        append_jsonl(self.path / "metrics.jsonl", record)
        if self.hear is not None:
            self.hear(record)

    def event(self, kind: str, **values: Any) -> None:
        """Append an event with the time."""
        append_jsonl(self.path / "events.jsonl", {"time": now(), "kind": kind, **values})

    def truncate_metrics(self, step: int, *, again: str | None = None) -> None:
        """Drop the metrics after ``step`` steps, atomically; called when a run resumes from that step.

        Broken lines behind the last record that is kept go too: a machine that loses power leaves blocks of zeros in
        whatever was written after the checkpoint.

        Args:
            step: of the last record that is kept.
            again: a kind of which the record of ``step`` itself is dropped too, since it will be made again.

        Raises:
            DataError: a line in front of a record that is kept is broken.
        """

        def stays(record: dict[str, Any]) -> bool:
            at = record.get("step", 0)
            return bool(at < step or (at == step and record.get("kind") != again))

        kept: list[dict[str, Any]] = []
        broken, count = None, 0
        for record in each_jsonl(contained(self.path, "metrics.jsonl"), MetricRecord):
            count += 1
            if isinstance(record, DataError):
                broken = broken or record
            elif stays(record):
                if broken is not None:
                    raise broken
                kept.append(record)
        if len(kept) < count:
            lines = "".join(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n" for record in kept)
            write_atomic(self.path / "metrics.jsonl", lines)

    def save(
        self,
        step: int,
        write: Callable[[Path], None],
        due: Container[int] | None = None,
        pinned: Container[int] = (),
    ) -> Path:
        """Commit a checkpoint that ``write`` fills (see ``checkpoint.commit``), metrics up to it made durable first."""
        for name in ("metrics.jsonl", "events.jsonl"):
            with contextlib.suppress(FileNotFoundError), (self.path / name).open("rb") as file:
                os.fsync(file.fileno())
        return commit(self._checkpoints, step, write, self.recipe.train.keep, self._warn, due, pinned)

    def checkpoint(self, warn: Warn | None = None) -> tuple[int, Path] | None:
        """Step and path of the newest good checkpoint (see ``checkpoint.newest``); None: begin at step 0.

        ``warn`` is called with each damaged one; by default they become events.
        """
        return newest(self._checkpoints, warn or self._warn)

    def write_ledger(self, ledger: Mapping[str, Any]) -> None:
        write_json(self.path / "ledger.json", ledger)

    def write_ancestors(self, ancestors: Ancestors) -> None:
        write_json(self.path / "ancestors.json", {key: each.model_dump() for key, each in ancestors.items()})

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Store what came out; the state "done" is set after it. The index shows its flops, tokens, seconds, value."""
        write_json(self.path / "result.json", result)

    def check_environment(self, **facts: Any) -> list[Change]:
        """Compare this process with the one that began the run: what may change its bytes.

        ``facts`` are what only the caller knows (``threads``, ``device``). On a run not yet begun they are stored and
        nothing differs. Differences become an event.
        """
        now = environment(determinism(self.recipe.train), **{"device": self.recipe.train.device, **facts})
        if not self.begun:
            write_json(self.path / "environment.json", now)
            return []
        changes = differences(self.environment, now)
        if changes:
            self.event("environment", changes=changes)
            if self.warn is not None:
                self.warn(f"{self.path}: begun elsewhere ({', '.join(map(told, changes))}): its bytes may differ")
        return changes

    # ------------------------------------------------------------ inside

    @property
    def _checkpoints(self) -> Path:
        return contained(self.path, FOLDER)

    def _tree(self, name: str, kind: Any) -> dict[str, Any]:
        file = contained(self.path, name)
        return cast("dict[str, Any]", read_json(file, kind)) if os.path.lexists(file) else {}

    def _records(self, name: str, kind: str | None, form: Any) -> list[dict[str, Any]]:
        records = read_jsonl(contained(self.path, name), form)
        return [record for record in records if kind is None or record.get("kind") == kind]

    def _clear_leftovers(self) -> None:
        clear_leftovers(self.path)
        clear_leftovers(self._checkpoints)
        mend_jsonl(self.path / "metrics.jsonl")
        mend_jsonl(self.path / "events.jsonl")

    def _warn(self, message: str) -> None:
        if self.warn is not None:
            self.warn(f"{self.path}: {message}")
        self.event("checkpoint", message=message)


def run_directories(root: Path) -> list[Path]:
    """Directories of runs below a root by name, broken ones included; a hidden one is what a removal left behind."""
    return [path.parent for path in sorted(root.glob("[!.]*/resolved.json"))]


def _candidates(root: Path, short: str) -> Iterator[Path]:
    """Directories that may hold the run whose hash begins with ``short``: labelled so, then those with other names."""
    paths = sorted(root.glob("[!.]*"))
    yield from (path for path in paths if path.name.endswith(f"-{short}"))
    yield from (p for p in paths if not _LABELLED.search(p.name) and os.path.isfile(p / "resolved.json"))


def _held(lock: Path) -> bool | None:
    """Whether a process holds the lock; None where that cannot be told.

    A process number tells less: it may by now be another process's, or count in another container.
    """
    try:
        handle = os.open(lock, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        return not take_lock(handle, shared=True)
    except OSError:
        return None
    finally:
        os.close(handle)


def process_lives(pid: int) -> bool:
    """Whether a process of this number exists on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

"""Local worker processes, one thread each: runs go out longest first, finished ones are never repeated."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Any, Protocol

from pydantic import ValidationError

from ..core.errors import DataError, IsoflopError, Stopped, UsageError
from ..core.reading import complaint
from ..core.recipe import Recipe, hash_of
from ..core.registry import SLOTS, shipped
from ..ledger.budgets import whole_run
from ..store.names import printable
from ..store.results import Point, RunRow, Trunk
from ..store.run import Run
from ..train.signals import stop_signals
from .corpus import Texts
from .job import JobResult
from .provenance import key_of, made_by
from .study import Role

WORKER = "from isoflop.lab.job import serve; serve()"
UNKNOWN = "import json; from isoflop.core.registry import names; " + (
    "json.dump([p for p in json.load(sys.stdin) if p[1] not in names(p[0])], open(int(sys.argv[-1]), 'w'))"
)
"""What a fresh interpreter runs to say which of the parts [slot, name] it does not know."""
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


@dataclass(frozen=True, eq=False)
class Assignment:
    """One run of a study.

    Example, with ``study`` a tiny study:
        >>> job = Assignment(study.run_recipe("muon", 0, 1), "muon", 0, "evaluation")
        >>> job.seed, job.flops > 0
        (1, True)
    """

    recipe: Recipe
    arm: str
    rung: int
    role: Role
    hyper: Mapping[str, float] = field(default_factory=dict)
    branch: int | None = None
    """Steps after which a longer run may go on from it, as it may from a shorter one; None: it is made by itself."""

    @property
    def seed(self) -> int:
        return self.recipe.seed

    @functools.cached_property
    def flops(self) -> int:
        """Model FLOPs that training it takes."""
        return whole_run(self.recipe)[1].flops

    @functools.cached_property
    def path(self) -> str:
        """What runs have in common that may share their first steps: all of the recipe but the budget."""
        return hash_of({**self.recipe.to_json(), "budget": ""})

    @property
    def label(self) -> str:
        chosen = ", ".join(f"{key} {value:g}" for key, value in self.hyper.items())
        return f"{self.arm}, rung {self.rung}, seed {self.seed}" + (f", {chosen}" if chosen else "")


class Executor(Protocol):
    """Whatever carries out runs: yields each one's row as it ends, in any order."""

    def __call__(self, assignments: Sequence[Assignment]) -> Iterator[RunRow]: ...


class WorkerDied(IsoflopError):
    """A worker process ended without an answer, for instance killed for want of memory."""


class RunFailed(IsoflopError):
    """A run of a study failed otherwise than by diverging; ``exit_code`` is that of its own error."""

    def __init__(self, what: str, exit_code: int, *, where: str) -> None:
        super().__init__(what, where=where)
        self.exit_code = exit_code


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    replies: IO[bytes]
    job: Assignment | None = None


class LocalWorkers:
    """An Executor over processes on this machine; a context manager that ends them.

    Args:
        root: directory of runs.
        count: processes.
        command: what each process executes, by default a worker that imports what this process does. The number of the
            file descriptor that takes its answers is put behind it.
        track: trackers that show the runs (``lab.tracking``).
        group: what trackers are told that the runs belong to.

    A finished run is not repeated: its directory answers, unless the text it was made on has changed (DataError). A
    part that only this process knows is refused (UsageError) before anything runs. SIGINT, SIGTERM and SIGHUP let
    every run save its state, then Stopped is raised; a worker that dies is WorkerDied with its run's name, after the
    others saved theirs.

    Example, with ``study`` a tiny study:
        >>> with LocalWorkers("runs", 2) as workers:  # doctest: +SKIP
        ...     rows = list(workers([Assignment(study.run_recipe("muon", 0, 1), "muon", 0, "evaluation")]))
    """

    def __init__(
        self,
        root: Path,
        count: int,
        *,
        command: Sequence[str] | None = None,
        track: Sequence[str] = (),
        group: str = "",
    ) -> None:
        self._told = {"root": str(root), "workers": count, "track": list(track), "group": group}
        self.root, self.count, self.command = root, count, interpreter(WORKER) if command is None else list(command)
        self._workers: list[_Worker] = []
        self._texts = Texts(root)
        self._signal = 0
        self._handlers: dict[int, Any] = {}
        self._wake = os.pipe()

    def __enter__(self) -> LocalWorkers:
        if threading.current_thread() is threading.main_thread():  # the only one that may
            self._handlers = {n: signal.signal(n, self._note) for n in stop_signals()}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        for end in self._wake:
            os.close(end)

    def __call__(self, assignments: Sequence[Assignment]) -> Iterator[RunRow]:
        """Carry out runs, longest first; each one's row as it ends."""
        refuse_unknown_parts(assignments)
        before = {job: finished(self.root, job.recipe) for job in assignments}
        self._texts.check(run for run in before.values() if run is not None)
        for job, found in before.items():
            if found is not None:
                yield row_of(found, job, reused=True)
        pending = [job for job, found in before.items() if found is None]
        pending.sort(key=lambda job: -job.flops)
        while pending or any(worker.job for worker in self._workers):
            self._dispatch(pending)
            for worker, job in self._answered():
                worker.job = None
                yield self._row(worker, job)

    # ------------------------------------------------------------ inside

    def _dispatch(self, pending: list[Assignment]) -> None:
        while len(self._workers) < min(self.count, len(pending) + sum(w.job is not None for w in self._workers)):
            self._workers.append(self._start())
        for worker in self._workers:
            if worker.job is None and (chosen := self._next(pending)) is not None:
                pending.remove(chosen)
                worker.job = chosen
                job = {"recipe": chosen.recipe.to_json(), "branch": chosen.branch, **self._told}
                assert worker.process.stdin is not None
                with contextlib.suppress(BrokenPipeError):  # it died: its answer will be missing
                    worker.process.stdin.write(json.dumps(job).encode() + b"\n")
                    worker.process.stdin.flush()

    def _next(self, pending: Sequence[Assignment]) -> Assignment | None:
        """The first run that need not wait for a shorter one whose steps it could share."""
        busy = [worker.job for worker in self._workers if worker.job is not None]

        def waits(job: Assignment) -> bool:
            return any(job.path == other.path and other.flops < job.flops for other in (*busy, *pending))

        return next((job for job in pending if job.branch is None or not waits(job)), None)

    def _start(self) -> _Worker:
        """A process in a session of its own, so that Ctrl-C reaches us alone; what it prints goes to stderr."""
        replies, writer = os.pipe()
        try:
            process = subprocess.Popen(
                [*self.command, str(writer)],
                stdin=subprocess.PIPE,
                stdout=2,
                pass_fds=[writer],
                env={**os.environ, **ONE_THREAD},
                start_new_session=True,
            )
        finally:
            os.close(writer)
        return _Worker(process, os.fdopen(replies, "rb"))

    def _answered(self) -> list[tuple[_Worker, Assignment]]:
        """Wait until workers have answered or died, or a signal came (Stopped)."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake[0], selectors.EVENT_READ)
            for worker in self._workers:
                if worker.job is not None:
                    selector.register(worker.replies, selectors.EVENT_READ, (worker, worker.job))
            ready = [] if self._signal else [key.data for key, _ in selector.select() if key.data is not None]
        if self._signal:
            self._stop()
            raise Stopped(self._signal, "", "the same command goes on from here")
        return ready

    def _row(self, worker: _Worker, job: Assignment) -> RunRow:
        reply = worker.replies.readline()
        if not reply.endswith(b"\n"):
            code = worker.process.wait()
            raise WorkerDied(
                f"its worker process {'was killed by signal ' + str(-code) if code < 0 else f'ended with code {code}'}",
                where=job.label,
                fix="the same command goes on from the last checkpoints; use fewer workers if memory was short",
            )
        try:
            said = JobResult.model_validate_json(reply)
        except ValueError:
            came = printable(reply[:200].decode(errors="replace"))
            raise RunFailed(f"its worker process did not answer but said {came!r}", 1, where=job.label) from None
        if said.status == "stopped":
            raise RunFailed("was stopped from outside; the same command goes on from here", 143, where=job.label)
        if said.status == "error":
            raise RunFailed(said.message, said.exit_code, where=job.label)
        found = finished(self.root, job.recipe)
        if found is None:
            raise DataError("the run says that it ended but its directory does not", where=job.label)
        self._texts.check([found], new=True)
        return row_of(found, job, reused=False)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._signal:  # asked twice: at once; what was saved before still stands
            for worker in self._workers:
                worker.process.kill()
        self._signal = number
        os.write(self._wake[1], b".")

    def _stop(self) -> None:
        """End all workers by ending their input; runs in progress save their state first."""
        for worker in self._workers:
            for end in (worker.process.stdin, worker.replies):
                if end is not None:
                    with contextlib.suppress(BrokenPipeError):
                        end.close()
        for worker in self._workers:
            worker.process.wait()
        self._workers = []


def interpreter(code: str) -> list[str]:
    """The command of a fresh interpreter that runs ``code`` and finds every module where this process finds it.

    Left alone, an interpreter would look into the working directory first, where a user's own ``queue.py`` may lie.
    """
    path = [str(entry) for entry in sys.path]
    return [sys.executable, "-I" if sys.flags.isolated else "-P", "-c", f"import sys; sys.path[:] = {path!r}; {code}"]


def refuse_unknown_parts(assignments: Iterable[Assignment]) -> None:
    """UsageError if a recipe has a part that a worker, being an interpreter of its own, would not find."""
    parts = {(part.slot, part.name): part for job in assignments for _, part in job.recipe.parts() if not shipped(part)}
    if not parts:
        return
    replies, writer = os.pipe()
    with os.fdopen(replies) as answer:
        asked = [*interpreter(UNKNOWN), str(writer)]
        done = subprocess.run(asked, input=json.dumps(list(parts)), stdout=2, pass_fds=[writer], text=True, check=False)
        os.close(writer)
        said = answer.read()
    if done.returncode:
        raise UsageError("a worker cannot load the parts of ISOFLOP_PLUGINS", where="ISOFLOP_PLUGINS", fix="see above")
    for slot, name in json.loads(said):
        module = type(parts[slot, name]).__module__
        raise UsageError(
            f"is known only to this process, which imported {module}; a study's workers are processes of their own",
            where=f"{slot} {name}",
            fix=f"put its file into src/isoflop/{SLOTS[slot]}, or declare it as an entry point of the group "
            "isoflop.parts and enable that in ISOFLOP_PLUGINS",
        )


def finished(root: Path, recipe: Recipe) -> Run | None:
    """The finished run of a recipe under ``root``, under whatever name."""
    run = Run.find(root, recipe)
    return run if run is not None and run.finished else None


def row_of(run: Run, job: Assignment, *, reused: bool) -> RunRow:
    """A finished run's directory as a row of its study. It was exclusive if no start of it had company."""
    ends = run.events("ended")
    diverged = run.status.state == "diverged"
    return RunRow(
        run=run.path.name,
        recipe_hash=run.hash,
        arm=job.arm,
        rung=job.rung,
        seed=job.seed,
        role=job.role,
        hyper=dict(job.hyper),
        status="diverged" if diverged else "done",
        curve=[] if diverged else points(run.metrics("evaluation"), str(run.path / "metrics.jsonl")),
        ledger=run.ledger,
        trunk=Trunk.of(run.events("lengthened")),
        ancestors=run.ancestors,
        reused=reused,
        fingerprint=run.result.get("fingerprint", ""),
        heldout=run.result.get("heldout", ""),
        exclusive=_exclusive(run),
        cpu_seconds=sum(end.get("cpu_seconds", 0.0) for end in ends) if ends else None,
        wall_seconds=sum(end.get("seconds", 0.0) for end in ends) if ends else None,
        memory_bytes=max((int(end["memory_bytes"]) for end in ends if "memory_bytes" in end), default=None),
        bits_per_weight=run.result.get("bits_per_weight"),
        inference_flops=run.result.get("inference_flops"),
        environment=key_of(made_by(run)),
    )


def _exclusive(run: Run) -> bool:
    """Whether no start of it had company, nor one of the run that it went on from, if that can be told."""
    if {start.get("workers") for start in run.events("started")} != {1}:
        return False
    shorter = [run.path.parent / event.get("run", "") for event in run.events("lengthened")]
    return all((place / "resolved.json").is_file() and _exclusive(Run.read(place)) for place in shorter)


def points(records: Iterable[Mapping[str, Any]], where: str) -> list[Point]:
    """Evaluation records as points, without what else they hold; DataError if one of them lacks something."""
    wanted = Point.model_fields
    try:
        return [
            Point(**{key: record[key] for key in wanted if key in record or wanted[key].is_required()})
            for record in records
        ]
    except (KeyError, ValidationError) as error:
        what = complaint(error) if isinstance(error, ValidationError) else f"it lacks {error}"
        raise DataError(f"an evaluation is not as it was recorded ({what})", where=where) from None

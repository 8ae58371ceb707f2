"""Work on units, each once: killed and started again, by one process or many, it leaves the same bytes.

What a unit gives lies in files that are named after its number and appear whole; its counts come last and say that it
is done.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ...core.cost import Cost
from ...core.errors import DataError, UsageError
from ...core.files import alone_in, clear_leftovers, jsonable, publish_file, write_json
from ...core.processes import end_with_parent
from ...core.reading import read_json, read_jsonl
from .inputs import BrokenRow, DocumentRow, Keys, Unit, cut_of, inside_none, rows_of, stamps
from .packed import line_writer

JOB, SUMMARY, DONE, BROKEN = "job.json", "summary.json", "done", "broken"
"""Names in a job's folder: what it is, what came of it, counts of units, and lines that hold no document."""
DOCUMENTS, ATTRIBUTES = "documents", "attributes"
"""Folders of what is kept, and of what is known of every document of the input, in its order."""
Counts = Counter[str]
Progress = Callable[[int, int, Mapping[str, int]], None]
"""Is told the bytes that are done, of how many, and the counts so far."""


class UnitWork(Protocol):
    """What is done with a unit; picklable, and the same whatever was done before."""

    def __call__(self, unit: Unit, desk: Desk, /) -> Counts: ...


@dataclass(frozen=True)
class JobSettings:
    """How a job runs; what changes nothing about its output is not part of what it is.

    Args:
        out: its folder.
        workers: processes.
        broken: lines that hold no document and are only counted; more are an error.
        keys: of records.
        format: of the documents that are written.
        progress: is told how far it is.

    Example:
        >>> JobSettings(Path("out")).workers
        1
    """

    out: Path
    workers: int = 1
    broken: int = 100
    keys: Keys = field(default_factory=Keys)
    format: str = "jsonl.gz"
    progress: Progress | None = None

    @property
    def alone(self) -> JobSettings:
        """The same in one process, for what holds a model."""
        return replace(self, workers=1)

    @property
    def desk(self) -> Desk:
        """Where each unit is worked on."""
        return Desk(self.out, self.keys, self.format, self.broken)


@dataclass(frozen=True)
class Desk:
    """Where a unit is worked on: reads its documents, writes its files.

    Args:
        out: the job's folder.
        keys: of records.
        format: of the documents that are written.
        broken: lines without a document before it is an error.

    Example:
        >>> Desk(Path("out"), Keys(), "jsonl", 0).path("documents", 3).name
        'part-00003.jsonl'
    """

    out: Path
    keys: Keys
    format: str
    broken: int

    def path(self, folder: str, number: int, kind: str | None = None) -> Path:
        """The file of a unit in one of the job's folders."""
        return part_file(self.out / folder, number, kind or self.format)

    def done(self, number: int, stage: str = DONE) -> Path:
        """The file of a unit's counts: it is there when that stage of the unit is done."""
        return self.out / stage / f"{number:05d}.json"

    @contextmanager
    def writer(self, folder: str, number: int, kind: str | None = None) -> Iterator[Callable[[bytes], Any]]:
        """Yield what writes a line to the file of a unit in a folder."""
        with line_writer(self.path(folder, number, kind), kind or self.format) as write:
            yield write

    def texts(self, unit: Unit, counts: Counts, *others: str) -> Iterator[DocumentRow]:
        """``rows`` of which nothing is read but id, text and other keys, where files have columns."""
        return replace(self, keys=self.keys.only(*others)).rows(unit, counts)

    def rows(self, unit: Unit, counts: Counts) -> Iterator[DocumentRow]:
        """The documents of a unit; lines that hold none are counted, and written to the folder ``broken``.

        Raises:
            DataError: there are too many of those.
        """
        with ExitStack() as stack:
            write: Callable[[bytes], Any] | None = None
            for row in rows_of(unit, self.keys):
                if isinstance(row, DocumentRow):
                    counts["documents"] += 1
                    counts["characters"] += len(row.text)
                    yield row
                    continue
                counts["broken"] += 1
                if counts["broken"] > self.broken:
                    raise too_many(row, counts["broken"])
                if write is None:
                    write = stack.enter_context(self.writer(BROKEN, unit.number, "jsonl"))
                write(json_line({"where": row.where, "what": row.what, "quote": row.quote}))


def part_file(folder: Path, number: int, kind: str) -> Path:
    """The file of a unit in a folder."""
    return folder / f"part-{number:05d}.{kind}"


def json_line(value: Any) -> bytes:
    """Compact JSON, keys as given; lone surrogates, as names of files and ids may hold, are escaped."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def too_many(row: BrokenRow, count: int) -> DataError:
    """The error of lines without documents."""
    quote = f": {row.quote}" if row.quote else ""
    what = f"{row.what}{quote}; {count:,} lines hold no document, more than are let pass"
    return DataError(what, where=row.where, fix="repair them, or let more pass: --broken N")


@contextmanager
def opened_job(settings: JobSettings, units: Sequence[Unit], what: Mapping[str, Any]) -> Iterator[None]:
    """Work in a job's folder alone; UsageError if it holds another job, or this one of other files.

    Args:
        settings: where.
        units: of the input.
        what: everything that decides the output, as JSON.
    """
    inside_none(settings.out, units)
    keys = {"text": settings.keys.text, "id": settings.keys.id}
    job = {**jsonable(what), "format": settings.format, "keys": keys, "files": stamps(units), "units": cut_of(units)}
    with alone_in(settings.out):
        place = settings.out / JOB
        if place.exists():
            known = read_json(place, dict[str, Any])
            if changed := sorted(key for key in {*known, *job} if known.get(key) != job.get(key)):
                fix = "name another folder, or remove that one"
                raise UsageError(f"was begun with other {' and '.join(changed)}", where=str(settings.out), fix=fix)
        else:
            if any(path.name != "lock" for path in settings.out.iterdir()):
                raise UsageError("is not empty", where=str(settings.out), fix="name a new folder for the output")
            write_json(place, job)
        for folder in settings.out.rglob("*"):
            if folder.is_dir():
                clear_leftovers(folder)
        yield


def work_through(units: Sequence[Unit], work: UnitWork, settings: JobSettings, stage: str = DONE) -> Counts:
    """Do every unit's work that is not done yet; the counts of all.

    Args:
        units: of the input.
        work: what is done with each.
        settings: where and by how many.
        stage: folder of the counts, one a stage of the job.

    Raises:
        DataError: too many lines hold no document, or a file cannot be read.
    """
    desk = settings.desk
    total, whole, done = Counts(), sum(unit.size for unit in units), 0
    places = {unit.number: desk.done(unit.number, stage) for unit in units}
    waiting = [unit for unit in units if not places[unit.number].exists()]
    for unit in units:
        if places[unit.number].exists():
            total.update(read_json(places[unit.number], dict[str, int]))
            done += unit.size
    for unit, counts in _worked(waiting, work, desk, settings.workers):
        total.update(counts)
        if total["broken"] > settings.broken:
            first = next(_first_broken(settings.out))
            raise too_many(first, total["broken"])
        write_json(places[unit.number], dict(sorted(counts.items())))
        done += unit.size
        if settings.progress is not None:
            settings.progress(done, whole, total)
    return total


def _worked(units: Sequence[Unit], work: UnitWork, desk: Desk, workers: int) -> Iterator[tuple[Unit, Counts]]:
    """Each unit and its counts, as they are done."""
    if workers <= 1 or len(units) <= 1:
        for unit in units:
            yield unit, work(unit, desk)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(units)), context, _alone_on_a_core) as pool:
        left, running = list(reversed(units)), dict[Future[Counts], Unit]()
        try:
            while left or running:
                while left and len(running) < workers + 1:
                    unit = left.pop()
                    running[pool.submit(work, unit, desk)] = unit
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _alone_on_a_core() -> None:
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C goes to all; the first process ends the others
    os.environ["OMP_NUM_THREADS"] = "1"
    end_with_parent()


def _first_broken(out: Path) -> Iterator[BrokenRow]:
    for path in sorted((out / BROKEN).glob("part-*.jsonl")):
        for known in read_jsonl(path, dict[str, str]):
            yield BrokenRow(**known)


def add_cost(counts: Counts, cost: Cost) -> None:
    """Note among a unit's counts what its work has cost."""
    counts.update({f"cost.{name}": amount for name, amount in asdict(cost).items()})


def take_cost(counts: Counts) -> dict[str, int]:
    """What all units' work has cost, by kind; no longer among the counts."""
    return {name: counts.pop(f"cost.{name}", 0) for name in asdict(Cost())}


def conclude(settings: JobSettings, counts: Counts, **facts: Any) -> dict[str, Any]:
    """Write what came of a job, and return it."""
    found = {**facts, "counts": dict(sorted(counts.items()))}
    write_json(settings.out / SUMMARY, found)
    return found


def write_array(path: Path, array: npt.NDArray[Any]) -> None:
    """Write an array as an ``.npy`` file, which is there when it is whole."""
    with publish_file(path) as partial, partial.open("wb") as file:
        np.save(file, array)

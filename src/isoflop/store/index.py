"""An SQLite index of all runs and studies under a root. Never the truth: it is derived from the directories, any time.

Reading looks at every directory's time stamps and reads again what has changed, so the index is never stale and
nothing is lost if ``index.sqlite`` is deleted.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from ..core.documents import leaves
from ..core.errors import DataError, UsageError, nearest
from ..core.reading import read_errors, read_json, user_path
from ..core.table import Table
from .fits import FIT, FitDocument
from .names import INDEX, printable
from .records import State, scale_of
from .results import STUDY, MultiplierRow, StudyResult
from .run import Run

T = TypeVar("T")
RUNS = {
    "id": "TEXT",
    "name": "TEXT",
    "hash": "TEXT",
    "status": "TEXT",
    "optimizer": "TEXT",
    "lr": "REAL",
    "seed": "INTEGER",
    "model": "TEXT",
    "budget": "TEXT",
    "steps": "INTEGER",
    "flops": "REAL",  # soon beyond 64 bits
    "tokens": "REAL",
    "seconds": "REAL",
    "value": "REAL",
    "bound": "INTEGER",
    "unit": "TEXT",
    "higher_is_better": "INTEGER",
    "created": "TEXT",
    "path": "TEXT",
    "reason": "TEXT",
}
STUDIES = {
    "name": "TEXT",
    "title": "TEXT",
    "verdict": "TEXT",
    "headline": "TEXT",
    "runs": "INTEGER",
    "created": "TEXT",
    "path": "TEXT",
}
SETTINGS = {"key": "TEXT", "value": "TEXT"}
"""Every key of a run's recipe, defaults included, with its value as text."""
MULTIPLIERS = {
    "arm": "TEXT",
    "axis": "TEXT",
    "rung": "INTEGER",
    "all_in": "INTEGER",
    "value": "REAL",
    "low": "REAL",
    "high": "REAL",
    "bound": "REAL",
    "censored": "TEXT",
    "significant": "INTEGER",
    "seeds": "INTEGER",
    "sentence": "TEXT",
}
"""What a study found, negative or not."""
MEMBERS = {"arm": "TEXT", "rung": "INTEGER", "seed": "INTEGER", "role": "TEXT", "hash": "TEXT"}
"""Which runs a study counts, by the hash of their recipe."""
FITS = ("name", "law", "source", "rows", "constants", "path")
"""Columns of ``fits``."""
STATES = (*get_args(State), "interrupted", "unreadable")
"""What the column ``status`` may hold."""
_TABLES = {"runs": RUNS, "studies": STUDIES}
_PARTS = {
    "runs": {"settings": SETTINGS},
    "studies": {"multipliers": MULTIPLIERS, "members": MEMBERS},
}
"""Tables of several lines for each run, each study; their first column is its ``path``."""
_VERSION = 6  # of the tables; another one on disk is thrown away
_FILES = ("resolved.json", "status.json", "result.json")  # what a row is made of
PartLines = Mapping[str, Iterable[Mapping[str, Any]]]
"""Table of several lines -> those of one run, or of one study."""


def runs(root: str | Path, *, status: str | None = None, name: str | None = None, order: str = "created") -> Table:
    """All runs under ``root``, one row each, with the columns of ``RUNS``.

    ``isoflop runs`` prints this table. It is read from an index that is brought up to date first, so thousands of runs
    take no longer than those that changed.

    Args:
        root: directory of runs.
        status: only runs of this status ("done", "interrupted", "unreadable" ...).
        name: only runs whose label matches this glob pattern.
        order: the column to sort by; "-value" sorts downwards. Rows without a value come last.

    A broken directory is a row of status "unreadable" with its ``reason``; unknown figures are NaN.

    Example, with ``recipe`` a recipe of nine steps:
        >>> from isoflop.store.run import Run
        >>> run = Run.open("runs", recipe)
        >>> table = runs("runs", name="sm*")
        >>> table.rows, table["status"][0]
        (1, 'created')
    """
    wanted = {"status = ?": status, "name GLOB ?": name}
    return _select(user_path(root), "runs", {k: v for k, v in wanted.items() if v is not None}, order)


def studies(root: str | Path, *, order: str = "created") -> Table:
    """All study results under ``root`` (``<root>/<study>/study.json``), with the columns of ``STUDIES``.

    Args:
        root: directory of runs.
        order: the column to sort by; "-name" sorts downwards.

    Example:
        >>> Path("runs").mkdir()
        >>> studies("runs").rows
        0
    """
    return _select(user_path(root), "studies", {}, order)


def fits(root: str | Path) -> Table:
    """All stored fits under ``root`` (``<root>/<name>/fit.json``) by name: law, what was fitted, rows, constants.

    One that cannot be read says so in the place of its constants.

    Example:
        >>> from isoflop.laws import Power, save
        >>> Path("runs/mine").mkdir(parents=True)
        >>> save(Power().fit({"C": [1.0, 2.0, 4.0], "y": [1.0, 2.1, 3.9]}), "runs/mine/fit.json")
        >>> fits("runs")["name"].tolist()
        ['mine']
    """
    rows = [_fit_row(place) for place in sorted(user_path(root).glob(f"[!.]*/{FIT}"))]
    return Table.from_records(rows) if rows else Table({column: [] for column in FITS})


def rebuild(root: str | Path) -> int:
    """Throw the index away and read every directory; the number of runs found."""
    root = user_path(root)
    if _ours(root):
        _delete(root)
    return len(_query(root, "SELECT path FROM runs"))


def _select(root: Path, table: str, wanted: dict[str, Any], order: str) -> Table:
    columns = _TABLES[table]
    key = order.removeprefix("-")
    if key not in columns:
        raise UsageError(f"no column is named {key!r} to order by", fix=nearest(key, columns))
    where = f"WHERE {' AND '.join(wanted)}" if wanted else ""
    way = "DESC" if order.startswith("-") else "ASC"
    query = f"SELECT {', '.join(columns)} FROM {table} {where} ORDER BY {key} IS NULL, {key} {way}, path"
    rows = _query(root, query, list(wanted.values()))
    if not rows:
        return Table({column: [] for column in columns})
    return Table.from_records(dict(zip(columns, row, strict=True)) for row in rows)


def _query(root: Path, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """Rows of the index."""
    return asked(root, lambda database: database.execute(query, values).fetchall())


def asked(root: Path, work: Callable[[sqlite3.Connection], T]) -> T:
    """What ``work`` finds in an index that was just brought up to date, in memory where none can be kept on disk.

    Args:
        root: directory of runs.
        work: reads; an ``sqlite3.Error`` that leaves it is taken to mean that the index is broken.

    Raises:
        DataError: ``root`` is no directory.
    """
    if not os.path.isdir(root):
        raise DataError("is no directory of runs", where=str(root), fix="choose another --root")

    def ask(place: Path | None) -> T:
        with _connect(place) as database:
            _refresh(database, root)
            return work(database)

    with read_errors(root):
        if not (_is_root(root) and _ours(root)):
            return ask(None)
        try:
            return ask(root)
        except sqlite3.OperationalError:  # read-only, no space, locked for long
            return ask(None)
        except sqlite3.DatabaseError:  # broken: the next reader makes a new one
            _delete(root)
            return ask(None)


def _is_root(root: Path) -> bool:
    """Whether ``root`` holds a run or a study: reading leaves nothing in other directories that it is pointed at."""
    return any(os.path.isfile(path / name) for path in root.iterdir() for name in (_FILES[0], STUDY))


def _ours(root: Path) -> bool:
    """Whether the index on disk may be written to or thrown away: there is none yet, it is broken, or made here.

    A link leads elsewhere; a database with other tables is another program's.
    """
    place = root / INDEX
    if not os.path.lexists(place):
        return True
    if not stat.S_ISREG(place.lstat().st_mode):
        return False
    database = sqlite3.connect(f"{place.resolve().as_uri()}?mode=ro", uri=True)
    try:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        columns = {name: {row[1] for row in database.execute(f"PRAGMA table_info({name})")} for name in _TABLES}
    except sqlite3.OperationalError:  # locked, or not to be read
        return False
    except sqlite3.DatabaseError:  # broken
        return True
    finally:
        database.close()
    if not tables:
        return True
    return {*_TABLES} <= tables <= {*_TABLES, *_parts()} and all("stamp" in columns[name] for name in _TABLES)


def _delete(root: Path) -> None:
    for name in (INDEX, f"{INDEX}-wal", f"{INDEX}-shm"):
        with contextlib.suppress(OSError):
            (root / name).unlink()


@contextlib.contextmanager
def _connect(root: Path | None) -> Iterator[sqlite3.Connection]:
    database = sqlite3.connect(root / INDEX if root else ":memory:", timeout=10)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        with database:
            if database.execute("PRAGMA user_version").fetchone()[0] != _VERSION:
                for name, columns in _TABLES.items():
                    database.execute(f"DROP TABLE IF EXISTS {name}")
                    fields = ", ".join(f"{column} {kind}" for column, kind in columns.items())
                    database.execute(f"CREATE TABLE {name} ({fields}, stamp TEXT, PRIMARY KEY (path))")
                for name, columns in _parts().items():
                    database.execute(f"DROP TABLE IF EXISTS {name}")
                    fields = ", ".join(f"{column} {kind}" for column, kind in columns.items())
                    database.execute(f"CREATE TABLE {name} (path TEXT, {fields})")
                    database.execute(f"CREATE INDEX {name}_of ON {name} (path)")
                database.execute(f"PRAGMA user_version = {_VERSION}")
        with database:
            yield database
    finally:
        database.close()


def _refresh(database: sqlite3.Connection, root: Path) -> None:
    """Read what is new or changed since its row was written, forget what is gone."""
    for table, files, lines_of in (("runs", _FILES, _run_lines), ("studies", (STUDY,), _study_lines)):
        old = dict(database.execute(f"SELECT path, stamp FROM {table}").fetchall())
        for path in root.iterdir():
            stamp = _stamp(path, files)
            named = path.name.isprintable() and not path.name.startswith(".")
            if stamp and named and old.pop(path.name, None) != stamp:
                row, parts = lines_of(path)
                _put(database, table, row, stamp)
                _put_parts(database, table, path.name, parts)
        for name in (table, *_PARTS[table]):
            database.executemany(f"DELETE FROM {name} WHERE path = ?", [(path,) for path in old])


def _put(database: sqlite3.Connection, table: str, row: dict[str, Any], stamp: str) -> None:
    names = [*_TABLES[table], "stamp"]
    holders = ", ".join("?" for _ in names)
    full = {**row, "stamp": "" if row.get("status") == "running" else stamp}  # its process may end without a word
    values = [full.get(name) for name in names]
    database.execute(f"INSERT OR REPLACE INTO {table} ({', '.join(names)}) VALUES ({holders})", values)


def _put_parts(database: sqlite3.Connection, table: str, path: str, parts: PartLines) -> None:
    """Put the lines of a run, or a study, in the place of those that it had."""
    for name, columns in _PARTS[table].items():
        database.execute(f"DELETE FROM {name} WHERE path = ?", (path,))
        holders = ", ".join("?" for _ in range(1 + len(columns)))
        lines = [(path, *(line.get(column) for column in columns)) for line in parts.get(name, ())]
        database.executemany(f"INSERT INTO {name} VALUES ({holders})", lines)


def _parts() -> dict[str, dict[str, str]]:
    """The tables of several lines, with their columns."""
    return {name: columns for tables in _PARTS.values() for name, columns in tables.items()}


def _stamp(path: Path, files: tuple[str, ...]) -> str:
    """Changes whenever one of ``files`` in ``path`` does; "" if it holds none of them."""
    found = []
    for name in files:
        with contextlib.suppress(OSError):
            info = (path / name).stat()
            found.append(f"{name} {info.st_ino} {info.st_mtime_ns} {info.st_size}")
    return "; ".join(found)


def _run_lines(path: Path) -> tuple[dict[str, Any], PartLines]:
    """The row of a run, and its settings; none of one that cannot be read."""
    row = {"path": path.name, "id": "", "name": printable(path.name), "hash": "", "created": ""}
    try:
        run = Run.read(path)
    except DataError as error:
        return {**row, "status": "unreadable", "reason": printable(str(error))}, {}
    return _run_row(run, row), {"settings": _settings(run)}


def _run_row(run: Run, row: dict[str, Any]) -> dict[str, Any]:
    """The row with all that the run knows; a broken one is unreadable."""
    try:
        row |= {"id": run.id, "name": run.label, "hash": run.hash}
        changed = bool(run.resolved.get("transforms"))  # by compression, with no step and so by no optimizer
        row |= {slot: printable(run.resolved[slot]["name"]) for slot in ("optimizer", "model")}
        if changed:
            row["optimizer"] = printable(", ".join(each["name"] for each in run.resolved["transforms"]))
        row |= {"budget": printable(", ".join(f"{axis}={limit}" for axis, limit in run.resolved["budget"].items()))}
        status, result = run.status, run.result
        figures = {column: _number(result.get(column)) for column in ("flops", "tokens", "seconds", "value")}
        return {
            **row,
            **figures,
            "lr": None if changed else _number(run.resolved["optimizer"].get("lr")),
            "seed": _whole(run.resolved.get("seed")),
            **(_scale(result) if "value" in result else {}),
            "steps": status.step,
            "status": run.state,
            "created": printable(status.created),
            "reason": "",
        }
    except (DataError, LookupError, TypeError, AttributeError) as error:
        return {**row, "status": "unreadable", "reason": printable(str(error))}


def _settings(run: Run) -> list[dict[str, Any]]:
    """Every key of a run's recipe; none of one that is nested too deeply."""
    try:
        return [{"key": printable(key), "value": _setting(value)} for key, value in leaves(run.resolved)]
    except RecursionError:
        return []


def _setting(value: Any) -> str:
    """A recipe's value as it is compared with words."""
    return printable(value if isinstance(value, str) else json.dumps(value))


def _scale(result: Mapping[str, Any]) -> dict[str, Any]:
    scale = scale_of(result)
    told = {"unit": printable(scale.unit), "higher_is_better": int(scale.higher_is_better)}
    return {**told, "bound": int(result.get("bound", False))}


def _study_lines(path: Path) -> tuple[dict[str, Any], PartLines]:
    """The row of a study, what it found and the runs that it counts; one of another version has a row alone."""
    try:
        result = StudyResult.read(path / STUDY)
    except DataError:
        return _study_row(path), {}
    return _study_row(path, dict(result)), _study_parts(result)


def _study_row(path: Path, known: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The row of a study, from what is known of it or else from as much of its file as can be read."""
    row = {"path": path.name, "name": printable(path.name), "title": "", "created": ""}
    try:
        tree = read_json(path / STUDY, dict[str, Any]) if known is None else known
        texts = {key: printable(str(tree[key])) for key in ("name", "title", "created")}
        texts["headline"] = "; ".join(printable(line) for line in str(tree["headline"]).splitlines())
        return {**row, **texts, "verdict": _verdict(tree.get("multipliers", ())), "runs": len(tree["runs"])}
    except (DataError, LookupError, TypeError, AttributeError, ValueError) as error:
        said = printable(f"unreadable: {error}")
        return {**row, "headline": said, "verdict": said}


def _study_parts(result: StudyResult) -> PartLines:
    found = [{**row.model_dump(), "arm": printable(row.arm)} for row in result.multipliers]
    members = [{**row.model_dump(include={*MEMBERS}), "hash": row.recipe_hash} for row in result.runs]
    return {
        "multipliers": [{**row, "sentence": printable(row["sentence"])} for row in found],
        "members": [{**row, "arm": printable(row["arm"])} for row in members],
    }


def _verdict(rows: Iterable[Mapping[str, Any]]) -> str:
    """The multiplier on FLOPs of each arm at its lowest rung, in a few words."""
    lowest: dict[str, MultiplierRow] = {}
    for row in sorted(map(MultiplierRow.model_validate, rows), key=lambda row: row.rung):
        if row.axis == "flops" and not row.all_in:
            lowest.setdefault(row.arm, row)
    return ", ".join(f"{printable(arm)} {row.brief}" for arm, row in lowest.items())


def _fit_row(place: Path) -> dict[str, Any]:
    row = {"name": printable(place.parent.name), "law": "", "source": "", "rows": 0, "path": place.parent.name}
    try:
        found = read_json(place, FitDocument)
        constants = ", ".join(f"{name}={value:.4g}" for name, value in found.fit.params.items())
        rows = max((len(column) for column in found.fit.columns.values()), default=0)
        law, source = (printable(str(text)) for text in (found.fit.law.get("name", ""), found.source))
        return {**row, "law": law, "source": source, "rows": rows, "constants": printable(constants)}
    except DataError as error:
        return {**row, "constants": printable(f"unreadable: {error}")}


def _whole(value: Any) -> int | None:
    """A whole number that SQLite can hold."""
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63 else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None

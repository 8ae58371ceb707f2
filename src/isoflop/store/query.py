"""What has been tried below a root, at what budget, with what result: asked in words, or in SQL that only reads."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..core.errors import UsageError, nearest
from ..core.reading import user_path
from .index import RUNS, asked

AXES = ("flops", "steps", "tokens", "seconds")
"""What a limit may be of."""
LONGEST = 30.0
"""Seconds after which a query is given up."""
_READING = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
_SIGNS = {
    "<=": "<=",
    "<": "<",
    ">=": ">=",
    ">": ">",
    "at most": "<=",
    "up to": "<=",
    "within": "<=",
    "below": "<",
    "under": "<",
    "less than": "<",
    "at least": ">=",
    "from": ">=",
    "above": ">",
    "over": ">",
    "more than": ">",
}
_NUMBER = r"(?P<number>\d[\d_,]*(?:\.\d+)?(?:e[+-]?\d+)?)\s*(?P<prefix>[kMGTPEZY](?=[\s?.,;]|$|FLOP|B))?"
_PREFIXES = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18, "Z": 1e21, "Y": 1e24}
_LIMIT = re.compile(
    rf"(?:\b(?P<before>flops?|steps?|tokens?|seconds?)\s*)?"
    rf"(?P<sign><=|>=|<|>|\b(?:at most|up to|within|below|under|less than|at least|from|above|over|more than)\b)\s*"
    rf"{_NUMBER}\s*(?P<after>flops?|steps?|tokens?|seconds?|s)?(?![\w])",
    re.IGNORECASE,
)
_SETTING = re.compile(r"(?P<key>[\w.-]+)\s*=\s*(?P<value>\"[^\"]*\"|[^\s,?]+)")
_STATES = {
    "diverged": ("diverged",),
    "failed": ("failed", "diverged", "unreadable"),
    "stopped": ("stopped", "interrupted"),
    "done": ("done",),
    "running": ("running",),
}
_FILLERS = frozenset(
    re.findall(
        r"\w+",
        """a all already an and any anybody anyone at be been before best budget budgets but by compute did do does ever
        far find for found gave give had has have here highest how i in is it list lowest made make me much my of on or
        our quality reach reached result results run runs show so that the there this to tried try us use used using
        value values was we were what when where which who whose with""",
    )
)

Task = Literal["best", "tried"]


@dataclass(frozen=True)
class MemoryQuestion:
    """What is asked.

    Attributes:
        task: "best": the best runs; "tried": whether, at which budgets, with what result.
        limits: (axis, sign, number), e.g. ("flops", "<=", 1e12); of what a run spent.
        settings: key path -> value as text; a key may be the end of a path, or a slot alone.
        words: names that must be a value of the recipe, a part of the run's name, or an arm of a study that counts it.
        states: of a run; none: any.

    Example:
        >>> asked = MemoryQuestion.parse("best muon at <= 1e12 FLOPs")
        >>> asked.task, asked.limits, asked.words
        ('best', (('flops', '<=', 1000000000000.0),), ('muon',))
    """

    task: Task = "tried"
    limits: tuple[tuple[str, str, float], ...] = ()
    settings: tuple[tuple[str, str], ...] = ()
    words: tuple[str, ...] = ()
    states: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> MemoryQuestion:
        """Read a question; UsageError if it holds a number that is a limit of nothing."""
        limits: list[tuple[str, str, float]] = []

        def limit(found: re.Match[str]) -> str:
            axis = _axis(found["before"] or found["after"] or "")
            number = float(re.sub(r"[_,]", "", found["number"])) * _PREFIXES.get(found["prefix"] or "", 1.0)
            limits.append((axis, _SIGNS[" ".join(found["sign"].lower().split())], number))
            return " "

        rest = _LIMIT.sub(limit, text)
        settings = [(found["key"], found["value"].strip('"')) for found in _SETTING.finditer(rest)]
        words = [word.strip("?.,;:!'\"") for word in _SETTING.sub(" ", rest).split()]
        lowered = [word.lower() for word in words]
        states = dict.fromkeys(state for word in lowered for state in _STATES.get(word, ()))
        names = [w for w in words if w and w.lower() not in _FILLERS and w.lower() not in _STATES]
        for name in names:
            if re.fullmatch(r"[\d.e+-]+", name):
                fix = 'write e.g. "best at <= 1e12 FLOPs"'
                raise UsageError(f"{name} is a limit of what?", where="runs query", fix=fix)
        task: Task = "best" if {"best", "lowest", "highest"} & {*lowered} else "tried"
        return cls(task, tuple(limits), tuple(settings), tuple(names), tuple(states))


@dataclass(frozen=True)
class MemoryAnswer:
    """What the store knows.

    Attributes:
        question: what was asked.
        runs: the runs that it is about, one mapping of the index's columns each, the best first.
        findings: multipliers that studies found of arms that these runs belong to: study, arm and the index's columns.
        unknown: what no run has, in words; then there are no runs.

    Example:
        >>> MemoryAnswer(MemoryQuestion(), [], []).runs
        []
    """

    question: MemoryQuestion
    runs: list[dict[str, Any]]
    findings: list[dict[str, Any]]
    unknown: list[str] = field(default_factory=list)


def remembered_runs(root: str | Path, question: MemoryQuestion | str) -> MemoryAnswer:
    """Answer from the runs and the studies below a root; runs that diverged are among them, without a value.

    Args:
        root: directory of runs.
        question: what is asked, or its text.

    Raises:
        DataError: ``root`` is no directory.
        UsageError: the question holds a key that no run has.

    Example, with ``recipe`` a recipe of nine steps:
        >>> from isoflop.store.run import Run
        >>> run = Run.open("runs", recipe)
        >>> [row["status"] for row in remembered_runs("runs", f"was seed={recipe.seed} tried?").runs]
        ['created']
        >>> remembered_runs("runs", "was seed=9 tried?").runs
        []
    """
    found = MemoryQuestion.parse(question) if isinstance(question, str) else question
    return asked(user_path(root), lambda database: _answer(database, found))


def select(root: str | Path, query: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Columns and rows of an SQL query over the index's tables; nothing can be changed by it.

    Args:
        root: directory of runs.
        query: one SELECT over runs, settings, studies, multipliers and members.

    Raises:
        UsageError: it is no such query, or takes longer than half a minute.

    Example, with ``recipe`` a recipe of nine steps:
        >>> from isoflop.store.run import Run
        >>> run = Run.open("runs", recipe)
        >>> select("runs", "SELECT status, count(*) AS n FROM runs GROUP BY status")
        (['status', 'n'], [('created', 1)])
    """
    began = time.monotonic()

    def read(database: sqlite3.Connection) -> tuple[list[str], list[tuple[Any, ...]]]:
        database.set_authorizer(lambda what, *_: sqlite3.SQLITE_OK if what in _READING else sqlite3.SQLITE_DENY)
        database.set_progress_handler(lambda: int(time.monotonic() - began > LONGEST), 10_000)
        try:
            cursor = database.execute(query)
            return [name for name, *_ in cursor.description or ()], cursor.fetchall()
        except sqlite3.Error as error:
            tables = "runs, settings, studies, multipliers and members"
            fix = f"one SELECT over the tables {tables}; nothing else is allowed"
            raise UsageError(f"cannot be answered ({error})", where="--sql", fix=fix) from None
        finally:
            database.set_authorizer(None)
            database.set_progress_handler(None, 0)

    return asked(user_path(root), read)


def _axis(word: str) -> str:
    """The axis that a word means; without one a limit is of FLOPs."""
    if not word:
        return "flops"
    return next((axis for axis in AXES if axis.startswith(word.lower().rstrip("s") or "seconds")), "seconds")


def _answer(database: sqlite3.Connection, question: MemoryQuestion) -> MemoryAnswer:
    conditions, values = ["1"], list[Any]()
    for axis, sign, number in question.limits:
        conditions.append(f"runs.{axis} {sign} ?")  # both are of fixed sets
        values.append(number)
    if question.states:
        conditions.append(f"runs.status IN ({', '.join('?' * len(question.states))})")
        values += question.states
    unknown, named = [], list[set[str]]()
    for key, value in question.settings:
        named.append(_having(database, key, value))
        if not named[-1]:
            unknown.append(f"{key} = {value}{_others(database, key)}")
    for word in question.words:
        named.append(_named(database, word))
        if not named[-1]:
            unknown.append(f"{word!r}{_alike(database, word)}")
    columns = [*RUNS]
    query = f"SELECT {', '.join(columns)} FROM runs WHERE {' AND '.join(conditions)} ORDER BY created, path"
    rows = [dict(zip(columns, row, strict=True)) for row in database.execute(query, values).fetchall()]
    rows = [row for row in rows if all(row["path"] in paths for paths in named)]
    rows.sort(key=merit)
    return MemoryAnswer(question, rows, _findings(database, question, rows), unknown)


def merit(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What runs are ordered by: the best of each unit first, those without a value last."""
    value = row["value"]
    if value is None:
        return (1, "", 0.0)
    return (0, row["unit"] or "", -value if row["higher_is_better"] else value)


def _having(database: sqlite3.Connection, key: str, value: str) -> set[str]:
    """Runs whose recipe has a value at a key path, or at a path that ends with it; a slot alone means its name."""
    query = "SELECT DISTINCT path, value FROM settings WHERE key IN (?, ?) OR key LIKE ? ESCAPE '\\'"
    return {path for path, text in database.execute(query, _keys(key)) if _same(text, value)}


def _keys(key: str) -> tuple[str, str, str]:
    literal = key.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return key, f"{key}.name", f"%.{literal}"


def _same(text: str, value: str) -> bool:
    """Whether a stored value is the one that is asked for: 0.010 is 0.01."""
    if text.lower() == value.lower():
        return True
    try:
        return float(text) == float(value)
    except ValueError:
        return False


def _others(database: sqlite3.Connection, key: str) -> str:
    """What a key has had instead; UsageError if no recipe knows it."""
    query = "SELECT DISTINCT value FROM settings WHERE key IN (?, ?) OR key LIKE ? ESCAPE '\\' ORDER BY value LIMIT 12"
    values = [value for (value,) in database.execute(query, _keys(key))]
    if not values:
        keys = [name for (name,) in database.execute("SELECT DISTINCT key FROM settings")]
        if keys:
            raise UsageError(f"no recipe here has a key {key!r}", where="runs query", fix=nearest(key, keys))
        return ""
    return f" (tried: {', '.join(values)})"


def _named(database: sqlite3.Connection, word: str) -> set[str]:
    """Runs that a word is about: a value of their recipe, a part of their name, or the arm of a study."""
    query = """
        SELECT path FROM settings WHERE lower(value) = lower(?1)
        UNION SELECT path FROM runs WHERE instr(lower(name), lower(?1)) > 0 OR id = ?1
        UNION SELECT runs.path FROM runs JOIN members ON members.hash = runs.hash
            WHERE lower(members.arm) = lower(?1) OR members.path = ?1
    """
    return {path for (path,) in database.execute(query, (word,))}


def _alike(database: sqlite3.Connection, word: str) -> str:
    """The nearest name that there is."""
    query = "SELECT DISTINCT value FROM settings WHERE key LIKE '%.name' UNION SELECT DISTINCT arm FROM members"
    names = [name for (name,) in database.execute(query)]
    return f" ({nearest(word, names).replace('legal:', 'known:')})" if names else ""


def _findings(
    database: sqlite3.Connection, question: MemoryQuestion, rows: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """What studies found of the arms that the runs belong to, where the question is about more than all runs."""
    if not (question.words or question.settings):
        return []
    arms: set[tuple[str, str]] = set()
    by_hash: dict[str, list[tuple[str, str]]] = {}
    for study, arm, key in database.execute("SELECT DISTINCT path, arm, hash FROM members"):
        by_hash.setdefault(key, []).append((study, arm))
    for row in rows:
        arms.update(by_hash.get(row["hash"], ()))
    lowered = {word.lower() for word in question.words}
    columns = ("path", "arm", "axis", "rung", "value", "low", "high", "bound", "censored", "significant", "sentence")
    query = f"SELECT {', '.join(columns)} FROM multipliers WHERE axis = 'flops' AND all_in = 0 ORDER BY path, arm, rung"
    found = [dict(zip(columns, row, strict=True)) for row in database.execute(query)]
    return [row for row in found if (row["path"], row["arm"]) in arms or row["arm"].lower() in lowered]


def by_budget(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    """Runs by budget and unit of their value, the dearest first."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: -(row["flops"] or 0.0)):
        groups.setdefault((row["budget"] or "", row["unit"] or ""), []).append(row)
    return groups

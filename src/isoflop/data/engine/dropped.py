"""What earlier jobs dropped, by reason, with the beginnings of some of the documents."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ...core.errors import DataError, UsageError
from ...core.reading import read_json
from ...store.corpora import DroppedText, DroppingStep, DropReason
from .inputs import DocumentRow, Keys, Unit, cut_of, rows_of, stamps, units_of
from .jobs import ATTRIBUTES, JOB, SUMMARY, part_file

EXAMPLES = 3
"""Of each reason."""
SHOWN = 400
"""Characters of an example."""
LOOKED_AT = 200_000
"""Documents among which examples are looked for."""


def step_of(folder: Path) -> DroppingStep:
    """What a finished ``clean``, ``dedup`` or ``decontaminate`` dropped.

    Raises:
        UsageError: the folder holds no such job.
    """
    if not (folder / SUMMARY).exists() or not (folder / ATTRIBUTES).is_dir():
        fix = "name the folder of a finished clean, dedup or decontaminate"
        raise UsageError("says nothing of documents that were dropped", where=str(folder), fix=fix)
    job, counts = read_json(folder / JOB, dict[str, Any]), read_json(folder / SUMMARY, dict[str, Any])["counts"]
    parts = sorted((folder / ATTRIBUTES).glob("part-*.jsonl.gz"))
    reasons = Counter(reason for path in parts for note in _notes(path) for reason in reasons_of(note))
    units, remark = _input(job)
    examples = _examples(folder, units, Keys(**job["keys"]), set(reasons))
    found = [
        DropReason(reason=reason, documents=count, examples=tuple(examples.get(reason, ())))
        for reason, count in sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0]))
    ]
    documents = counts.get("documents", 0)
    kept = counts.get("kept", documents)
    facts = {"documents": documents, "kept": kept, "reasons": tuple(found), "remark": remark}
    return DroppingStep(verb=job["verb"], folder=folder.name, **facts)


def reasons_of(note: dict[str, Any]) -> list[str]:
    """Why a document was dropped, by what stands beside it; nothing of one that was kept.

    Example:
        >>> reasons_of({"keep": False, "reasons": {"c4": "few_sentences"}}), reasons_of({"keep": True})
        (['c4: few sentences'], [])
    """
    if note.get("keep", True):
        return []
    if named := note.get("reasons"):
        return [f"{name}: {reason}".replace("_", " ") for name, reason in named.items()]
    if "duplicate_of" in note:
        return ["repeats an earlier document"]
    return ["shares words with a test"] if note.get("words_in_tests") else ["dropped"]


def _notes(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path) as file:
        yield from map(json.loads, file)


def _input(job: dict[str, Any]) -> tuple[list[Unit], str]:
    """The units of a job's input as it was; none, with the reason, where it has changed."""
    try:
        units = units_of([name for name, *_ in job["files"]])
        same = stamps(units) == job["files"] and cut_of(units) == job["units"]
    except DataError:
        same = False
    return (units, "") if same else ([], "its input has changed since: no examples")


def _examples(folder: Path, units: Sequence[Unit], keys: Keys, reasons: set[str]) -> dict[str, list[DroppedText]]:
    """The first documents of each reason."""
    found: dict[str, list[DroppedText]] = {reason: [] for reason in reasons}
    wanting, seen = set(reasons), 0
    for unit in units:
        path = part_file(folder / ATTRIBUTES, unit.number, "jsonl.gz")
        rows = (row for row in rows_of(unit, keys.only()) if isinstance(row, DocumentRow))
        for row, note in zip(rows, _notes(path), strict=False):
            if not wanting or seen >= LOOKED_AT:
                return found
            seen += 1
            for reason in wanting.intersection(reasons_of(note)):
                found[reason].append(DroppedText(id=row.id, text=row.text[:SHOWN]))
                if len(found[reason]) == EXAMPLES:
                    wanting.discard(reason)
    return found

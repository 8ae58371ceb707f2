"""Deduplication of files: keys of every document, groups of equal keys, and of each group the first document stays.

Three stages, each done once: keys by unit; groups over all of them; documents by unit. In memory lie some 40 bytes a
document, never a text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ...core.errors import UsageError
from ...core.reading import read_json
from .inputs import Unit, blocks
from .jobs import (
    ATTRIBUTES,
    DOCUMENTS,
    JOB,
    Counts,
    Desk,
    JobSettings,
    conclude,
    json_line,
    opened_job,
    work_through,
    write_array,
)
from .minhash import MinHash
from .pages import Pages

KEYS, SIGNATURES, KEYED, VERDICT = "keys", "signatures", "keyed", "verdict.npy"
KEEP = -1
"""In the verdict, of a document that stays; else the place of the one that it repeats, over all units."""
Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Keying:
    """The first stage: keys of a unit's documents.

    Args:
        method: exact by the whole text, or near by MinHash.
        near: MinHash's settings.

    Example:
        >>> Keying("exact").arrays(["a", "a", ""])[0][:, 0].tolist()[2]
        0
    """

    method: Literal["exact", "minhash"]
    near: MinHash = field(default_factory=MinHash)

    @property
    def agreement(self) -> float:
        """Share of a signature in which duplicates agree; 0: a common key is enough."""
        return 1.0 if self.method == "exact" else self.near.verify

    def __call__(self, unit: Unit, desk: Desk) -> Counts:
        counts, keys, signatures = Counts(), [], []
        for block in blocks(desk.texts(unit, counts)):
            made = self.arrays([row.text for row in block])
            keys.append(made[0])
            signatures.append(made[1])
        empty = self.arrays([])
        write_array(desk.path(KEYS, unit.number, "npy"), np.concatenate([empty[0], *keys]))
        if self.agreement:
            write_array(desk.path(SIGNATURES, unit.number, "npy"), np.concatenate([empty[1], *signatures]))
        return counts

    def arrays(self, texts: Sequence[str]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint32]]:
        """Keys (texts, keys), 0 for a text that repeats none; and signatures (texts, n)."""
        if self.method == "minhash":
            signatures = self.near.signatures(Pages(texts))
            return self.near.keys(signatures), signatures
        digests = b"".join(hashlib.blake2b(text.encode(), digest_size=16).digest() for text in texts)
        whole = np.frombuffer(digests, "<u8").reshape(-1, 2).astype(np.uint64)
        keys = np.where([[bool(text.strip())] for text in texts] or np.empty((0, 1), bool), whole[:, :1], np.uint64(0))
        return keys, whole[:, 1:].copy().view(np.uint32).reshape(-1, 2)


@dataclass(frozen=True)
class Sieve:
    """The last stage: documents of a unit that stay.

    Args:
        verdict: file of the verdict over all units.
        starts: the place of each unit's first document.

    Example:
        >>> Sieve("verdict.npy", (0, 10)).starts[1]
        10
    """

    verdict: str
    starts: tuple[int, ...]

    def __call__(self, unit: Unit, desk: Desk) -> Counts:
        counts, verdict = Counts(), np.load(self.verdict, mmap_mode="r")
        place = self.starts[unit.number]
        with desk.writer(DOCUMENTS, unit.number) as keep, desk.writer(ATTRIBUTES, unit.number, "jsonl.gz") as note:
            for row in desk.rows(unit, counts):
                earlier = int(verdict[place])
                found: dict[str, Any] = {"id": row.id, "keep": earlier == KEEP}
                if earlier == KEEP:
                    counts["kept"] += 1
                    counts["kept_characters"] += len(row.text)
                    keep(row.line(desk.keys.text, desk.keys.id))
                else:
                    counts["dropped"] += 1
                    found["duplicate_of"] = self.named(earlier)
                note(json_line(found))
                place += 1
        return counts

    def named(self, place: int) -> str:
        """The unit and the row, each from 0, of a place; one of the index it was held against has a negative place."""
        if place < KEEP:
            return f"index:{-place - 2}"
        unit = int(np.searchsorted(self.starts, place, side="right")) - 1
        return f"{unit}:{place - self.starts[unit]}"


def dedup(units: Sequence[Unit], keying: Keying, settings: JobSettings, against: Sequence[Path] = ()) -> dict[str, Any]:
    """Drop documents that repeat an earlier one, in this input or in earlier jobs' documents that stayed.

    Args:
        units: of the input.
        keying: how duplicates are told.
        settings: where and how. The folder holds the index (``keys``) that later jobs may be held against.
        against: folders of earlier jobs with the same settings, whose documents all come first.

    Example:
        >>> from isoflop.data.engine.inputs import units_of
        >>> _ = Path("a.jsonl").write_text('{"text": "one"}\\n{"text": "one"}\\n')
        >>> dedup(units_of(["a.jsonl"]), Keying("exact"), JobSettings(Path("out")))["counts"]["kept"]
        1
    """
    what: dict[str, Any] = {"verb": "dedup", "method": keying.method}
    what |= {"near": keying.near.to_json()} if keying.method == "minhash" else {}
    for folder in against:
        known = read_json(folder / JOB, dict[str, Any])
        if any(known.get(key) != what[key] for key in what):
            raise UsageError("is an index of other settings", where=str(folder), fix="deduplicate both the same way")
    index = [str(folder.resolve()) for folder in against]
    with opened_job(settings, units, {**what, "against": index}):
        work_through(units, keying, settings, KEYED)
        verdict, starts = _verdict(units, keying, settings.desk, against)
        counts = work_through(units, Sieve(str(verdict), starts), settings)
        return conclude(settings, counts, **what, against=index)


def _verdict(
    units: Sequence[Unit], keying: Keying, desk: Desk, against: Sequence[Path]
) -> tuple[Path, tuple[int, ...]]:
    """The file that says what becomes of every document, and where each unit's begin."""
    files = [desk.path(KEYS, unit.number, "npy") for unit in units]
    sizes = [len(np.load(file, mmap_mode="r")) for file in files]
    starts = tuple(np.cumsum([0, *sizes[:-1]]).tolist())
    place = desk.out / VERDICT
    if not place.exists():
        earlier = [kept for folder in against for kept in _kept(folder)]
        parts = [*((file, known) for file, known in earlier), *((file, None) for file in files)]
        before = sum(int(known.sum()) for _, known in earlier)
        first = groups([_Part(*part) for part in parts], keying.agreement)
        own = first[before:]
        verdict = np.where(own >= before, own - before, -own - 2)
        verdict[verdict == np.arange(len(own))] = KEEP
        write_array(place, verdict)
    return place, starts


def _kept(folder: Path) -> list[tuple[Path, npt.NDArray[np.bool_]]]:
    """Keys' files of an earlier job, and which of their documents stayed."""
    files, place, found = sorted((folder / KEYS).glob("part-*.npy")), 0, []
    if not files or not (folder / VERDICT).exists():
        raise UsageError("holds no index", where=str(folder), fix="name the folder of a finished `isoflop data dedup`")
    verdict = np.load(folder / VERDICT, mmap_mode="r")
    for file in files:
        size = len(np.load(file, mmap_mode="r"))
        found.append((file, np.asarray(verdict[place : place + size] == KEEP)))
        place += size
    return found


class _Part:
    """Keys and signatures of a file's documents, or of those that stayed."""

    def __init__(self, file: Path, kept: npt.NDArray[np.bool_] | None) -> None:
        self.keys = np.load(file, mmap_mode="r")
        signatures = file.parent.parent / SIGNATURES / file.name
        self.signatures = np.load(signatures, mmap_mode="r") if signatures.exists() else None
        self.rows = np.arange(len(self.keys)) if kept is None else np.flatnonzero(kept)


def groups(parts: Sequence[Any], agreement: float) -> Places:
    """int64 (documents,): for each document the first of its group, which may be itself.

    Args:
        parts: of the documents, in order.
        agreement: share of their signatures in which two documents agree at least that share a key.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    bounds = np.cumsum([0, *(len(part.rows) for part in parts)])
    total = int(bounds[-1])
    bands = parts[0].keys.shape[1] if parts else 0
    edges: list[tuple[Places, Places]] = []
    for band in range(bands):
        keys = np.concatenate([np.asarray(part.keys[:, band])[part.rows] for part in parts])
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        same = np.append(False, (keys[1:] == keys[:-1]) & (keys[1:] != 0))
        heads = np.maximum.accumulate(np.where(same, 0, np.arange(total)))
        found = np.flatnonzero(same)
        if agreement:
            found = found[_agree(parts, bounds, order[heads[found]], order[found], agreement)]
        edges.append((order[heads[found]], order[found]))
    one = np.concatenate([a for a, _ in edges]) if edges else np.empty(0, np.int64)
    two = np.concatenate([b for _, b in edges]) if edges else np.empty(0, np.int64)
    graph = coo_array((np.ones(len(one), np.bool_), (one, two)), shape=(total, total))
    _, labels = connected_components(graph, directed=False)
    _, first, which = np.unique(labels, return_index=True, return_inverse=True)
    return np.asarray(first[which], np.int64)


def _agree(parts: Sequence[Any], bounds: Places, one: Places, two: Places, share: float) -> npt.NDArray[np.bool_]:
    found = np.zeros(len(one), np.bool_)
    for start in range(0, len(one), 1 << 16):
        pair = [_rows(parts, bounds, side[start : start + (1 << 16)]) for side in (one, two)]
        found[start : start + (1 << 16)] = (pair[0] == pair[1]).mean(1) >= share
    return found


def _rows(parts: Sequence[Any], bounds: Places, places: Places) -> npt.NDArray[np.uint32]:
    """Signatures of documents by their places."""
    part = np.searchsorted(bounds, places, side="right") - 1
    found = np.empty((len(places), parts[0].signatures.shape[1]), np.uint32)
    for number in np.unique(part).tolist():
        mine = part == number
        found[mine] = parts[number].signatures[parts[number].rows[places[mine] - bounds[number]]]
    return found

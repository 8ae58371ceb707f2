"""Exact substrings: text of so many bytes that occurred before, anywhere, is cut out (Lee et al. 2022).

Instead of a suffix array over everything, which wants many times the text in memory, fingerprints are sampled by
winnowing (Schleimer et al. 2003): of hashes of ``K`` bytes the smallest in every window of ``least - K + 1``, so that
two equal stretches of ``least`` bytes share one for certain. Equal ones are then followed byte by byte to both sides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...core.errors import UsageError
from ...core.files import publish_file
from ...core.reading import read_json
from ..hashing import FACTOR, mixed
from .inputs import Unit
from .jobs import (
    ATTRIBUTES,
    DOCUMENTS,
    Counts,
    Desk,
    JobSettings,
    conclude,
    json_line,
    opened_job,
    work_through,
    write_array,
)

Bytes = npt.NDArray[np.uint8]
Places = npt.NDArray[np.int64]
K = 50
"""Bytes of a fingerprint."""
AT_ONCE = 1 << 23
"""Fingerprints that are sorted at once: some 300 MB."""
PRINTS, MATCHES, SOURCES = "fingerprints", "matches", "sources"
_FIELDS = np.dtype([("hash", "<u8"), ("text", "<i8"), ("at", "<i8")])
_MATCH = np.dtype([("text", "<i8"), ("at", "<i8"), ("source", "<i8"), ("source_at", "<i8")])


def rolled(data: Bytes) -> npt.NDArray[np.uint64]:
    """uint64 (n - K + 1,): a hash of the K bytes from each place on."""
    if len(data) < K:
        return np.empty(0, np.uint64)
    power, span, pieces = data.astype(np.uint64), 1, list[tuple[int, npt.NDArray[np.uint64]]]()
    while span <= K:
        if K & span:
            pieces.append((span, power))
        step = np.uint64(pow(int(FACTOR), span, 2**64))
        power = power[:-span] * step + power[span:] if len(power) > span else power[:0]
        span *= 2
    count, at = len(data) - K + 1, 0
    found = np.zeros(count, np.uint64)
    for size, hashes in pieces:
        found = found * np.uint64(pow(int(FACTOR), size, 2**64)) + hashes[at : at + count]
        at += size
    return mixed(found)


def winnowed(hashes: npt.NDArray[np.uint64], window: int) -> Places:
    """Places of hashes that are the smallest of some ``window`` neighbours; all ends of a short text count as one."""
    from scipy.ndimage import maximum_filter1d, minimum_filter1d

    if not len(hashes):
        return np.empty(0, np.int64)
    values = (hashes >> np.uint64(11)).astype(np.int64)  # what the filters, which compute in doubles, hold exactly
    if len(values) <= window:
        return np.flatnonzero(values == values.min())
    lows = minimum_filter1d(values, window, origin=-(window // 2))[: len(values) - window + 1]
    padded = np.concatenate([np.full(window - 1, -1), lows, np.full(window - 1, -1)])
    highest = maximum_filter1d(padded, window, origin=-(window // 2))[: len(values)]
    return np.flatnonzero(values == highest)


@dataclass(frozen=True)
class Fingerprinting:
    """The first stage: fingerprints of a unit's documents.

    Args:
        least: bytes of the shortest text that counts.

    Example:
        >>> Fingerprinting(100).window
        51
    """

    least: int

    @property
    def window(self) -> int:
        """Hashes of which the smallest is kept."""
        return self.least - K + 1

    def __call__(self, unit: Unit, desk: Desk) -> Counts:
        counts, found = Counts(), [np.empty(0, _FIELDS)]
        for number, row in enumerate(desk.texts(unit, counts)):
            hashes = rolled(np.frombuffer(row.text.encode(), np.uint8))
            at = winnowed(hashes, self.window)
            mine = np.empty(len(at), _FIELDS)
            mine["hash"], mine["text"], mine["at"] = hashes[at], number, at
            found.append(mine)
        write_array(desk.path(PRINTS, unit.number, "npy"), np.concatenate(found))
        return counts


def matches(parts: Sequence[npt.NDArray[Any]], starts: Places) -> npt.NDArray[Any]:
    """Every fingerprint that occurred before, with the first place of its kind, by text and place.

    Args:
        parts: fingerprints of each unit.
        starts: the number of each unit's first text.
    """
    total = sum(map(len, parts))
    passes = max(1, -(-total // AT_ONCE))
    found = [np.empty(0, _MATCH)]
    for turn in range(passes):
        held = []
        for part, start in zip(parts, starts.tolist(), strict=True):
            mine = np.asarray(part[part["hash"] % np.uint64(passes) == turn] if passes > 1 else part).copy()
            mine["text"] += start
            held.append(mine)
        whole = np.concatenate([np.empty(0, _FIELDS), *held])
        whole = whole[np.lexsort((whole["at"], whole["text"], whole["hash"]))]
        same = np.append(False, whole["hash"][1:] == whole["hash"][:-1]) if len(whole) else np.empty(0, np.bool_)
        heads = np.maximum.accumulate(np.where(same, 0, np.arange(len(whole))))[same]
        mine = np.empty(int(same.sum()), _MATCH)
        mine["text"], mine["at"] = whole["text"][same], whole["at"][same]
        mine["source"], mine["source_at"] = whole["text"][heads], whole["at"][heads]
        found.append(mine)
    everything = np.concatenate(found)
    return everything[np.lexsort((everything["at"], everything["text"]))]


def stretch(text: Bytes, at: int, source: Bytes, source_at: int) -> tuple[int, int]:
    """Where the text that is equal around two equal places begins and ends in the first."""
    back = min(at, source_at)
    differ = np.flatnonzero(text[at - back : at][::-1] != source[source_at - back : source_at][::-1])
    start = at - (int(differ[0]) if len(differ) else back)
    ahead = min(len(text) - at, len(source) - source_at)
    differ = np.flatnonzero(text[at : at + ahead] != source[source_at : source_at + ahead])
    return start, at + (int(differ[0]) if len(differ) else ahead)


@dataclass(frozen=True)
class Cutting:
    """The last stage: documents of a unit without what occurred before.

    Args:
        folder: of matches and sources.
        starts: the number of each unit's first text.
        least: bytes of the shortest text that counts.

    Example:
        >>> Cutting("out", (0,), 100).least
        100
    """

    folder: str
    starts: tuple[int, ...]
    least: int

    def __call__(self, unit: Unit, desk: Desk) -> Counts:
        counts, place = Counts(), self.starts[unit.number]
        known = np.load(Path(self.folder) / f"{MATCHES}.npy", mmap_mode="r")
        index = np.load(Path(self.folder) / f"{SOURCES}.npy")
        blob = np.memmap(Path(self.folder) / f"{SOURCES}.bin", np.uint8, "r") if len(index) else np.empty(0, np.uint8)
        with desk.writer(DOCUMENTS, unit.number) as keep, desk.writer(ATTRIBUTES, unit.number, "jsonl.gz") as note:
            for number, row in enumerate(desk.rows(unit, counts), place):
                first, last = np.searchsorted(known["text"], [number, number + 1])
                data = row.text.encode()
                cut = (
                    list(self._cut(np.frombuffer(data, np.uint8), known[first:last], index, blob))
                    if last > first
                    else []
                )
                gone = sum(stop - start for start, stop in cut)
                text = row.text if not cut else _without(data, cut)
                stays = not cut or bool(text.strip())
                counts["kept"] += stays
                counts["dropped"] += not stays
                counts["edited"] += stays and gone > 0
                counts["bytes_cut"] += gone
                note(json_line({"id": row.id, "keep": stays, "cut": [list(each) for each in cut]}))
                if stays:
                    row.text = text
                    keep(row.line(desk.keys.text, desk.keys.id))
        return counts

    def _cut(self, text: Bytes, found: npt.NDArray[Any], index: Places, blob: Bytes) -> Iterator[tuple[int, int]]:
        """What is cut out of a text, in order, in whole characters."""
        spans = list[tuple[int, int]]()
        for match in found.tolist():
            number, at, source, source_at = match
            if spans and spans[-1][0] <= at and at + K <= spans[-1][1]:
                continue
            row = index[np.searchsorted(index[:, 0], source)]
            start, stop = stretch(text, at, blob[row[1] : row[1] + row[2]], source_at)
            if source == number:
                stop = min(stop, at + at - source_at)  # a text that repeats itself: its first turn stays
                start = max(start, source_at + 1)
            if stop - start >= self.least:
                spans.append((start, stop))
        end = 0
        for start, stop in sorted(spans):
            start = max(start, end)
            while start < stop and text[start] & 0xC0 == 0x80:
                start += 1
            while stop < len(text) and start < stop and text[stop] & 0xC0 == 0x80:
                stop -= 1
            if stop > start:
                yield start, stop
                end = stop


def _without(data: bytes, cut: Sequence[tuple[int, int]]) -> str:
    pieces, end = list[bytes](), 0
    for start, stop in cut:
        pieces.append(data[end:start])
        end = stop
    return b"".join([*pieces, data[end:]]).decode()


def substrings(units: Sequence[Unit], settings: JobSettings, least: int = 100) -> dict[str, Any]:
    """Cut out of every document what of at least so many bytes occurred before, here or in an earlier document.

    Args:
        units: of the input.
        settings: where and how.
        least: bytes; 100 are 50 tokens of two bytes, as published.

    Example:
        >>> from isoflop.data.engine.inputs import units_of
        >>> import json
        >>> said = "".join(chr(97 + i * i % 26) + str(i) for i in range(60))
        >>> _ = Path("a.jsonl").write_text("".join(json.dumps({"text": f"{w} {said}"}) + "\\n" for w in ("one", "two")))
        >>> found = substrings(units_of(["a.jsonl"]), JobSettings(Path("out")))
        >>> found["counts"]["edited"], found["counts"]["bytes_cut"] == len(said) + 1
        (1, True)
    """
    if least < K + 1:
        raise UsageError(f"{least} bytes are too few", where="substrings", fix=f"take {K + 1} or more")
    with opened_job(settings, units, {"verb": "dedup", "method": "substring", "least": least}):
        counted = work_through(units, Fingerprinting(least), settings, "fingerprinted")
        desk = settings.desk
        sizes = [_documents(desk.done(unit.number, "fingerprinted")) for unit in units]
        starts = np.cumsum([0, *sizes])[:-1]
        if not (settings.out / f"{SOURCES}.npy").exists():
            parts = [np.load(desk.path(PRINTS, unit.number, "npy"), mmap_mode="r") for unit in units]
            found = matches(parts, starts)
            write_array(settings.out / f"{MATCHES}.npy", found)
            _write_sources(units, desk, starts, np.unique(found["source"]), settings.out)
        work = Cutting(str(settings.out), tuple(starts.tolist()), least)
        counts = work_through(units, work, settings)
        return conclude(settings, counts, verb="dedup", method="substring", least=least, documents=counted["documents"])


def _documents(path: Path) -> int:
    return int(read_json(path, dict[str, int]).get("documents", 0))


def _write_sources(units: Sequence[Unit], desk: Desk, starts: Places, wanted: Places, out: Path) -> None:
    """The texts that others are held against, one after the other, and where each lies: (number, start, bytes)."""
    index, at = list[tuple[int, int, int]](), 0
    known = set(wanted.tolist())
    with publish_file(out / f"{SOURCES}.bin") as partial, partial.open("wb") as file:
        for unit, start in zip(units, starts.tolist(), strict=True):
            for number, row in enumerate(desk.texts(unit, Counts()), start):
                if number in known:
                    data = row.text.encode()
                    file.write(data)
                    index.append((number, at, len(data)))
                    at += len(data)
    write_array(out / f"{SOURCES}.npy", np.array(index, np.int64).reshape(-1, 3))

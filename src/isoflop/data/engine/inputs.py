"""What people have, read in place: JSON Lines (plain, gzip, zstd), Parquet, Arrow files of datasets, text files.

Input is cut into units, which are worked on one by one, in any order and by any number of processes. How it is cut
depends on the files alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from glob import has_magic
from pathlib import Path
from typing import Any, Literal

from ...core.digests import digest
from ...core.errors import DataError, UsageError
from ...core.files import jsonable
from ...core.reading import LARGEST, opened, user_path
from ..reading import matches_of
from .packed import packed_lines, row_groups, unpacked

Kind = Literal["lines", "packed", "parquet", "arrow", "text"]
UNIT = 1 << 26
"""Bytes of a file that are one unit, where a file can be cut (64 MiB)."""
_LINES = (".jsonl", ".ndjson", ".json")
_PACKED = (".gz", ".zst", ".zstd")
_QUOTED = 120  # characters of a broken line that are quoted
_DECODER = json.JSONDecoder(parse_constant=lambda name: None)
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Unit:
    """A piece of the input: some files, or a part of one.

    Args:
        number: its place in the input, from 0.
        kind: how it is read.
        files: of it; one, but for text files.
        start: of lines, the byte where it begins (a line that begins before is another unit's); of Parquet, the first
            row group.
        stop: where it ends, likewise; -1: with the file.
        size: bytes on disk.

    Example:
        >>> _ = Path("a.jsonl").write_text('{"text": "one"}')
        >>> [unit.kind for unit in units_of(["a.jsonl"])]
        ['lines']
    """

    number: int
    kind: Kind
    files: tuple[str, ...]
    start: int = 0
    stop: int = -1
    size: int = 0


@dataclass(slots=True)
class DocumentRow:
    """A document as it was found.

    Args:
        where: file and line or row.
        id: its own, or, without one, where it was found by the file's name.
        text: of it.
        record: everything else that was with it.
        raw: its line of JSON, if it was one.

    Example:
        >>> DocumentRow("a.jsonl:1", "7", "some text").line()
        b'{"id": "7", "text": "some text"}'
    """

    where: str
    id: str
    text: str
    record: dict[str, Any] = field(default_factory=dict)
    raw: bytes = b""

    def line(self, key: str = "text", id_key: str = "id") -> bytes:
        """It as a line of JSON, without the line's end; as it was found, unless its text was changed since."""
        if self.raw and self.record.get(key) == self.text:
            return self.raw
        return json_bytes({id_key: self.id, **self.record, key: self.text})


def json_bytes(value: Any) -> bytes:
    """Strict JSON in UTF-8 of any record: numbers that are none become null, lone surrogates are escaped.

    Args:
        value: of lists, objects and what JSON has; anything else is written as its text.

    Example:
        >>> json_bytes({"price": float("nan"), "name": "red"})
        b'{"price": null, "name": "red"}'
    """
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, default=str).encode()
    except ValueError:
        return json.dumps(jsonable(value), allow_nan=False, default=str).encode()


@dataclass(frozen=True, slots=True)
class BrokenRow:
    """What was in a document's place and is none.

    Args:
        where: file and line or row.
        what: is wrong.
        quote: its beginning.

    Example:
        >>> BrokenRow("a.jsonl:3", "is not JSON", "{text: ").where
        'a.jsonl:3'
    """

    where: str
    what: str
    quote: str


@dataclass(frozen=True)
class Keys:
    """Under which keys a record holds what.

    Args:
        text: the document.
        id: its identity; a record without one is named after its place.
        others: further keys that are wanted: of files with columns only these are read. None: all.

    Example:
        >>> Keys(text="content").id
        'id'
    """

    text: str = "text"
    id: str = "id"
    others: tuple[str, ...] | None = None

    def only(self, *others: str) -> Keys:
        """The same for who wants no more of a record than these."""
        return replace(self, others=others)

    @property
    def columns(self) -> tuple[str, ...] | None:
        """What is read of files with columns; None: everything."""
        return None if self.others is None else (self.text, self.id, *self.others)


def units_of(patterns: Sequence[str], unit: int = UNIT) -> list[Unit]:
    """The units of files, folders and glob patterns, in the order given, sorted within a folder or pattern.

    Args:
        patterns: paths of files, folders (all below that can be read; a dataset that ``datasets`` saved is one), or
            glob patterns. A file that several of them name is read once.
        unit: bytes of a file that are a unit, where a file can be cut; text files are put together up to it.

    Raises:
        DataError: something does not exist, matches no file, or is of no kind that is read.
    """
    found, texts, held = list[Unit](), list[str](), 0

    def flush() -> None:
        nonlocal held
        if texts:
            found.append(Unit(len(found), "text", tuple(texts), size=held))
            texts.clear()
            held = 0

    for path in _once(_files(patterns)):
        size, kind = path.stat().st_size, kind_of(path)
        if kind == "text":
            texts.append(str(path))
            held += size
            if held >= unit:
                flush()
            continue
        flush()
        for start, stop, share in _cuts(path, kind, size, unit):
            found.append(Unit(len(found), kind, (str(path),), start, stop, share))
    flush()
    if not found:
        raise DataError("holds no files that can be read", where=", ".join(patterns), fix="name JSONL, Parquet or text")
    return found


def kind_of(path: Path) -> Kind:
    """How a file is read, by its name."""
    name = path.name.lower()
    if name.endswith((".parquet", ".pq")):
        return "parquet"
    if name.endswith(".arrow"):
        return "arrow"
    if name.endswith(_LINES):
        return "lines"
    if name.endswith(_PACKED) and name.rpartition(".")[0].endswith(_LINES):
        return "packed"
    if name.endswith((".txt", ".md", ".rst", ".text")):
        return "text"
    fix = "take .jsonl, .jsonl.gz, .jsonl.zst, .parquet, .arrow, .txt, .md or .rst"
    raise DataError("is of no kind that is read", where=str(path), fix=fix)


def _files(patterns: Sequence[str]) -> Iterator[Path]:
    for pattern in patterns:
        place = user_path(pattern)
        if place.is_dir():
            inside = [path for path in sorted(place.rglob("*")) if path.is_file() and not _hidden(path, place)]
            arrow = [path for path in inside if path.suffix == ".arrow" and not path.name.startswith("cache-")]
            readable = arrow or [path for path in inside if _readable(path)]
            if not readable:
                raise DataError("holds no files that can be read", where=pattern, fix="name JSONL, Parquet or text")
            yield from readable
        elif place.exists():
            yield place
        elif has_magic(pattern):
            matches = sorted(path for path in map(Path, matches_of(place)) if path.is_file())
            if not matches:
                raise DataError("matches no file", where=pattern, fix="quote it in a shell")
            yield from matches
        else:
            raise DataError("does not exist", where=pattern, fix="check the path")


def _once(paths: Iterable[Path]) -> Iterator[Path]:
    """Each file once, however often and by whichever paths it is named."""
    known = set[str]()
    for path in paths:
        if (real := os.path.realpath(path)) not in known:
            known.add(real)
            yield path


def _hidden(path: Path, below: Path) -> bool:
    return any(piece.startswith(".") for piece in path.relative_to(below).parts)


def _readable(path: Path) -> bool:
    try:
        kind_of(path)
    except DataError:
        return False
    return path.name not in ("dataset_info.json", "state.json", "job.json", "summary.json", "corpus.json")


def _cuts(path: Path, kind: Kind, size: int, unit: int) -> Iterator[tuple[int, int, int]]:
    """Start, stop and bytes of each unit of a file."""
    if kind == "lines" and size > unit:
        for start in range(0, size, unit):
            yield start, min(start + unit, size), min(unit, size - start)
        return
    if kind == "parquet":
        groups = row_groups(path)
        first = held = 0
        for number, group in enumerate(groups):
            held += group
            if held >= unit or number == len(groups) - 1:
                yield first, number + 1, held
                first, held = number + 1, 0
        return
    yield 0, -1, size


def rows_of(unit: Unit, keys: Keys = Keys()) -> Iterator[DocumentRow | BrokenRow]:
    """Every document of a unit, and what is none, in order.

    Raises:
        DataError: a file cannot be read at all.
    """
    if unit.kind == "text":
        yield from _texts(unit)
    elif unit.kind in ("lines", "packed"):
        path = Path(unit.files[0])
        for number, line in lines_in(unit):
            if line is None:
                yield BrokenRow(f"{path}:{number}", f"is longer than {LARGEST:,} bytes", "")
            elif line.strip():
                yield _parsed(line, f"{path}:{number}", f"{path.name}:{number}", keys)
    else:
        path = Path(unit.files[0])
        for number, record in unpacked(path, unit.kind, unit.start, unit.stop, keys.columns):
            yield _row(record, f"{path}: row {number}", f"{path.name}:{number}", keys, b"")


def values_of(unit: Unit, fix: str = "") -> Iterator[tuple[str, Any]]:
    """Where each record of a unit stands, and what it holds, whatever its keys: JSON, of lines even if it is no object.

    Args:
        unit: of a kind that has records: not of text.
        fix: what to do about a line that is no JSON.

    Raises:
        DataError: a line is no JSON.
    """
    path = unit.files[0]
    if unit.kind in ("lines", "packed"):
        for number, line in lines_in(unit):
            if line is None or line.strip():
                try:
                    value = json.loads(line_text(line or b""))
                except (ValueError, RecursionError) as error:
                    raise DataError(f"is not JSON ({error})", where=f"{path}:{number}", fix=fix) from None
                yield f"{path}:{number}", value
    else:
        for number, record in unpacked(Path(path), unit.kind, unit.start, unit.stop):
            yield f"{path}: row {number}", record


def line_text(line: bytes) -> str:
    """A line of a file in UTF-8, which may begin with a byte order mark; a UnicodeDecodeError of one that is none."""
    return line.removeprefix(_BOM).decode()


def lines_in(unit: Unit) -> Iterator[tuple[int, bytes | None]]:
    """Line number and bytes of the lines that begin within a unit, packed or not; None for one that is too long."""
    return _lines(unit) if unit.kind == "lines" else packed_lines(Path(unit.files[0]))


def _lines(unit: Unit) -> Iterator[tuple[int, bytes | None]]:
    """Line number and bytes of the lines that begin within a unit; None for one that is too long."""
    with opened(Path(unit.files[0])) as file:
        number = 0
        if unit.start:
            number = _count_lines(file, unit.start)
            file.seek(unit.start - 1)
            if file.read(1) != b"\n":
                number += 1
                while len(rest := file.readline(LARGEST)) == LARGEST and not rest.endswith(b"\n"):
                    pass
        while unit.stop < 0 or file.tell() < unit.stop:
            line = file.readline(LARGEST + 1)
            if not line:
                return
            number += 1
            if len(line) > LARGEST:
                while line and not line.endswith(b"\n"):
                    line = file.readline(LARGEST)
                yield number, None
            else:
                yield number, line


def _count_lines(file: Any, stop: int) -> int:
    """Newlines before a byte."""
    file.seek(0)
    count = 0
    while stop > 0:
        block = file.read(min(stop, 1 << 22))
        if not block:
            break
        count += block.count(b"\n")
        stop -= len(block)
    return count


def _parsed(line: bytes, where: str, place: str, keys: Keys) -> DocumentRow | BrokenRow:
    line = line.removeprefix(_BOM).strip()
    try:
        record = _DECODER.decode(line.decode())
    except UnicodeDecodeError as error:
        return BrokenRow(where, f"holds byte 0x{line[error.start]:02x}, which is no UTF-8", quoted(line))
    except (ValueError, RecursionError) as error:
        return BrokenRow(where, f"is not JSON ({error})", quoted(line))
    if not isinstance(record, dict):
        return BrokenRow(where, f"holds a {type(record).__name__}, not an object", quoted(line))
    return _row(record, where, place, keys, line)


def _row(record: dict[str, Any], where: str, place: str, keys: Keys, raw: bytes) -> DocumentRow | BrokenRow:
    text = record.get(keys.text)
    if not isinstance(text, str):
        what = f"key {keys.text!r} holds a {type(text).__name__}, not a string"
        if keys.text not in record:
            what = f"lacks the key {keys.text!r} (it has: {', '.join(sorted(map(str, record))) or 'none'})"
        return BrokenRow(where, what, quoted(raw or json.dumps(record, default=str).encode()))
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            return BrokenRow(where, f"holds the lone surrogate U+{ord(text[error.start]):04X}", quoted(raw))
    own = record.get(keys.id)
    if b"NaN" in raw or b"Infinity" in raw:  # no JSON, though Python's json writes them: not passed on as they are
        raw = b""
    return DocumentRow(where, place if own is None else str(own), text, record, raw)


def _texts(unit: Unit) -> Iterator[DocumentRow | BrokenRow]:
    for name in unit.files:
        with opened(Path(name)) as file:
            data = file.read(LARGEST + 1)
        short = os.path.basename(name)
        if len(data) > LARGEST:
            yield BrokenRow(name, f"is larger than {LARGEST:,} bytes", "")
            continue
        try:
            text = data.removeprefix(_BOM).decode().replace("\r\n", "\n").replace("\r", "\n")
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            what = f"holds byte 0x{data[error.start]:02x}, which is no UTF-8"
            yield BrokenRow(f"{name}:{line}", what, quoted(data[max(0, error.start - 40) :]))
            continue
        yield DocumentRow(name, short, text, {"text": text, "path": name})


def quoted(data: bytes) -> str:
    """The beginning of a line as it can be printed."""
    return ascii(data[:_QUOTED].decode("utf-8", "replace"))[1:-1]


def blocks(rows: Iterable[DocumentRow], size: int = 1 << 20) -> Iterator[list[DocumentRow]]:
    """Rows in order, in lists of about so many characters of text."""
    block, held = list[DocumentRow](), 0
    for row in rows:
        block.append(row)
        held += len(row.text) + 1
        if held >= size:
            yield block
            block, held = [], 0
    if block:
        yield block


def stamps(units: Iterable[Unit]) -> list[list[Any]]:
    """What tells whether the files of units changed: path, bytes and time of change."""
    files = dict.fromkeys(name for unit in units for name in unit.files)
    found = [(name, os.stat(name)) for name in files]
    return [[os.path.abspath(name), known.st_size, known.st_mtime_ns] for name, known in found]


def cut_of(units: Iterable[Unit]) -> str:
    """What tells whether input was cut into the same units: a digest."""
    return digest([[unit.kind, len(unit.files), unit.start, unit.stop] for unit in units])


def inside_none(out: Path, units: Iterable[Unit]) -> None:
    """Refuse an output folder in which input lies (UsageError): it would be read again by the next call."""
    home = os.path.realpath(out)
    for unit in units:
        for name in unit.files:
            if os.path.commonpath([home, os.path.realpath(name)]) == home:
                raise UsageError("holds the input", where=str(out), fix="name another folder for the output")

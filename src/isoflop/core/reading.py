"""The one reader of stored and given files: bounded, regular files only, typed; every error names the file.

Whatever lies in a file's place (a folder, a device, a pipe, a sparse file of a terabyte, another program's data) is a
DataError. No error quotes what a file holds: it may be somebody else's.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from .complaints import words
from .errors import DataError, UsageError

LARGEST = 1 << 28
"""Bytes of a file, or of a line of a log, that is read at once (256 MiB)."""
_DIGITS = 300
"""Digits of the longest integer that is read: any of them is a finite float."""
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_SHOWN = 3  # problems of a file that an error lists
_FIX = "check the path and its permissions"


def user_path(path: str | Path) -> Path:
    """A path that a user wrote, with ``~`` and ``~name`` as home directories.

    Raises:
        UsageError: it is empty, holds a NUL, or names a home that does not exist. A file that is really called ``~x``
            is taken where it exists.
    """
    text = os.fspath(path)
    if not text or "\0" in text:
        raise UsageError("holds a NUL" if text else "is an empty path", where=ascii(text), fix="name a file or folder")
    whole = os.path.expanduser(text)
    if whole.startswith("~") and not os.path.lexists(whole):
        raise UsageError("begins with the home directory of a user who is not known", where=text, fix="write ./~...")
    return Path(whole)


def kind_of_file(mode: int) -> str:
    """What a file's mode says that it is, in words."""
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket", stat.S_IFLNK: "a link"}
    return kinds.get(stat.S_IFMT(mode), "a file" if stat.S_ISREG(mode) else "a device")


def contained(directory: Path, name: str) -> Path:
    """``directory/name``, which must not lead out of ``directory`` by a link (DataError)."""
    path = directory / name
    home, real = os.path.realpath(directory), os.path.realpath(path)
    if os.path.commonpath([home, real]) != home:
        raise DataError("leads out of its directory by a link, which is not followed", where=str(path), fix="remove it")
    return path


@contextlib.contextmanager
def read_errors(path: Path) -> Iterator[None]:
    """Turn the system's refusal to read ``path`` into a DataError that names it."""
    try:
        yield
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror or error})", where=str(path), fix=_FIX) from error
    except MemoryError as error:
        raise DataError("does not fit into memory", where=str(path)) from error


@contextlib.contextmanager
def opened(path: Path, *, pipe: bool = False) -> Iterator[BufferedReader]:
    """The regular file at ``path``, open for reading bytes.

    Args:
        path: of the file.
        pipe: take a pipe too, as a shell's ``<(command)`` is one. One that nobody writes to is empty.

    Raises:
        DataError: it cannot be read, or is no regular file.
    """
    with read_errors(path):
        _refuse_special(path, path.stat().st_mode, pipe)  # before opening: to open a device may do something
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe without a writer does not block
        with os.fdopen(handle, "rb") as file:
            _refuse_special(path, os.fstat(handle).st_mode, pipe)
            os.set_blocking(handle, True)
            yield file


def _refuse_special(path: Path, mode: int, pipe: bool) -> None:
    if not stat.S_ISREG(mode) and not (pipe and stat.S_ISFIFO(mode)):
        raise DataError(f"is {kind_of_file(mode)}, not a file", where=str(path), fix="name a file")


def read_bytes(path: Path, limit: int = LARGEST, *, pipe: bool = False) -> bytes:
    """All bytes of a file; DataError if it cannot be read, is no regular file (``pipe``: see ``opened``) or larger than
    ``limit``."""
    with opened(path, pipe=pipe) as file:
        size = os.fstat(file.fileno()).st_size
        chunks, left = list[bytes](), limit + 1 if size <= limit else 0
        while left and (chunk := file.read(min(left, max(size + 1, 1 << 16)))):
            chunks.append(chunk)
            left -= len(chunk)
    if not left:
        raise DataError(f"is larger than {limit:,} bytes, the most that is read", where=str(path))
    return b"".join(chunks)


def read_text(path: Path, limit: int = LARGEST, *, pipe: bool = False) -> str:
    """``read_bytes`` as UTF-8 text without a byte-order mark; anything else is a DataError."""
    try:
        return read_bytes(path, limit, pipe=pipe).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"is not UTF-8 text (byte {error.start})", where=str(path)) from error


def parse_json(text: str | bytes, where: str) -> Any:
    """The value of JSON text; DataError where it is no JSON, or holds what no reader of it could use.

    That is NaN, infinity, numbers beyond 64-bit floats, halves of surrogate pairs, and keys that stand twice.
    """
    try:
        text = text if isinstance(text, str) else text.decode()
        tree = json.loads(
            text, parse_constant=_refuse, parse_int=_integer, parse_float=_finite, object_pairs_hook=distinct_keys
        )
        if _SURROGATE.search(text):
            json.dumps(tree, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise DataError("is not JSON (half of a surrogate pair)", where=where) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"is not JSON ({error})", where=where) from error
    return tree


def distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object of these keys and values; ValueError where a key stands twice: one value of it would be lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return found


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON number")


def _integer(text: str) -> int:
    if len(text) > _DIGITS:
        raise ValueError(f"an integer of {len(text):,} digits")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if abs(value) == float("inf"):
        raise ValueError("a number beyond 64-bit floats")
    return value


def read_json(path: Path, kind: Any = None, limit: int = LARGEST) -> Any:
    """The value of a JSON file.

    Args:
        path: the file.
        kind: the type that it must have, anything that pydantic validates (``dict[str, Any]``, a model); None: any.
        limit: bytes of the largest file that is read.

    Raises:
        DataError: it cannot be read, is no JSON (see ``parse_json``), or of another kind; says where in it.
    """
    data = read_bytes(path, limit)
    tree = parse_json(data, str(path))
    if kind is None:
        return tree
    try:
        return _adapter(kind).validate_json(data)
    except ValidationError as error:
        raise DataError(f"does not hold what it should ({complaint(error)})", where=str(path)) from None


def read_jsonl(path: Path, kind: Any = None) -> list[Any]:
    """All whole records of a JSONL file; a torn last line (a writer was killed) is left out, a missing file is [].

    ``kind`` is the type of every record, as for ``read_json``. A broken line anywhere else is a DataError that names
    file and line.
    """
    records = []
    for record in each_jsonl(path, kind):
        if isinstance(record, DataError):
            raise record
        records.append(record)
    return records


def each_jsonl(path: Path, kind: Any = None) -> Iterator[Any]:
    """The records of ``read_jsonl`` one by one; a broken line comes as its DataError."""
    if not os.path.lexists(path):
        return
    with opened(path) as file:
        number = 0
        while line := file.readline(LARGEST + 1):
            number += 1
            where = f"{path}: line {number}"
            if len(line) > LARGEST:
                raise DataError(f"is longer than {LARGEST:,} bytes", where=where)
            if not line.strip():
                continue
            try:
                record = parse_json(line, where)
                yield record if kind is None else _adapter(kind).validate_python(record, strict=True)
            except ValidationError as error:
                yield DataError(f"does not hold what it should ({complaint(error)})", where=where)
            except DataError as error:
                if not line.endswith(b"\n"):  # the last line, torn
                    return
                yield error


@functools.lru_cache(64)
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def complaint(error: ValidationError) -> str:
    """What is wrong with a document, by key path and without the values that it holds."""
    found = [(item["loc"], words(item)) for item in error.errors(include_url=False, include_input=False)]
    lines = [f"{'.'.join(_shown(piece) for piece in loc)}: {what}" if loc else what for loc, what in found[:_SHOWN]]
    return "; ".join(lines) + (f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else "")


def _shown(piece: str | int) -> str:
    text = str(piece)
    return (text if text.isprintable() else ascii(text))[:64]

"""Files that are whole or absent: atomic writes, directories published by rename, torn JSON lines recovered."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import DataError, StorageError

PARTIAL = ".partial-"  # prefix of everything not yet published; leftovers of a kill are swept by `sweep`


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn the disk's refusals (full, quota, read-only, no permission) into a StorageError that names ``path``."""
    try:
        yield
    except Exception as error:
        code = error.errno if isinstance(error, OSError) else _foreign_errno(error)
        if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StorageError("no space left to write", where=str(path), fix="free some and run again") from error
        if code in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise StorageError("not allowed to write", where=str(path), fix="choose another --root") from error
        if code in (errno.ENOENT, errno.ENOTDIR):
            raise StorageError("no such folder can be made", where=str(path), fix="choose another --root") from error
        raise


def _foreign_errno(error: Exception) -> int | None:
    """The errno within the message of a library written in Rust (safetensors): its errors are no OSError."""
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None


def fsync_directory(path: Path) -> None:
    """Make renames and creations inside ``path`` durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(path: Path, data: bytes | str) -> None:
    """Replace ``path`` by ``data``: a reader, or a kill at any instant, sees the old bytes or the new."""
    partial = path.with_name(f"{PARTIAL}{uuid.uuid4().hex[:8]}-{path.name}")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as file:
                file.write(data.encode() if isinstance(data, str) else data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
            fsync_directory(path.parent)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def write_json(path: Path, value: Any) -> None:
    """Write readable JSON atomically; NaN and infinity are refused (ValueError)."""
    write_atomic(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON; a broken or missing file is a DataError that names it."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"cannot be read as JSON ({error})", where=str(path)) from error


@contextlib.contextmanager
def publish_directory(path: Path) -> Iterator[Path]:
    """Yield a fresh directory to fill; on leaving, everything in it is synced and it is renamed to ``path``.

    ``path`` must not exist. An exception inside removes the partial directory and leaves nothing behind.
    """
    partial = path.with_name(f"{PARTIAL}{uuid.uuid4().hex[:8]}-{path.name}")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
        try:
            yield partial
            for file in sorted(partial.rglob("*")):
                if file.is_file():
                    with file.open("rb") as handle:
                        os.fsync(handle.fileno())
                else:
                    fsync_directory(file)
            fsync_directory(partial)
            partial.rename(path)
            fsync_directory(path.parent)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


def sweep(directory: Path) -> int:
    """Remove what killed writers left in ``directory`` (not below it); the number removed."""
    leftovers = list(directory.glob(f"{PARTIAL}*"))
    for path in leftovers:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return len(leftovers)


def append_jsonl(path: Path, record: Any) -> None:
    """Append one JSON line in a single write; NaN and infinity are refused (ValueError)."""
    line = json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
    with disk_errors(path), path.open("ab") as file:
        file.write(line.encode())


def read_jsonl(path: Path) -> list[Any]:
    """All whole records of a JSONL file; a torn last line (a writer was killed) is left out, a missing file is [].

    A broken line anywhere else is a DataError that names file and line.
    """
    if not path.exists():
        return []
    records: list[Any] = []
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            records.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            if number == len(lines):  # the file does not end in a newline: torn
                break
            raise DataError(f"line {number} is not JSON ({error})", where=str(path)) from error
    return records


def mend_jsonl(path: Path) -> None:
    """Make a JSONL file end in a whole line, so that appending is safe after a kill: a torn last line is cut off."""
    if not path.exists():
        return
    with disk_errors(path), path.open("r+b") as file:
        data = file.read()
        whole = data.rfind(b"\n") + 1
        try:
            json.loads(data[whole:])
        except ValueError:
            file.truncate(whole)
        else:  # only the newline is missing
            file.write(b"\n")

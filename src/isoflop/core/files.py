"""Files that are whole or absent: atomic writes, directories published by rename, torn JSON lines recovered.

What is stored or given is read by ``reading.py``.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import math
import os
import re
import shutil
import stat
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from .errors import StorageError, UsageError, shown
from .reading import LARGEST, kind_of_file

PARTIAL = ".partial-"  # prefix of everything not yet published; leftovers of a kill are swept by `clear_leftovers`
_NAME = 200  # bytes of a file's name that its partial's name repeats: file systems allow 255
_SURROGATE = re.compile("[\ud800-\udfff]")
_TAIL = 1 << 16  # bytes that are read at once where a log's last line is looked for
_REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), ("no space left to write", "free some and run again")),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), ("not allowed to write", "choose another place")),
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR), ("no such folder can be made", "choose another place")),
}
_TAKEN = (errno.EEXIST, errno.ENOTEMPTY)  # somebody else was first: whoever publishes decides what that means


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn the disk's refusals (full, read-only, not permitted ...) into a StorageError that names ``path``."""
    try:
        yield
    except Exception as error:
        code = error.errno if isinstance(error, OSError) else _foreign_errno(error)
        if code is None or code in _TAKEN:
            raise
        what, fix = _REMEDIES.get(code, (f"cannot be written ({os.strerror(code)})", "choose another place"))
        raise StorageError(what, where=str(path), fix=fix) from error


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


def open_output(path: Path, flags: int) -> int:
    """A descriptor of the regular file at ``path``, made if needed, to write to with ``flags``; close it in the end.

    Raises:
        StorageError: the disk refused, or something else has that name: a folder, a device, a pipe, or a link, which
            would lead the writing elsewhere.
    """
    with disk_errors(path):
        _refuse_special(path)
        return os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)


def _refuse_special(path: Path) -> None:
    """Refuse to write to, or to replace, what is no regular file."""
    with contextlib.suppress(FileNotFoundError):
        mode = path.lstat().st_mode
        if not stat.S_ISREG(mode):
            what = f"is {kind_of_file(mode)}, and output goes to regular files only"
            raise StorageError(what, where=str(path), fix="name another file, or remove it")


def _make_folder(path: Path) -> None:
    """Make a folder and those above it, unless it is there already; a file in its place is a StorageError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise StorageError("is a file, not a folder", where=str(path), fix="choose another place") from error


def _partial(path: Path) -> Path:
    """A fresh name beside ``path`` for what is to become it."""
    name = os.fsdecode(os.fsencode(path.name)[:_NAME])
    return path.with_name(f"{PARTIAL}{uuid.uuid4().hex[:8]}-{name}")


@contextlib.contextmanager
def publish_file(path: Path) -> Iterator[Path]:
    """Yield the path of a file to write; on leaving it is synced and replaces ``path``.

    A reader, or a kill at any instant, sees the old bytes or the new; an exception inside leaves nothing behind.

    Raises:
        StorageError: the disk refused, or ``path`` is no regular file (a folder, a device, a pipe, a link).
    """
    with disk_errors(path):
        _refuse_special(path)
        partial = _partial(path)
        _make_folder(path.parent)
        try:
            yield partial
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            partial.replace(path)
            fsync_directory(path.parent)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def write_atomic(path: Path, data: bytes | str) -> None:
    """Replace ``path`` by ``data``; see ``publish_file``."""
    with publish_file(path) as partial:
        partial.write_bytes(data.encode() if isinstance(data, str) else data)


def jsonable(value: Any) -> Any:
    """The value as JSON can hold it: a number that is missing (NaN) or without bound becomes null, an array a list."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    return jsonable(value.tolist()) if hasattr(value, "tolist") else value  # numpy's


def write_json(path: Path, value: Any) -> None:
    """Write readable JSON atomically; NaN and infinity are refused (ValueError)."""
    write_atomic(path, _json(value, indent=1) + "\n")


def _json(value: Any, indent: int | None = None) -> str:
    """JSON that is UTF-8: bytes of files' names that are none (lone surrogates in Python) become readable escapes."""
    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    return _SURROGATE.sub(lambda found: json.dumps(shown(found[0]))[1:-1], text)


@contextlib.contextmanager
def publish_directory(path: Path) -> Iterator[Path]:
    """Yield a fresh directory to fill; on leaving, everything in it is synced and it is renamed to ``path``.

    ``path`` must not exist. An exception inside removes the partial directory and leaves nothing behind.
    """
    partial = _partial(path)
    with disk_errors(path):
        _make_folder(path.parent)
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


def clear_leftovers(directory: Path) -> int:
    """Remove what killed writers left in ``directory`` (not below it); the number removed."""
    leftovers = list(directory.glob(f"{PARTIAL}*"))
    for path in leftovers:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return len(leftovers)


def clear_leftovers_of(path: Path) -> None:
    """Remove what killed writers left of one directory that ``publish_directory`` was to make."""
    for leftover in path.parent.glob(f"{PARTIAL}*-{path.name}"):
        shutil.rmtree(leftover, ignore_errors=True)


def take_lock(handle: int, *, shared: bool = False, tries: int | None = 1) -> bool:
    """Lock an open file for this process, until it is closed or the process ends.

    Args:
        handle: the file's descriptor.
        shared: let others take a shared lock, too.
        tries: attempts, a hundredth of a second apart; None: wait for as long as it takes.

    Returns:
        False if another process holds it.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    if tries is None:
        fcntl.flock(handle, kind)
        return True
    for left in reversed(range(tries)):
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            time.sleep(0.01 if left else 0)
        else:
            return True
    return False


@contextlib.contextmanager
def alone_in(directory: Path) -> Iterator[None]:
    """Work in a directory, made if needed, as the only process that does. UsageError if another one works there."""
    with disk_errors(directory):
        _make_folder(directory)
    handle = open_output(directory / "lock", os.O_RDWR)
    try:
        if not take_lock(handle, tries=5):
            fix = "wait for it, or choose another place"
            raise UsageError("another process works on it", where=str(directory), fix=fix)
        yield
    finally:
        os.close(handle)


def append_jsonl(path: Path, record: Any) -> None:
    """Append one JSON line in a single write; NaN and infinity are refused (ValueError)."""
    line = _json(record) + "\n"
    with disk_errors(path), os.fdopen(open_output(path, os.O_WRONLY | os.O_APPEND), "ab", buffering=0) as file:
        file.write(line.encode())


def _last_line(file: BinaryIO, end: int) -> bytes:
    """What follows the last newline before ``end``, found from behind."""
    start, pieces = end, list[bytes]()
    while start and not (pieces and b"\n" in pieces[-1]):
        if end - start > LARGEST:
            raise StorageError(f"its last line is longer than {LARGEST:,} bytes", where=str(file.name))
        size = min(_TAIL, start)
        start = file.seek(start - size)
        pieces.append(file.read(size))
    return b"".join(reversed(pieces)).rpartition(b"\n")[2]


def mend_jsonl(path: Path) -> None:
    """Make a JSONL file end in a whole line, so that appending is safe after a kill: a torn last line is cut off."""
    if not os.path.lexists(path):
        return
    with disk_errors(path), os.fdopen(open_output(path, os.O_RDWR), "r+b") as file:
        end = file.seek(0, os.SEEK_END)
        last = _last_line(file, end)
        file.seek(end)
        try:
            json.loads(last)
        except (ValueError, RecursionError):
            file.truncate(end - len(last))
        else:  # only the newline is missing
            file.write(b"\n")

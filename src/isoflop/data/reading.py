"""Reading the user's files: what is wrong is said with file and line, and nothing broken gets through."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from glob import escape, glob, has_magic, iglob
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from ..core.digests import digest, digest_file
from ..core.errors import DataError
from ..core.reading import LARGEST, distinct_keys, opened, read_bytes, user_path
from .document import utf8


def _several(value: Any) -> Any:
    """One path as several; a list becomes the tuple that strict validation wants behind a validator of ours."""
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


Paths = Annotated[tuple[str, ...], Field(min_length=1), BeforeValidator(_several)]
"""One path or glob pattern, or several."""

_ONE_A_LINE = "write one object a line, each line ended by a newline (jq -c '.[]' does it for an array)"
LARGEST_TEXT = 1 << 32
"""Bytes of the largest text file (4 GiB): a document is held in memory."""
_DIGITS = 300
_BOM = b"\xef\xbb\xbf"
_GZIP = b"\x1f\x8b"


def files_of(patterns: Sequence[str]) -> dict[Path, bool]:
    """The files that paths and glob patterns (``**`` included) name: each once, sorted within a pattern.

    Returns:
        Each file, and whether a pattern found it: then it may be empty, as an ``__init__.py`` among others.

    Raises:
        DataError: a path that does not exist, or a pattern that no file matches.
    """
    found: dict[Path, bool] = {}
    for pattern in patterns:
        place = user_path(pattern)
        if has_magic(pattern) and not os.path.exists(place):
            matches = [path for path in map(Path, matches_of(place)) if path.is_file()]
            if not matches:
                raise DataError("matches no file", where=pattern, fix="check source.paths; quote it in a shell")
            for path in matches:
                found.setdefault(path, True)
            continue
        if os.path.isdir(place):
            raise DataError("is a folder", where=pattern, fix=f"name its files: {Path(pattern) / '**/*'}")
        if not os.path.exists(place):
            raise DataError("does not exist", where=pattern, fix="check source.paths")
        found[place] = False
    return found


def matches_of(pattern: Path) -> list[str]:
    """What matches a glob pattern, sorted. Of ``[old]/*.txt``, a folder that is really called ``[old]`` is meant."""
    known = pattern.anchor
    for piece in pattern.parts[bool(known) :]:
        literal = os.path.join(known, escape(piece))
        known = literal if any(iglob(literal, recursive=True)) else os.path.join(known, piece)
    return sorted(glob(known, recursive=True))


def digest_of(paths: Iterable[Path]) -> str:
    """A digest of the content of files, in order."""
    return digest([digest_file(path) for path in paths])


def read_text(path: Path, *, empty: bool = False) -> str:
    """A UTF-8 text file without byte-order mark, its line ends as ``\\n``.

    Raises:
        DataError: it cannot be read, holds NUL or bytes that are no UTF-8 (with the line), or nothing but white space
            (allowed if ``empty``).
    """
    data = read_bytes(path, LARGEST_TEXT)
    text = decoded(data.removeprefix(_BOM), str(path)).replace("\r\n", "\n").replace("\r", "\n")
    if not empty and not text.strip():
        raise DataError("is empty", where=str(path), fix="leave it out")
    return text


def read_records(
    path: Path, key: str, domain_key: str | None = None, group_key: str | None = None, *, empty: bool = False
) -> Iterator[tuple[int, str, str | None, str | None]]:
    """Line number, text, domain and group of every record of a JSON Lines file, plain or gzipped, blank lines aside.

    A record need not have a group.

    Raises:
        DataError: as ``read_objects``, or a record has no string under ``key`` (and ``domain_key``, if given).
    """
    for number, record in read_objects(path, empty=empty):
        where = f"{path}:{number}"
        text = _string(record, key, where)
        domain = None if domain_key is None else _string(record, domain_key, where)
        group = None if group_key is None or record.get(group_key) is None else str(record[group_key])
        yield number, text, domain, group


def read_pairs(
    path: Path, prompt_key: str, key: str, domain_key: str | None = None, *, other: str = "", empty: bool = False
) -> Iterator[tuple[int, str, str, str | None]]:
    """Line number, prompt, completion and domain of every record of a JSON Lines file.

    Args:
        path: the file.
        prompt_key: the key that holds the prompt, which may be empty.
        key: the key that holds the completion, which may not.
        domain_key: the key that holds the domain, if any does.
        other: a key under which a record without a prompt would hold its text: to have it, too, is an error.
        empty: the file may hold no records.

    Raises:
        DataError: as ``read_objects``, or a record lacks a key, holds no string under it, or an empty completion.
    """
    for number, record in read_objects(path, empty=empty):
        where = f"{path}:{number}"
        if other not in (prompt_key, key, domain_key) and other in record:
            what = f"has both {other!r} and {prompt_key!r}" if prompt_key in record else f"has {other!r}, not a prompt"
            fix = f"drop {other!r} from it, or read such records apart, without source.prompt_key"
            raise DataError(what, where=where, fix=fix)
        prompt = _string(record, prompt_key, where, "prompt_key")
        completion = _string(record, key, where, "completion_key")
        if not completion.strip():
            raise DataError(f"key {key!r} is empty: nothing would be predicted", where=where, fix="drop that record")
        yield number, prompt, completion, None if domain_key is None else _string(record, domain_key, where)


OPTIONS = "chat_template_kwargs"
"""The key of what a record's template asks for by name; transformers' name for it."""


def read_chats(
    path: Path, key: str, domain_key: str | None = None, *, others: Iterable[str] = (), empty: bool = False
) -> Iterator[tuple[int, dict[str, Any], str | None]]:
    """Line number, conversation and domain of every record of a JSON Lines file.

    A conversation is ``{"messages": [...]}``, with ``"tools": [...]`` if the record has some, and ``"options": {...}``
    if it has ``OPTIONS``. A message is an object
    with a "role" and, unless it calls tools, "content": text, or a list of parts as its template knows them.

    Args:
        path: the file.
        key: the key that holds the messages.
        domain_key: the key that holds the domain, if any does.
        others: keys of other kinds of records: to have one, too, is an error.
        empty: the file may hold no records.

    Raises:
        DataError: as ``read_objects``, or a record holds no messages, one of them is none, or none is the assistant's.
    """
    for number, record in read_objects(path, empty=empty, numbers=True):
        where = f"{path}:{number}"
        if mixed := sorted(other for other in others if other in record and other not in (key, domain_key)):
            what = f"has both {key!r} and {mixed[0]!r}" if key in record else f"has {mixed[0]!r}, not {key!r}"
            fix = f"drop {mixed[0]!r} from it, or read such records apart, without source.messages_key"
            raise DataError(what, where=where, fix=fix)
        if key not in record:
            fix = f"set source.messages_key (it has: {', '.join(sorted(record)) or 'none'})"
            raise DataError(f"lacks the key {key!r}", where=where, fix=fix)
        chat: dict[str, Any] = {"messages": _messages(record[key], key, where)}
        if record.get("tools"):
            if not isinstance(record["tools"], list) or not all(isinstance(tool, dict) for tool in record["tools"]):
                raise DataError("key 'tools' holds no list of objects", where=where, fix="give JSON schemas of tools")
            chat["tools"] = record["tools"]
        if record.get(OPTIONS) is not None:
            if not isinstance(record[OPTIONS], dict):
                fix = 'give what the template asks for by name, e.g. {"enable_thinking": false}'
                raise DataError(f"key {OPTIONS!r} holds no object", where=where, fix=fix)
            chat |= {"options": record[OPTIONS]} if record[OPTIONS] else {}
        yield number, chat, None if domain_key is None else _string(record, domain_key, where)


def _messages(messages: Any, key: str, where: str) -> list[dict[str, Any]]:
    if not isinstance(messages, list) or not messages:
        what = f"key {key!r} holds no list of messages"
        raise DataError(what, where=where, fix='give [{"role": "user", "content": "..."}, ...]')
    for number, message in enumerate(messages, 1):
        place = f"message {number} of {key!r}"
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise DataError(f"{place} has no role", where=where, fix='give it one, e.g. "user" or "assistant"')
        content = message.get("content")
        if not isinstance(content, str | list) and not (content is None and message.get("tool_calls")):
            raise DataError(f"{place} has no content", where=where, fix="give it text, or drop it")
    if all(message["role"] != "assistant" for message in messages):
        what = f"no message of {key!r} has the role 'assistant': nothing would be predicted"
        raise DataError(what, where=where, fix="drop that record")
    return messages


def read_objects(path: Path, *, empty: bool = False, numbers: bool = False) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and JSON object of every line of a JSON Lines file, plain or gzipped; blank lines are skipped.

    ``numbers`` keeps integers, which are 0 otherwise.

    Raises:
        DataError: the file cannot be read or unpacked, holds no records (allowed if ``empty``), or a line is no JSON
            object; names file and line.
    """
    records = number = 0
    with _opened(path) as file:
        try:
            for number, line in enumerate(iter(lambda: file.readline(LARGEST + 1), b""), 1):
                if len(line) > LARGEST:
                    raise DataError(f"is longer than {LARGEST:,} bytes", where=f"{path}:{number}", fix="split it")
                line = line.removeprefix(_BOM)  # files that begin with one may have been joined
                if not line.strip():
                    continue
                record = _parsed(line, f"{path}:{number}", numbers)
                records += 1
                yield number, record
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(
                f"is a damaged gzip file ({error}) after line {number}", where=str(path), fix="get it again"
            ) from error
    if not records and not empty:
        raise DataError("holds no records", where=str(path), fix="leave it out")


def decoded(data: bytes, where: str) -> str:
    """UTF-8 text; NUL or another byte that text does not hold is a DataError with its line."""
    nul = data.find(b"\0")
    try:
        text = data.decode()
        bad, what = nul, "a NUL byte"
    except UnicodeDecodeError as error:
        bad, what = error.start, f"byte 0x{data[error.start]:02x}, which is no UTF-8"
        text = ""
    if bad < 0:
        return text
    line = data.count(b"\n", 0, bad) + 1
    raise DataError(
        f"line {line} holds {what}: a binary file or another encoding", where=where, fix="convert it to UTF-8"
    )


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A file as it is, or what is packed in it if it begins as gzip does, whatever its name."""
    with opened(path) as file:
        if file.peek(2)[:2] != _GZIP:
            yield file
            return
        with gzip.open(file, "rb") as unpacked:
            yield unpacked


def _parsed(line: bytes, where: str, numbers: bool) -> dict[str, Any]:
    text = decoded(line, where)
    integer = _integer if numbers else _unused
    try:
        record = json.loads(
            text, parse_constant=_refuse, parse_int=integer, parse_float=_finite, object_pairs_hook=distinct_keys
        )
    except (ValueError, RecursionError) as error:
        torn = "" if line.endswith(b"\n") else "; the file ends within it"
        fix = _ONE_A_LINE if text.strip() in ("{", "[", "[{") or "\r{" in text else "repair or drop that line"
        raise DataError(f"is not JSON ({error}){torn}", where=where, fix=fix) from None
    if not isinstance(record, dict):
        raise DataError(f"holds a {type(record).__name__}, not an object", where=where, fix=_ONE_A_LINE)
    return record


def _integer(digits: str) -> int:
    """Python's own reader takes time that grows with the square of the digits."""
    if len(digits) > _DIGITS:
        raise ValueError(f"an integer of {len(digits):,} digits")
    return int(digits)


def _finite(digits: str) -> float:
    if abs(value := float(digits)) == float("inf"):
        raise ValueError("a number beyond 64-bit floats")
    return value


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON number")


def _unused(digits: str) -> int:
    """No number is used, however many digits it has."""
    return 0


def _string(record: dict[str, Any], key: str, where: str, setting: str = "key") -> str:
    if key not in record:
        if setting == "key" and record.keys() >= {"prompt", "completion"}:
            setting = "prompt_key"
        elif setting == "key" and isinstance(record.get("messages"), list):
            setting = "messages_key"
        fix = f"set source.{setting} (it has: {', '.join(sorted(record)) or 'none'})"
        raise DataError(f"lacks the key {key!r}", where=where, fix=fix)
    if not isinstance(record[key], str):
        raise DataError(f"key {key!r} holds a {type(record[key]).__name__}, not a string", where=where)
    utf8(record[key], where)
    return str(record[key])

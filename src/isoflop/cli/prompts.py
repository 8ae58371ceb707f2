"""Prompts from JSON lines, and samples to a file of JSON lines that a later call goes on with."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..core.errors import DataError, UsageError
from ..core.files import append_jsonl, mend_jsonl, open_output, take_lock
from ..core.reading import parse_json, read_bytes, read_jsonl, user_path

STANDARD = "-"
"""Names standard input, or standard output."""
OURS = ("index", "sample", "prompt", "text", "tokens", "ended", "logprobs", "calls", "flops", "gaps", "job")
"""Keys of an output line; all others are the input line's."""
_SHOWN = 3  # broken lines that an error names


def text_of_stdin() -> str:
    """Standard input as UTF-8 text.

    Raises:
        DataError: it is none.
    """
    data = _stdin()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"is not UTF-8 text (byte {error.start})", where="standard input") from error


def prompts_of(file: str) -> list[dict[str, Any]]:
    """The prompts of a file of JSON lines, or of standard input: objects with a text ``prompt``.

    A line is such an object, whose other keys are kept, or the text alone. Empty lines are skipped.

    Raises:
        DataError: lines that hold no prompt, by their numbers.
    """
    where = "standard input" if file == STANDARD else file
    found, problems = list[dict[str, Any]](), list[str]()
    lines = (_stdin() if file == STANDARD else read_bytes(user_path(file), pipe=True)).splitlines()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = parse_json(line, f"{where}: line {number}")
            found.append(_prompt(record, f"{where}: line {number}"))
        except DataError as error:
            problems.append(str(error))
    if problems:
        more = len(problems) - _SHOWN
        raise DataError("\n".join([*problems[:_SHOWN], *([f"and {more} more lines"] if more > 0 else [])]))
    if not found:
        raise DataError("holds no prompt", where=where, fix='write lines like {"prompt": "Once upon"}')
    return found


def _prompt(record: Any, where: str) -> dict[str, Any]:
    record = {"prompt": record} if isinstance(record, str) else record
    if not isinstance(record, dict) or not isinstance(record.get("prompt"), str):
        raise DataError("has no text under the key 'prompt'", where=where, fix='write {"prompt": "Once upon"}')
    if taken := [key for key in record if key in OURS and key != "prompt"]:
        raise DataError(f"the key {taken[0]!r} is one of the output's", where=where, fix="rename it")
    return record


def _stdin() -> bytes:
    return sys.stdin.buffer.read()


class SampleFile:
    """A file of JSON lines, a sample each, in the prompts' order; one that exists is gone on with.

    Args:
        path: the file.
        job: what decided the samples' text, as a digest.
    """

    def __init__(self, path: Path, job: str) -> None:
        self.path, self.job = path, job

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Keep other processes from writing to it meanwhile."""
        handle = open_output(self.path, os.O_RDWR)
        try:
            if not take_lock(handle):
                raise UsageError("another process is writing to it", where=str(self.path), fix="wait, or name another")
            yield
        finally:
            os.close(handle)

    def done(self, prompts: Sequence[dict[str, Any]], samples: int) -> int:
        """Whole lines that it holds already.

        Raises:
            UsageError: they were made in another way, or of other prompts.
        """
        mend_jsonl(self.path)
        lines = read_jsonl(self.path, dict[str, Any])
        fix = "name another file, or remove it"
        for place, line in enumerate(lines):
            where = f"{self.path}: line {place + 1}"
            if line.get("job") != self.job:
                raise UsageError("was written with another model or other settings", where=where, fix=fix)
            i, s = divmod(place, samples)
            if i >= len(prompts) or (line.get("index"), line.get("sample")) != (i, s):
                raise UsageError("is no sample that is wanted here", where=where, fix=fix)
            theirs = {key: value for key, value in line.items() if key not in OURS or key == "prompt"}
            if theirs != prompts[i]:
                same = theirs.get("prompt") == prompts[i]["prompt"]
                what = f"was written for {'other keys beside the prompt' if same else 'another prompt'}"
                raise UsageError(what, where=where, fix=fix)
        return len(lines)

    def write(self, line: dict[str, Any]) -> None:
        """Add a line, whole or not at all."""
        append_jsonl(self.path, {**line, "job": self.job})

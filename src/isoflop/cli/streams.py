"""The process's standard streams, such that showing something never undoes what was done."""

from __future__ import annotations

import io
import os
import sys


class Unfailing(io.FileIO):
    """A file for messages: what cannot be written (no reader, no space, no terminal any more) is lost silently."""

    def write(self, data: bytes, /) -> int:  # type: ignore[override]
        try:
            written = super().write(data)
        except OSError:
            written = None
        return len(data) if written is None else written  # None: it would have blocked


def secure_streams() -> None:
    """Make messages unfailing, and replace characters that the output's encoding lacks, in the whole process.

    A standard stream that the process was started without is opened on nothing: else the next file to be opened would
    take its number, and whatever a library writes to "standard error" would land in that file.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number is this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w" if number else "r", encoding="utf-8"))  # noqa: SIM115
    os.set_blocking(1, True)  # whoever shares it may have changed that; of messages it may lose some, of results none
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
    raw = Unfailing(2, "w", closefd=False)
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=encoding, errors="backslashreplace", line_buffering=True, write_through=True
    )

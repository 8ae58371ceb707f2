"""Text files of the user's own: one document a file, or long files cut into documents at line ends."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, ClassVar

from pydantic import Field, NonNegativeInt

from ...core.registry import Card, part
from ..document import Document, group_of
from ..reading import Paths, digest_of, files_of, read_text
from ..text_source import TextSourcePart

_BLANK = re.compile(rb"[ \t]")


@part
class TextPart(TextSourcePart):
    """UTF-8 text files.

    Use it for plain files; ``jsonl`` where one file holds many documents, or prompts. A file is held out as a whole,
    unless it is cut into chunks.

    Example:
        >>> from pathlib import Path
        >>> _ = Path("a.txt").write_text("one document")
        >>> [(document.text, document.domain) for document in TextPart(paths=("a.txt",)).documents()]
        [('one document', 'text')]
    """

    paths: Paths
    """Files or glob patterns, e.g. "books/**/*.txt"."""
    domain: Annotated[str, Field(min_length=1)] = "text"
    """What the held-out text is evaluated under."""
    chunk_bytes: NonNegativeInt = 0
    """Cut files into documents of so many to twice so many bytes, at line ends or blanks (0: one document a file)."""
    version: ClassVar[int] = 2
    card = Card(
        summary="UTF-8 text files, one document each or cut at line ends.",
        cost="reads every file at every start, to notice changes",
    )

    def documents(self) -> Iterator[Document]:
        for path, empty in files_of(self.paths).items():
            text = read_text(path, empty=empty)
            if not text.strip():
                continue
            if not self.chunk_bytes:
                yield Document(text, self.domain, str(path), group_of(text))
                continue
            for line, chunk in chunks(text, self.chunk_bytes):
                yield Document(chunk, self.domain, f"{path}:{line}", group_of(chunk))

    def look(self) -> None:
        files_of(self.paths)

    def inputs(self) -> str:
        return digest_of(files_of(self.paths))


def chunks(text: str, size: int) -> Iterator[tuple[int, str]]:
    """Pieces of ``text`` with the number of their first line; they join to the text.

    A piece ends at the first line end (``\\n`` alone is one) at which it has ``size`` bytes. If it would have more than
    twice as many there, it ends behind the first blank from ``size`` bytes on instead, or, if there is none either, at
    a character after twice as many. Pieces of white space only are left out.
    """
    data = text.encode()
    start, line = 0, 1
    while start < len(data):
        end = _end(data, start, size)
        piece = data[start:end].decode()
        if piece.strip():
            yield line, piece
        line += data.count(b"\n", start, end)
        start = end


def _end(data: bytes, start: int, size: int) -> int:
    """Where the piece of UTF-8 ``data`` that begins at ``start`` ends."""
    least, most = start + size, start + 2 * size
    if least >= len(data):
        return len(data)
    found = data.find(b"\n", least - 1, most)
    if found < 0 and len(data) <= most:
        return len(data)
    if found < 0 and (blank := _BLANK.search(data, least - 1, most)):
        found = blank.start()
    if found >= 0:
        return found + 1
    while most < len(data) and data[most] & 0xC0 == 0x80:  # within a character
        most += 1
    return most

"""Text files of the user's own: one document a file, or a long file cut into documents at line ends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar

from pydantic import Field, NonNegativeInt

from ...core.registry import Card, part
from ..document import Document, group_of
from ..reading import Paths, digest_of, files_of, read_text
from ..text_source import TextSourcePart


@part
class TextPart(TextSourcePart):
    """UTF-8 text files."""

    paths: Paths
    """Files or glob patterns, e.g. "books/**/*.txt"."""
    domain: Annotated[str, Field(min_length=1)] = "text"
    """What the held-out text is evaluated under."""
    chunk_bytes: NonNegativeInt = 0
    """Cut files into documents of about so many bytes, at line ends (0: one document a file)."""
    version: ClassVar[int] = 2
    card = Card(
        summary="UTF-8 text files, one document each or cut at line ends.",
        cost="reads every file at every start, to notice changes",
    )

    def documents(self) -> Iterator[Document]:
        for path in files_of(self.paths):
            text = read_text(path)
            if not self.chunk_bytes:
                yield Document(text, self.domain, str(path), group_of(text))
                continue
            for line, chunk in chunks(text, self.chunk_bytes):
                yield Document(chunk, self.domain, f"{path}:{line}", group_of(chunk))

    def inputs(self) -> str:
        return digest_of(files_of(self.paths))


def chunks(text: str, size: int) -> Iterator[tuple[int, str]]:
    """Pieces of ``text`` with the number of their first line: whole lines, each ending once it has ``size`` bytes.

    Pieces of white space only are left out; the others join to the text.
    """
    lines: list[str] = []
    held, first = 0, 1
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        lines.append(line)
        held += len(line.encode())
        if held >= size:
            if (piece := "".join(lines)).strip():
                yield first, piece
            lines, held, first = [], 0, number + 1
    if (piece := "".join(lines)).strip():
        yield first, piece

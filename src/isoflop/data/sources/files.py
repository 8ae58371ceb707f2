"""Files of any kind that the data engine reads, as documents: Parquet, JSON Lines, saved datasets, text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar

from pydantic import Field

from ...core.errors import DataError
from ...core.registry import Card, part
from ..document import Document, group_of
from ..engine.inputs import DocumentRow, Keys, rows_of, units_of
from ..reading import Paths, digest_of
from ..text_source import TextSourcePart


@part
class FilesPart(TextSourcePart):
    """Parquet, JSON Lines (plain, gzip, zstd), datasets that ``datasets`` saved, and text: files or folders.

    Use it for what is at hand in another form than JSON Lines; documents are held in memory, so build large ones with
    ``isoflop data build``.

    Example:
        >>> from pathlib import Path
        >>> _ = Path("a.jsonl").write_text('{"content": "a document"}')
        >>> [document.text for document in FilesPart(paths="a.jsonl", key="content").documents()]
        ['a document']
    """

    paths: Paths
    """Files, folders or glob patterns."""
    key: Annotated[str, Field(min_length=1)] = "text"
    """The key or column that holds the text."""
    domain: Annotated[str, Field(min_length=1)] = "text"
    """What the held-out text is evaluated under, where no domain_key is given."""
    domain_key: str | None = None
    """A key or column whose value is the document's domain."""
    card: ClassVar[Card] = Card(
        summary="Parquet, JSON Lines, saved datasets and text, files or folders.",
        differs="strict: what is no document is an error with its place, never skipped",
        cost="reads every file at every start, to notice changes",
    )

    def documents(self) -> Iterator[Document]:
        for unit in units_of(self.paths):
            for row in rows_of(unit, Keys(self.key)):
                if not isinstance(row, DocumentRow):
                    raise DataError(row.what, where=row.where, fix="repair or drop it, or set source.key")
                if "\0" in row.text:
                    raise DataError("holds a NUL", where=row.where, fix="drop that document")
                domain = self.domain if self.domain_key is None else str(row.record.get(self.domain_key, self.domain))
                if row.text.strip():
                    yield Document(row.text, domain, row.where, group_of(row.text))

    def look(self) -> None:
        units_of(self.paths)

    def inputs(self) -> str:
        from pathlib import Path

        return digest_of(dict.fromkeys(Path(name) for unit in units_of(self.paths) for name in unit.files))

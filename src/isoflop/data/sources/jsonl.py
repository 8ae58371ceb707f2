"""JSON Lines, plain or gzipped: one document a record."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar

from pydantic import Field

from ...core.registry import Card, part
from ..document import Document, group_of
from ..reading import Paths, digest_of, files_of, read_records
from ..text_source import TextSourcePart


@part
class JsonlPart(TextSourcePart):
    """Records of .jsonl and .jsonl.gz files; each is a document and is held out or not by itself."""

    paths: Paths
    """Files or glob patterns, e.g. "shards/*.jsonl.gz"."""
    key: str = "text"
    """The key that holds the text."""
    domain: Annotated[str, Field(min_length=1)] = "text"
    """What the held-out text is evaluated under, where no domain_key is given."""
    domain_key: str | None = None
    """A key whose string is the record's domain."""
    version: ClassVar[int] = 2
    card = Card(
        summary="JSON Lines files, plain or gzipped, one document a record.",
        differs="strict: NaN, a torn last line or a missing key is an error with its line, never skipped",
        cost="reads every file at every start, to notice changes",
    )

    def documents(self) -> Iterator[Document]:
        for path, empty in files_of(self.paths).items():
            for line, text, domain in read_records(path, self.key, self.domain_key, empty=empty):
                if text.strip():
                    yield Document(text, domain or self.domain, f"{path}:{line}", group_of(text))

    def inputs(self) -> str:
        return digest_of(files_of(self.paths))

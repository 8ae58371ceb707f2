"""What is in files of documents and what was dropped of them: written by ``data``, read by ``report``."""

from __future__ import annotations

from pathlib import Path

from ..core.documents import Frozen
from ..core.files import write_json
from ..core.reading import read_json

CORPUS_FACTS = "corpus.json"


class DroppedText(Frozen):
    """A document that was dropped.

    Example:
        >>> DroppedText(id="7", text="menu menu").id
        '7'
    """

    id: str
    text: str
    """Its beginning."""


class DropReason(Frozen):
    """Why documents were dropped.

    Example:
        >>> DropReason(reason="c4: few sentences", documents=3).examples
        ()
    """

    reason: str
    documents: int
    """Of a document that several rules drop, each counts."""
    examples: tuple[DroppedText, ...] = ()


class DroppingStep(Frozen):
    """A job that dropped documents.

    Example:
        >>> DroppingStep(verb="clean", folder="clean", documents=10, kept=9).remark
        ''
    """

    verb: str
    folder: str
    documents: int
    kept: int
    reasons: tuple[DropReason, ...] = ()
    remark: str = ""
    """Why there are no examples, where there are none."""


class CorpusFacts(Frozen):
    """Documents in files: how many, how long, in what scripts and languages, how often the same.

    Example:
        >>> facts = CorpusFacts(counts={"documents": 4, "words": 9, "length.03": 4, "language.en": 3, "language.de": 1})
        >>> facts.of("language"), facts.of("length")
        ({'en': 3, 'de': 1}, {'03': 4})
    """

    counts: dict[str, int]
    """Documents, words, bytes, characters, equal texts and ids; and by kind: "length.N", "script.NAME" ..."""
    key: str = ""
    """The key of records whose values were counted."""
    steps: tuple[DroppingStep, ...] = ()

    def of(self, kind: str) -> dict[str, int]:
        """Counts of a kind, the largest first."""
        found = {name[len(kind) + 1 :]: n for name, n in self.counts.items() if name.startswith(f"{kind}.")}
        return dict(sorted(found.items(), key=lambda pair: (-pair[1], pair[0])))

    def write(self, directory: Path) -> None:
        """Write ``corpus.json`` into a directory."""
        write_json(directory / CORPUS_FACTS, self.model_dump(mode="json"))

    @classmethod
    def read(cls, path: Path) -> CorpusFacts:
        """Read it. DataError if it is not one."""
        found: CorpusFacts = read_json(path, cls)
        return found

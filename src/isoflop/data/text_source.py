"""The base of every source whose data is text: it yields documents, the corpus does the rest."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Annotated, ClassVar

from pydantic import Field, NonNegativeInt

from ..core.context import Context
from ..core.contracts import SourcePart, Stateful
from ..core.documents import Later
from .corpus import Corpus
from .dedup import Deduplicate
from .document import Document
from .making import kept, prepare

MADE_BYTES = 1 << 34
"""The most text that is made up (16 GiB): documents are held in memory."""


class TextSourcePart(SourcePart):
    """A part that turns files or a seed into documents."""

    provides: ClassVar[frozenset[type]] = frozenset({Stateful})

    heldout_bytes: NonNegativeInt = 65536
    """Text of each domain that is evaluated, at most: whole held-out documents that fit (0: all of them)."""
    heldout_share: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Share of files that is held out, decided by a hash of each file's content."""

    deduplicate: Annotated[Deduplicate, Later()] = "near"
    """Documents that are left out: "near" duplicates as well as exact ones, "exact" ones only, or "none"."""

    @abstractmethod
    def documents(self) -> Iterator[Document]:
        """Every document, in an order that does not depend on the machine."""

    def look(self) -> None:
        """DataError if something that it names is not there; what that holds is not read."""

    @abstractmethod
    def inputs(self) -> str:
        """A digest of all that ``documents`` reads besides the part's own fields; costs no more than reading it."""

    @property
    def entropy_per_byte(self) -> float | None:
        """Bits a byte that no model can beat in expectation, where that is known exactly."""
        return None

    def build(self, ctx: Context) -> Corpus:
        """The corpus, from the cache if nothing it depends on has changed."""
        fields = self.model_dump(mode="json", exclude={"heldout_bytes", "heldout_share", "deduplicate"})
        return prepare(
            self.documents(),
            ctx.tokenizer,
            ctx,
            inputs={"source": fields, "read": self.inputs()},
            deduplicate=self.deduplicate,
            heldout_share=self.heldout_share,
            heldout_bytes=self.heldout_bytes,
            entropy_per_byte=self.entropy_per_byte,
        )

    def kept(self, fingerprint: str, ctx: Context) -> Corpus | None:
        """The corpus of old with that fingerprint, if the cache holds it still (``core.contracts.KeepsText``)."""
        return kept(
            fingerprint,
            ctx.tokenizer,
            ctx,
            heldout_bytes=self.heldout_bytes,
            entropy_per_byte=self.entropy_per_byte,
        )

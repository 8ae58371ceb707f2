"""What sources share that lay the rows of another one out anew: all but the training rows stays that one's own."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Generic, TypeVar

from ..core.context import Context
from ..core.contracts import HeldOut, Source, SourcePart, Stateful
from ..core.slots import SourceSlot
from .corpus import Corpus
from .text_source import TextSourcePart

S = TypeVar("S", bound=Source)


class Relaid(Generic[S]):
    """Base of live sources whose training rows are another's, laid out anew; everything else is that one's own.

    Args:
        source: the other one, live.
    """

    def __init__(self, source: S) -> None:
        self.source, self.fingerprint = source, source.fingerprint

    def __getattr__(self, name: str) -> Any:
        return getattr(self.source, name)

    def heldout(self) -> dict[str, HeldOut]:
        """The other source's own: held-out rows stay as they are."""
        return dict(self.source.heldout())


class RelaidTextPart(SourcePart):
    """Base of parts that lay the documents of a source of text out in rows of their own kind."""

    provides: ClassVar[frozenset[type]] = frozenset({Stateful})
    source: SourceSlot
    """Where the documents come from: any source of text."""

    @property
    def predicts_all(self) -> bool:
        return False

    @property
    def text(self) -> TextSourcePart:
        """The source of the documents, which the recipe has found to be one of text."""
        assert isinstance(self.source, TextSourcePart)
        return self.source

    @abstractmethod
    def laid_out(self, corpus: Corpus, ctx: Context) -> Relaid[Corpus]:
        """The live source of a corpus' documents."""

    def build(self, ctx: Context) -> Relaid[Corpus]:
        return self.laid_out(self.text.build(ctx), ctx)

    def kept(self, fingerprint: str, ctx: Context) -> Relaid[Corpus] | None:
        """The source of old with that fingerprint, if the cache holds it still (``core.contracts.KeepsText``)."""
        found = self.text.kept(fingerprint, ctx)
        return None if found is None else self.laid_out(found, ctx)

"""The contracts of choosing data: filters that drop or mend documents, scorers that say how much one is worth."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from ..cost import Cost
from ..registry import Part

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True)
class Verdicts:
    """What a filter says of a batch of documents.

    Args:
        reasons: one a document: why it is dropped, in a word; "" if it stays.
        edited: documents whose text the filter mends: number -> new text.
        notes: one a document, or none: what else was found, to be kept beside it.

    Example:
        >>> Verdicts(["", "short"]).reasons.index("short")
        1
    """

    reasons: Sequence[str]
    edited: Mapping[int, str] = field(default_factory=dict)
    notes: Sequence[Mapping[str, Any]] = ()


class FilterPart(Part):
    """Which documents stay, and what of them."""

    slot: ClassVar[str] = "filter"

    def reads(self) -> tuple[str, ...]:
        """Files that it reads, such as lists: what they hold is part of what a job is."""
        return ()

    @abstractmethod
    def judge(self, pages: Any) -> Verdicts:
        """What becomes of each document.

        Args:
            pages: a batch of texts with their records (``isoflop.data.engine.pages.Pages``).
        """


class Scorer(Protocol):
    """Says how much each of many documents is worth: more is better."""

    def score(self, documents: Sequence[tuple[str, str]]) -> npt.NDArray[np.float64]:
        """One score a document, (n,), from its id and text; what else is in the batch changes none of them."""

    @property
    def cost(self) -> Cost:
        """What scoring has cost so far, what it was made of included."""


@runtime_checkable
class Groups(Protocol):
    """A scorer that also says which group a document belongs to, so that a selection can take some of each."""

    def grouped(self, documents: Sequence[tuple[str, str]]) -> tuple[npt.NDArray[np.float64], Sequence[int]]:
        """The scores, and the number of each document's group."""


class ScorerPart(Part):
    """How much a document is worth to a model that is to be trained.

    Class attributes:
        fits: names of documents that it needs to see before it scores.
        uses: names of trained models that it asks.
    """

    slot: ClassVar[str] = "scorer"
    fits: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def build(self, texts: Mapping[str, Iterable[str]], models: Mapping[str, Any]) -> Scorer:
        """The live scorer.

        Args:
            texts: the documents by the names in ``fits``, and a sample of the pool as ``pool``.
            models: trained models by the names in ``uses``.
        """

"""Language identification: documents in the languages that are wanted, as far as they are surely so."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveInt, model_validator

from ...core.contracts import FilterPart, Verdicts
from ...core.documents import Later
from ...core.registry import Card, part
from ..engine.languages import identifier
from ..engine.pages import Pages


@part
class LanguagePart(FilterPart):
    """Keeps documents in some languages; each one's language and probability are kept beside it.

    Reasons: other_language, and unsure where the language is a wanted one and its probability too low. With ``model``
    a fastText model decides, as in DCLM and FineWeb; with ``examples`` what is learned from documents of each language,
    which wants no library; otherwise py3langid, which needs no file.

    Example:
        >>> part = LanguagePart(languages=("en",))
        >>> part.judge(Pages(["This is the house that they built.", "Das ist das Haus, das sie bauten."])).reasons
        ['', 'other_language']
    """

    languages: Annotated[tuple[str, ...], Field(min_length=1)] = ("en",)
    """Their codes in ISO 639, as the model names them."""
    min_probability: Annotated[float, Field(ge=0, le=1)] = 0.65
    """Of a document's language."""
    model: str | None = None
    """A fastText model's file (lid.176.bin), which wants the library fasttext."""
    examples: Annotated[dict[str, str], Later()] = {}
    """Language -> a file of documents in it, of those that are wanted and of those that occur beside them."""
    characters: PositiveInt = 10_000
    """Of a document that are looked at, from its beginning."""
    card = Card(
        summary="Documents in some languages, by an identifier whose probability is high enough.",
        paper="Li et al. 2024, arXiv 2406.11794 (English at 0.65); Lui and Baldwin 2012 (langid)",
        defaults="fastText's lid.176 on the whole text",
        differs="py3langid, or naive Bayes over runs of bytes learned from examples, unless a fastText model is named; "
        "the first 10,000 characters",
        cost="no model of ours",
    )

    @model_validator(mode="after")
    def _one_way(self) -> LanguagePart:
        if self.model is not None and self.examples:
            raise ValueError("model and examples are both given; name one")
        if self.examples and (unknown := [name for name in self.languages if name not in self.examples]):
            raise ValueError(f"languages: examples hold no {unknown[0]!r}; they hold {', '.join(self.examples)}")
        return self

    def reads(self) -> tuple[str, ...]:
        return tuple(self.examples.values()) if self.model is None else (self.model,)

    def judge(self, pages: Pages) -> Verdicts:
        found = identifier(self.model, self.examples).identify([text[: self.characters] for text in pages.texts])
        reasons = [
            "other_language" if name not in self.languages else "unsure" if p < self.min_probability else ""
            for name, p in found
        ]
        return Verdicts(reasons, notes=[{"language": name, "probability": round(p, 4)} for name, p in found])

"""Addresses are cut out of texts, and empty lines that follow each other become one, as DCLM does before its rules."""

from __future__ import annotations

import re

from ...core.contracts import FilterPart, Verdicts
from ...core.registry import Card, part
from ..engine.pages import Pages

_URL = re.compile(r"(?:https?://|www\.)[^\s<>\"'`{}|\\^\[\]]+", re.IGNORECASE)
_END = ".,;:!?)»”’"
_EMPTY = re.compile(r"\n{3,}")


@part
class StripUrlsPart(FilterPart):
    """Cuts addresses out of texts and leaves one empty line where there were several.

    It edits; a text of which nothing is left goes (``empty``). Use it after ``url`` and before rules that count words.

    Example:
        >>> StripUrlsPart().judge(Pages(["See https://a.example/b?c=1, then go.\\n\\n\\n\\nOn."])).edited[0]
        'See , then go.\\n\\nOn.'
    """

    card = Card(
        summary="Cuts addresses out of texts; rows of empty lines become one.",
        paper="Li et al. 2024, arXiv 2406.11794, appendix; Penedo et al. 2023, arXiv 2306.01116",
        differs="addresses begin with http://, https:// or www.; marks at an address' end stay",
        cost="no model",
    )

    def judge(self, pages: Pages) -> Verdicts:
        reasons, edited = list[str](), dict[int, str]()
        for number, text in enumerate(pages.texts):
            found = _URL.sub(_kept, text) if "://" in text or "www." in text.lower() else text
            found = _EMPTY.sub("\n\n", found)
            reasons.append("empty" if text.strip() and not found.strip() else "")
            if found != text and not reasons[-1]:
                edited[number] = found
        return Verdicts(reasons, edited)


def _kept(found: re.Match[str]) -> str:
    """The marks at an address' end: they are the sentence's."""
    whole = found[0]
    return whole[len(whole.rstrip(_END)) :]

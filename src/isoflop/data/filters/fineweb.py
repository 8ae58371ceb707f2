"""Quality rules of FineWeb (Penedo et al. 2024): punctuation, short and duplicate lines, lists."""

from __future__ import annotations

from pydantic import NonNegativeFloat, NonNegativeInt

from ...core.contracts import FilterPart, Verdicts
from ...core.registry import Card, part
from ..engine.pages import Pages
from ..engine.repeats import duplicates

_STOPS = tuple(".?!…‥。．｡！？｟؟۔।॥။፧፨᙮᠃᠉⁇⁈⁉‼⸮꓿꘎꘏꛳꛷꣎꣏꧈꧉꩝꩞꩟꫰꫱꯫︒﹒﹖﹗։׃՞՜܀܁܂߹࠷࠹࠽࠾ฯ๏༎༑")
"""Marks that end a sentence in one script or another."""


@part
class FinewebPart(FilterPart):
    """Drops pages of lists, menus and repeated lines: line_punct, short_lines, dup_chars, list.

    Example:
        >>> FinewebPart().judge(Pages(["a menu\\nan entry\\nanother"])).reasons
        ['line_punct']
    """

    min_punctuation: NonNegativeFloat = 0.12
    """Share of lines that end as a sentence does."""
    max_short: NonNegativeFloat = 0.67
    """Share of lines of so many characters at most."""
    short: NonNegativeInt = 30
    """That many."""
    max_duplicates: NonNegativeFloat = 0.01
    """Share of characters in lines that equal an earlier one."""
    max_newlines: NonNegativeFloat = 0.3
    """Newlines per word."""
    card = Card(
        summary="FineWeb's rules: lines that end in punctuation, short and duplicate lines, newlines per word.",
        paper="Penedo et al. 2024, arXiv 2406.17557, section 3.6; as in datatrove 0.10",
        differs="words are cut by character classes, not by spaCy",
        cost="no model; about 25 MB/s on one core",
    )

    def judge(self, pages: Pages) -> Verdicts:
        words = pages.tokens.counts.tolist()
        return Verdicts([self._first(text, words[number]) for number, text in enumerate(pages.texts)])

    def _first(self, text: str, words: int) -> str:
        lines = [line for line in text.split("\n") if line and not line.isspace()]
        if not lines:
            return "empty"
        if sum(line.endswith(_STOPS) for line in lines) < self.min_punctuation * len(lines):
            return "line_punct"
        if sum(len(line) <= self.short for line in lines) > self.max_short * len(lines):
            return "short_lines"
        newlines = text.count("\n")
        if duplicates(lines)[1] > self.max_duplicates * (len(text) - newlines):
            return "dup_chars"
        return "list" if newlines > self.max_newlines * words else ""

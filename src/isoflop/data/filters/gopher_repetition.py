"""Repetition rules of Gopher (Rae et al. 2021), as datatrove applies them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from pydantic import NonNegativeFloat

from ...core.contracts import FilterPart, Verdicts
from ...core.registry import Card, part
from ..engine.pages import Pages
from ..engine.repeats import Repeats, duplicates, lines_of, paragraphs_of, shares


@part
class GopherRepetitionPart(FilterPart):
    """Drops texts that repeat themselves: lines, paragraphs, and n-grams of words.

    A document is dropped for the first rule that it breaks: dup_para, dup_para_char, dup_line, dup_line_char, then
    top_N_gram (N = 2, 3, 4), dup_N_gram (N = 5 ... 10).

    Example:
        >>> GopherRepetitionPart().judge(Pages(["one line\\n" * 5])).reasons
        ['dup_line']
    """

    lines: NonNegativeFloat = 0.3
    """Share of lines that equal an earlier one, at most."""
    paragraphs: NonNegativeFloat = 0.3
    """Likewise of paragraphs."""
    line_characters: NonNegativeFloat = 0.2
    """Share of characters in such lines."""
    paragraph_characters: NonNegativeFloat = 0.2
    """Likewise in paragraphs."""
    top: tuple[NonNegativeFloat, ...] = (0.20, 0.18, 0.16)
    """Share of characters in the commonest 2-gram, 3-gram, 4-gram."""
    repeated: tuple[NonNegativeFloat, ...] = (0.15, 0.14, 0.13, 0.12, 0.11, 0.10)
    """Share of characters in 5-grams, 6-grams ... that occurred before."""
    card = Card(
        summary="Gopher's repetition rules: duplicate lines and paragraphs, frequent and repeated n-grams.",
        paper="Rae et al. 2021, arXiv 2112.11446, table A1; as in datatrove 0.10",
        differs="words are cut by character classes, not by spaCy",
        cost="no model; about 15 MB/s on one core",
    )

    def judge(self, pages: Pages) -> Verdicts:
        reasons = [self._pieces(text) for text in pages.texts]
        repeats = Repeats(pages)
        for n, limit in enumerate(self.top, 2):
            self._mark(reasons, shares(repeats.top(n), pages.lengths) > limit, f"top_{n}_gram")
        for n, limit in enumerate(self.repeated, 5):
            over = shares(repeats.covered(n), pages.lengths) > limit
            for i in over.nonzero()[0].tolist():
                if not reasons[i] and repeats.greedy(i, n) > limit * len(pages.texts[i]):
                    reasons[i] = f"dup_{n}_gram"
        return Verdicts(reasons)

    @staticmethod
    def _mark(reasons: list[str], over: npt.NDArray[np.bool_], name: str) -> None:
        for i in over.nonzero()[0].tolist():
            reasons[i] = reasons[i] or name

    def _pieces(self, text: str) -> str:
        if not text:
            return ""
        paragraphs = paragraphs_of(text)
        count, characters = duplicates(paragraphs)
        if count > self.paragraphs * len(paragraphs):
            return "dup_para"
        if characters > self.paragraph_characters * len(text):
            return "dup_para_char"
        lines = lines_of(text)
        count, characters = duplicates(lines)
        if count > self.lines * len(lines):
            return "dup_line"
        return "dup_line_char" if characters > self.line_characters * len(text) else ""

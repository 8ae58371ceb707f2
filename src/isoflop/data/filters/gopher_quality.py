"""Quality rules of Gopher (Rae et al. 2021), as datatrove and DCLM apply them."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field, NonNegativeFloat, NonNegativeInt

from ...core.contracts import FilterPart, Verdicts
from ...core.registry import Card, part
from ..engine.pages import ALPHA, SYMBOL, WORD, Pages, Places

STOP = ("the", "be", "to", "of", "and", "that", "have", "with")
_BULLETS = ("•", "-")
_DOTS = ("...", "…")


@part
class GopherQualityPart(FilterPart):
    """Drops what is too short, too long, or made of symbols, bullets and ellipses rather than of words.

    Use it first on text from the web; the thresholds are for English. A document is dropped for the first rule that it
    breaks: short_doc, long_doc, below_avg, above_avg, hashes, ellipsis, bullets, end_ellipsis, alpha, stop_words.

    Example:
        >>> GopherQualityPart().judge(Pages(["Too short."])).reasons
        ['short_doc']
    """

    min_words: NonNegativeInt = 50
    """Words, those of punctuation alone not counted."""
    max_words: NonNegativeInt = 100_000
    """Likewise."""
    min_mean_length: NonNegativeFloat = 3.0
    """Characters of a word on average."""
    max_mean_length: NonNegativeFloat = 10.0
    """Likewise."""
    max_symbols: NonNegativeFloat = 0.1
    """Hashes, and ellipses, per word."""
    max_bullets: NonNegativeFloat = 0.9
    """Share of lines that begin with a bullet."""
    max_ellipses: NonNegativeFloat = 0.3
    """Share of lines that end with an ellipsis."""
    min_alpha: NonNegativeFloat = 0.8
    """Share of words with a letter, those of punctuation alone counted as words."""
    min_stop_words: NonNegativeInt = 2
    """Of the, be, to, of, and, that, have, with."""
    distinct: bool = True
    """Stop words are counted once each; DCLM counts every occurrence."""
    bullets: Annotated[tuple[str, ...], Field(min_length=1)] = _BULLETS
    """What a line of a list begins with; DCLM takes an asterisk, too."""
    card = Card(
        summary="Gopher's quality rules: length, word length, symbols, bullets, ellipses, letters, stop words.",
        paper="Rae et al. 2021, arXiv 2112.11446, table A1; thresholds as in datatrove 0.10 and DCLM",
        differs="words are cut by character classes, not by spaCy: counts differ by a few per cent",
        cost="no model; about 20 MB/s on one core",
    )

    def judge(self, pages: Pages) -> Verdicts:
        tokens, classes = pages.tokens, pages.classes
        solid = ((classes[tokens.starts] & SYMBOL) == 0) | (
            (tokens.lengths > 1) & ((classes[tokens.stops - 1] & WORD) != 0)
        )
        before = np.concatenate([[0], np.cumsum((classes & ALPHA) != 0)])
        alpha = tokens.per_text(before[tokens.stops] > before[tokens.starts])
        count, words = tokens.counts, tokens.per_text(solid)
        mean = tokens.per_text(tokens.lengths * solid) / np.maximum(words, 1)
        stop = self._stop_words(pages)
        return Verdicts(
            [
                self._first(text, int(count[i]), int(words[i]), float(mean[i]), int(alpha[i]), int(stop[i]))
                for i, text in enumerate(pages.texts)
            ]
        )

    def _stop_words(self, pages: Pages) -> Places:
        known = Pages([" ".join(STOP)]).token_hashes
        found = [pages.tokens.per_text(pages.token_hashes == each) for each in known]
        return np.asarray(np.sum([np.minimum(each, 1) if self.distinct else each for each in found], axis=0))

    def _first(self, text: str, count: int, words: int, mean: float, alpha: int, stop: int) -> str:
        """The first rule that a text breaks."""
        if words < self.min_words:
            return "short_doc"
        if words > self.max_words:
            return "long_doc"
        if mean < self.min_mean_length:
            return "below_avg"
        if mean > self.max_mean_length:
            return "above_avg"
        if text.count("#") > self.max_symbols * count:
            return "hashes"
        if text.count("...") + text.count("…") > self.max_symbols * count:
            return "ellipsis"
        lines = text.splitlines()
        if sum(line.lstrip().startswith(self.bullets) for line in lines) > self.max_bullets * len(lines):
            return "bullets"
        if (".." in text or "…" in text) and sum(line.rstrip().endswith(_DOTS) for line in lines) > (
            self.max_ellipses * len(lines)
        ):
            return "end_ellipsis"
        if alpha < self.min_alpha * count:
            return "alpha"
        return "stop_words" if stop < self.min_stop_words else ""

"""Line edits of DCLM (Li et al. 2024), those of RefinedWeb: what looks like a menu, a counter or a heading goes."""

from __future__ import annotations

import re

from pydantic import NonNegativeFloat, NonNegativeInt

from ...core.contracts import FilterPart, Verdicts
from ...core.registry import Card, part
from ..engine.pages import Pages

_COUNTER = re.compile(
    r"^\W*\d(?:,|\.|\d)*(?:K|k|M|m|B|b)?\s+(?:likes|shares|comments|retweets|reposts|quotes|bookmarks|upvotes|downvotes"
    r"|downloads|views|followers)\W*$"
)
_PHRASE = re.compile(r"(?:^sign-in)|(?:read more\.{3}$)|(?:items in cart)", re.IGNORECASE)
_DIGITS = re.compile(r"^[\W\d_]*\d[\W\d_]*$")


@part
class DclmLinesPart(FilterPart):
    """Removes lines of capitals, of numbers, of counters ("3 likes") and of one word; then pages that lost much.

    It edits; a page goes (``too_much_removed``) when more than ``max_removed`` of its words went.

    Example:
        >>> text = "A sentence that stays, with many words.\\n3 likes\\n" * 20
        >>> len(DclmLinesPart(max_removed=1.0).judge(Pages([text])).edited[0].splitlines())
        20
    """

    max_capitals: NonNegativeFloat = 0.5
    """Share of a line's characters in upper case."""
    min_words: NonNegativeInt = 2
    """Of a line."""
    phrase_words: NonNegativeInt = 10
    """Words of a line from which "sign-in", "read more..." and "items in cart" are cut, at most."""
    max_removed: NonNegativeFloat = 0.05
    """Share of a page's words."""
    card = Card(
        summary="RefinedWeb's line edits as DCLM applies them; pages that lose more than 5 % of their words go.",
        paper="Li et al. 2024, arXiv 2406.11794, appendix; Penedo et al. 2023, arXiv 2306.01116, table 7",
        differs="words are what blanks part",
        cost="no model; about 15 MB/s on one core",
    )

    def judge(self, pages: Pages) -> Verdicts:
        reasons, edited = list[str](), dict[int, str]()
        for number, text in enumerate(pages.texts):
            lines = text.split("\n")
            kept = [mended for line in lines if (mended := self._line(line)) is not None]
            reason = ""
            if len(kept) < len(lines) or kept != lines:
                new = "\n".join(kept)
                before = len(text.split())
                if before - len(new.split()) > self.max_removed * before:
                    reason = "too_much_removed"
                elif new != text:
                    edited[number] = new
            reasons.append(reason)
        return Verdicts(reasons, edited)

    def _line(self, line: str) -> str | None:
        """The line as it stays; None if it goes. Lines of blanks alone stay: they part paragraphs."""
        if not line or line.isspace():
            return line
        if sum(map(str.isupper, line)) > self.max_capitals * len(line):
            return None
        words = line.count(" ") + 1 if "  " not in line else len(line.split())
        if words < self.min_words and len(line.split()) < self.min_words:
            return None
        if not line[0].isalpha() and (_DIGITS.match(line) or _COUNTER.match(line)):
            return None
        if words <= self.phrase_words:
            line = _PHRASE.sub("", line)
        return line

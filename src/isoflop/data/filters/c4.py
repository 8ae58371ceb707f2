"""Rules of C4 (Raffel et al. 2020): lines that end as sentences do, pages with enough of them."""

from __future__ import annotations

import re

from pydantic import NonNegativeInt

from ...core.contracts import FilterPart, Verdicts
from ...core.registry import Card, part
from ..engine.pages import Pages

_CITATION = re.compile(r"\[\d*]|\[edit]|\[citation needed]")
_END = (".", "?", "!", '"', "'")
_POLICY = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
_SENTENCE = re.compile(r"[.!?…]+[\"'”’)\]]*(?:\s+|$)")


@part
class C4Part(FilterPart):
    """Keeps lines that end as a sentence does and pages with five sentences in them; drops code and placeholders.

    It edits: lines without an end, with too few words, with a word of a thousand characters, or about JavaScript and
    cookies go, and so do citation marks. Pages go for: lorem_ipsum, curly_bracket, few_sentences.

    Example:
        >>> C4Part().judge(Pages(["Only one sentence.", "Some code { }."])).reasons
        ['few_sentences', 'curly_bracket']
    """

    terminal: bool = True
    """Lines that do not end in a full stop, question or exclamation mark or a quotation mark go; FineWeb keeps them."""
    min_sentences: NonNegativeInt = 5
    """Of a page's lines that stay (DCLM: 3)."""
    min_words: NonNegativeInt = 3
    """Of a line, as blanks part them."""
    max_word_length: NonNegativeInt = 1000
    """Characters of a line's longest word."""
    javascript: bool = True
    """Lines that mention it go."""
    curly_bracket: bool = True
    """Pages with a brace in a line that stays go."""
    policy: bool = True
    """Lines about terms of use, privacy and cookies go."""
    card = Card(
        summary="C4's rules: lines that end as sentences, pages of five sentences, no code or placeholder.",
        paper="Raffel et al. 2020, JMLR 21, section 2.2; as in datatrove 0.10",
        differs="sentences are counted by their marks, not by spaCy; no list of bad words",
        cost="no model; about 25 MB/s on one core",
    )

    def judge(self, pages: Pages) -> Verdicts:
        reasons, edited = list[str](), dict[int, str]()
        for number, text in enumerate(pages.texts):
            reason, kept = self._page(text)
            reasons.append(reason)
            if not reason and kept != text:
                edited[number] = kept
        return Verdicts(reasons, edited)

    def _page(self, text: str) -> tuple[str, str]:
        low = text.lower()
        lorem, script = "lorem ipsum" in low, self.javascript and "javascript" in low
        policy = self.policy and any(phrase in low for phrase in _POLICY)
        long, cited, brace = len(text) > self.max_word_length, "[" in text, self.curly_bracket and "{" in text
        kept, sentences = list[str](), 0
        for line in text.splitlines():
            line = line.strip()
            words = line.split()
            if long and len(line) > self.max_word_length and max(map(len, words)) > self.max_word_length:
                continue
            if cited:
                line = _CITATION.sub("", line)
            if self.terminal and (not line.endswith(_END) or line.endswith("...")):
                continue
            if len(words) < self.min_words:
                continue
            if lorem and "lorem ipsum" in line.lower():
                return "lorem_ipsum", text
            if script and "javascript" in line.lower():
                continue
            if brace and "{" in line:
                return "curly_bracket", text
            if policy and any(phrase in line.lower() for phrase in _POLICY):
                continue
            if sentences < self.min_sentences:
                sentences += _sentences(line)
            kept.append(line)
        if sentences < self.min_sentences:
            return "few_sentences", text
        return "", "\n".join(kept).strip()


def _sentences(line: str) -> int:
    """Sentences of a line by their marks; what follows the last mark is one more."""
    end = count = 0
    for found in _SENTENCE.finditer(line):
        count, end = count + 1, found.end()
    return count + (end < len(line))

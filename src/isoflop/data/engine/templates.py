"""Rephrasing by rules: no model, no FLOPs; for trying things out and as what a real generator has to beat."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ...core.cost import Cost

_SENTENCE = re.compile(r"(?<=[.!?…])\s+")
_ASIDE = re.compile(r"\s*\([^()]*\)")
_CLAUSE = re.compile(r";\s+|\s+[–—]\s+|,\s+(?=(?:and|but|so|which|while|where)\s)")
_ORDER = re.compile(r"^(If|When|While|Because|Although|Since|After|Before|Unless) ([^,;:]{8,120}), ([^;:]{8,})([.!?])$")
_IS = re.compile(
    r"^((?:[^\s,.;:?!]+\s+){1,6}?)(is|are|was|were|has|have|can|must|may|will|returns|takes|holds) (.{3,})$", re.S
)
_PLAIN = {
    "utilise": "use", "utilize": "use", "in order to": "to", "however": "but", "therefore": "so", "obtain": "get",
    "require": "need", "requires": "needs", "additional": "more", "numerous": "many", "commence": "start",
    "sufficient": "enough", "subsequently": "then", "approximately": "about", "prior to": "before", "assist": "help",
    "specify": "name", "specifies": "names", "provides": "gives", "provide": "give", "purchase": "buy",
}  # fmt: skip
_RARE = {
    "use": "employ", "uses": "employs", "show": "evince", "shows": "evinces", "help": "succour", "begin": "commence",
    "big": "voluminous", "small": "diminutive", "many": "manifold", "get": "procure", "need": "necessitate",
    "but": "albeit", "about": "anent", "before": "antecedent to", "enough": "sufficient", "so": "hence",
}  # fmt: skip
_LONG = {
    "don't": "do not", "doesn't": "does not", "isn't": "is not", "can't": "cannot", "it's": "it is",
    "won't": "will not", "aren't": "are not", "didn't": "did not", "you're": "you are", "that's": "that is",
    "e.g.": "for example", "i.e.": "that is",
}  # fmt: skip


class TemplateRephraser:
    """Rules of style: easy cuts sentences up, medium writes them out, hard takes rare words, qa asks and answers.

    Example:
        >>> TemplateRephraser().rewrite([("The river is long.", "qa")], "")
        ['Question: What is the river?\\nAnswer: The river is long.']
        >>> TemplateRephraser().rewrite([("We utilise it (often), and it doesn't end.", "easy")], "")
        ["We use it. And it doesn't end."]
    """

    identity = "template:1"
    bill: dict[str, Any] = {"flops": 0, "template": True}
    cost = Cost()
    concurrent = True

    def rewrite(self, pieces: Sequence[tuple[str, str]], draw: str) -> list[str]:
        """Each text in its style; nothing is drawn."""
        return [_RULES[style](text) for text, style in pieces]


def _each(text: str, rule: Any, between: str = " ") -> str:
    """A rule on every sentence, paragraph by paragraph."""
    paragraphs = [[s for s in _SENTENCE.split(part.strip()) if s] for part in re.split(r"\n\s*\n", text)]
    return "\n\n".join(between.join(filter(None, map(rule, each))) for each in paragraphs if each)


def _words(text: str, table: dict[str, str]) -> str:
    """A text with words of a table replaced; a capital at the beginning stays."""

    def other(found: re.Match[str]) -> str:
        word = table[found[0].lower()]
        return word[0].upper() + word[1:] if found[0][0].isupper() else word

    return re.sub(rf"(?<!\w)(?:{'|'.join(map(re.escape, table))})(?!\w)", other, text, flags=re.I)


def _easy(text: str) -> str:
    def rule(sentence: str) -> str:
        pieces = [piece.strip().rstrip(".,;") for piece in _CLAUSE.split(_ASIDE.sub("", sentence).strip())]
        end = sentence.rstrip()[-1:] if sentence.rstrip()[-1:] in ".!?" else ""
        short = [piece[0].upper() + piece[1:] for piece in pieces if piece]
        return ". ".join(short) + (end or "." if short else "")

    return _words(_each(text, rule), _PLAIN)


def _medium(text: str) -> str:
    def rule(sentence: str) -> str:
        found = _ORDER.match(sentence)
        if found is None:
            return sentence
        first, condition, rest, end = found.groups()
        return f"{rest[0].upper() + rest[1:]} {first.lower()} {condition}{end}"

    return _words(_each(text, rule), _LONG)


def _hard(text: str) -> str:
    def rule(sentence: str) -> str:
        return re.sub(r"\b(?:very|really|quite|just|simply) ", "", sentence)

    return _words(_each(text, rule), _RARE)


def _qa(text: str) -> str:
    def rule(sentence: str) -> str:
        found = _IS.match(sentence)
        if found is None:
            about = " ".join(sentence.split()[:4]).rstrip(".,;:!?")
            return f"Question: What is said of “{about}”?\nAnswer: {sentence}"
        subject, verb = found[1].strip(), found[2]
        subject = subject[0].lower() + subject[1:] if subject.split()[0] in _ARTICLES else subject
        asked = f"What {verb} {subject}?" if verb in _BE else f"What does the text say that {subject} {verb}?"
        return f"Question: {asked}\nAnswer: {sentence}"

    return _each(text, rule, "\n")


_ARTICLES = ("The", "A", "An", "This", "These", "That", "It", "If", "All", "Some")
_BE = ("is", "are", "was", "were")
_RULES = {"easy": _easy, "medium": _medium, "hard": _hard, "qa": _qa}

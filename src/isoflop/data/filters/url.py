"""Block lists of addresses, the first step of RefinedWeb and DCLM: domains, whole addresses, and words within them."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator, PositiveInt

from ...core.contracts import FilterPart, Verdicts
from ...core.registry import Card, part
from ..engine.lists import HashedLines, any_of, ascii_host, host_of, listed, plain_url, suffixes, words_of_url
from ..engine.pages import Pages

Lists = Annotated[tuple[str, ...], BeforeValidator(lambda given: (given,) if isinstance(given, str) else given)]


class _Read(NamedTuple):
    """The lists as they are looked up."""

    domains: HashedLines
    urls: HashedLines
    strict: re.Pattern[str] | None
    hard: HashedLines
    soft: HashedLines


def _domain(line: str) -> str:
    return ascii_host(line.removeprefix("*."))


@part
class UrlPart(FilterPart):
    """Drops documents by the address that they were found at; lists are files of yours, one entry a line.

    A domain on a list stands for all hosts below it. Strict words count anywhere in the address, across its marks;
    hard ones count as whole words; soft ones only together. Reasons: domain, url, strict_word, hard_word, soft_words,
    missing. Documents do not change.

    Example:
        >>> from pathlib import Path
        >>> _ = Path("bad.txt").write_text("spam.example")
        >>> pages = Pages(["a", "b"], [{"url": "http://www.spam.example/x"}, {"url": "http://good.example"}])
        >>> UrlPart(domains="bad.txt").judge(pages).reasons
        ['domain', '']
    """

    key: str = "url"
    """The key of records that holds the address."""
    domains: Lists = ()
    """Lists of domains, or in the form of a hosts file."""
    urls: Lists = ()
    """Lists of whole addresses; scheme, port and "www." do not count."""
    strict: Lists = ()
    """Lists of words of which one anywhere in the address is enough."""
    hard: Lists = ()
    """Lists of words of which one, as a whole word, is enough."""
    soft: Lists = ()
    """Lists of words of which it takes several."""
    soft_words: PositiveInt = 2
    """How many."""
    missing: Literal["keep", "drop"] = "keep"
    """What becomes of documents without an address."""
    card = Card(
        summary="Block lists of domains and addresses; words in addresses, of which one or two are enough.",
        paper="Penedo et al. 2023, arXiv 2306.01116, appendix G.1; Li et al. 2024, arXiv 2406.11794",
        defaults="a list of 4.6 million domains; strict, hard and (two or more) soft words",
        differs="the lists are yours: none is shipped; a domain stands for its subdomains without a table of suffixes",
        cost="no model; 8 bytes an entry of a list",
    )

    def reads(self) -> tuple[str, ...]:
        return (*self.domains, *self.urls, *self.strict, *self.hard, *self.soft)

    def judge(self, pages: Pages) -> Verdicts:
        lists = _Read(
            listed(self.domains, _domain), listed(self.urls, plain_url), any_of(self.strict),
            listed(self.hard, str.lower), listed(self.soft, str.lower),
        )  # fmt: skip
        return Verdicts([self._reason(record.get(self.key), lists) for record in pages.records])

    def _reason(self, url: Any, lists: _Read) -> str:
        if not isinstance(url, str) or not url.strip():
            return "missing" if self.missing == "drop" else ""
        if lists.domains.holds(suffixes(host_of(url))):
            return "domain"
        if lists.urls.holds([plain_url(url)]):
            return "url"
        words = words_of_url(url)
        if lists.strict is not None and lists.strict.search("".join(words)):
            return "strict_word"
        if lists.hard.holds(words):
            return "hard_word"
        return "soft_words" if sum(lists.soft.holds([word]) for word in words) >= self.soft_words else ""

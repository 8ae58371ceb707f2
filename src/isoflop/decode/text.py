"""A sample as text: what of it is certain, and whether a string that ends it has come."""

from __future__ import annotations

from collections.abc import Sequence

from ..core.contracts import Tokenizer
from ..data.tokenizing import Continuation


class SampleText:
    """The text of one sample as its tokens come. A stop string ends it and is no part of it.

    Args:
        tokenizer: of the ids.
        prompt: ids that the sample goes on from.
        stops: strings that end it.

    Attributes:
        text: what is certain so far; it never begins a stop that may still come.
        stopped: whether a stop has come.

    Example:
        >>> from isoflop.data.tokenizers.bytes import Bytes
        >>> written = SampleText(Bytes(), list(b"2+2="), ["\\n\\n"])
        >>> [written.add(i) for i in b"4\\n5\\n\\n6"], written.text
        (['4', '', '\\n5', '', '', ''], '4\\n5')
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], stops: Sequence[str] = ()) -> None:
        self._pieces, self._stops = Continuation(tokenizer, prompt), [stop for stop in stops if stop]
        self._held, self.text, self.stopped = "", "", False

    @property
    def known(self) -> int:
        """Characters that have come, those held back for a stop included."""
        return len(self.text) + len(self._held)

    def add(self, token: int) -> str:
        """Text that has become certain with one more token."""
        return "" if self.stopped else self._take(self._pieces.add(token))

    def finish(self) -> str:
        """Text that was held back, where no more tokens come."""
        if self.stopped:
            return ""
        new = self._take(self._pieces.rest())
        if not self.stopped:
            new += self._held
            self.text, self._held = self.text + self._held, ""
        return new

    def _take(self, piece: str) -> str:
        waiting = self._held + piece
        ends = [waiting.find(stop) for stop in self._stops if stop in waiting]
        self.stopped = bool(ends)
        sure = min(ends) if ends else len(waiting) - self._begun(waiting)
        self._held = "" if ends else waiting[sure:]
        self.text += waiting[:sure]
        return waiting[:sure]

    def _begun(self, waiting: str) -> int:
        """Characters at the end that begin a stop."""
        longest = max(map(len, self._stops), default=0) - 1
        lengths = range(min(longest, len(waiting)), 0, -1)
        return next((n for n in lengths if any(stop.startswith(waiting[-n:]) for stop in self._stops)), 0)

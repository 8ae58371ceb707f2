"""How tokens are named where a client sees them one by one."""

from __future__ import annotations

from ..core.contracts import Tokenizer
from ..data.tokenizing import HasBytes, shared_start

END = "<|endoftext|>"


class TokenNames:
    """What each id reads as: its text, bytes where these are no text of their own, or a name in angle brackets.

    Ids of different bytes have different names.

    Args:
        tokenizer: of the ids.

    Example:
        >>> from isoflop.data.tokenizers.bytes import Bytes
        >>> names = TokenNames(Bytes())
        >>> names(97), names(0xC3), names(256)
        ('a', 'bytes:\\\\xc3', '<|endoftext|>')
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer, self._known = tokenizer, dict[int, str]()
        # Some tokenizers drop the first blank of what they decode, so each id is decoded behind another one.
        self._before = tokenizer.encode("a").tolist()[-1:]
        self._text = tokenizer.decode(self._before)

    def __call__(self, i: int) -> str:
        if i not in self._known:
            self._known[i] = self._name(i)
        return self._known[i]

    def _name(self, i: int) -> str:
        if i >= self._tokenizer.vocab_size:
            return f"<|{i}|>"
        text = self._tokenizer.decode([*self._before, i])
        text = text[shared_start(self._text, text) :]
        raw = self._tokenizer.bytes_of(i) if isinstance(self._tokenizer, HasBytes) else b""
        if "\ufffd" in text and raw:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)
        return text or (END if i == self._tokenizer.eot else f"<|{i}|>")

    def bytes_of(self, i: int) -> list[int]:
        """The bytes that an id stands for; none where it stands for no text."""
        if isinstance(self._tokenizer, HasBytes):
            return list(self._tokenizer.bytes_of(i)) if i < self._tokenizer.vocab_size else []
        return list(self(i).encode())

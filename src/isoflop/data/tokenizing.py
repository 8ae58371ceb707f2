"""What tokenizers share: ids that stand for byte strings, capabilities beyond the slot's contract, tokenizer files."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from ..core.contracts import Tokenizer
from ..core.errors import DataError
from ..core.reading import read_text

Ids = npt.NDArray[np.int64]
_HELD_BACK = 64  # ids: none of a whole character is so long, so that what is pending are bytes of no text


@runtime_checkable
class EncodesMany(Protocol):
    """A tokenizer that is faster on many texts at once."""

    def encode_many(self, texts: Sequence[str]) -> list[Ids]: ...


def encode_many(tokenizer: Tokenizer, texts: Sequence[str]) -> list[Ids]:
    """``encode`` of each text, in the fastest way that the tokenizer offers.

    Args:
        tokenizer: any.
        texts: one array of ids (n,) comes back for each.

    Example:
        >>> from isoflop.data.tokenizers.bytes import Bytes
        >>> [ids.tolist() for ids in encode_many(Bytes(), ["ab", "c"])]
        [[97, 98], [99]]
    """
    if isinstance(tokenizer, EncodesMany):
        return tokenizer.encode_many(texts)
    return [tokenizer.encode(text) for text in texts]


@runtime_checkable
class MayAlter(Protocol):
    """A tokenizer whose ids do not give back every text."""

    def encode_after(self, texts: Sequence[str]) -> list[Ids]:
        """Ids of texts that follow another one: nothing is put before them."""

    def gives_back(self, ids: Sequence[int], text: str) -> bool:
        """Whether the ids stand for that text."""


@runtime_checkable
class WritesChats(Protocol):
    """A tokenizer that knows how its model's conversations are written."""

    def chat_encoder(self) -> Any:
        """The ``chats.ChatEncoder`` of its chat template; DataError if it has none."""


@runtime_checkable
class HasBytes(Protocol):
    """A tokenizer that knows the bytes which an id stands for."""

    def bytes_of(self, i: int) -> bytes:
        """UTF-8, perhaps of a part of a character; none where the id stands for no text."""


def alters(tokenizer: Tokenizer, text: str) -> bool:
    """Whether the ids of a text give back another one."""
    return isinstance(tokenizer, MayAlter) and not tokenizer.gives_back(tokenizer.encode(text).tolist(), text)


def beginning(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The ids that come before every text, besides the end of another one; none of most tokenizers."""
    return tuple(getattr(tokenizer, "starts", ()))


def begun(tokenizer: Tokenizer, ids: Ids) -> Ids:
    """The ids of a text with what comes before every text, which is not written twice."""
    before = beginning(tokenizer)
    return ids if tuple(ids[: len(before)].tolist()) == before else np.concatenate([before, ids]).astype(np.int64)


def as_prompt(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of a text to go on from, with what a model saw before each text in training."""
    ids = tokenizer.encode(text)
    whole: list[int] = (begun(tokenizer, ids) if beginning(tokenizer) else np.append(tokenizer.eot, ids)).tolist()
    return whole


class Pieces:
    """A tokenizer whose every id is a byte string, so that text is the join of its tokens' bytes.

    Args:
        pieces: bytes of each id; empty for ids without text (``eot`` and unused ones).
        eot: the end-of-text id.

    Example:
        >>> tokenizer = Pieces([b"two ", b"words", b""], eot=2)
        >>> tokenizer.decode([0, 1]), tokenizer.byte_lengths.tolist()
        ('two words', [4, 5, 0])
    """

    def __init__(self, pieces: Sequence[bytes], eot: int) -> None:
        self._pieces = tuple(pieces)
        self.eot = eot
        self.vocab_size = len(self._pieces)
        self.byte_lengths: Ids = np.array([len(piece) for piece in self._pieces], np.int64)

    def bytes_of(self, i: int) -> bytes:
        """See ``HasBytes``."""
        return self._pieces[i]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; ``eot`` gives nothing, bytes that are no UTF-8 (a cut character) give U+FFFD."""
        try:
            return b"".join([self._pieces[known(int(i))] for i in ids]).decode("utf-8", "replace")
        except IndexError:
            raise unknown_id(ids, self.vocab_size) from None


class Continuation:
    """The text that new ids add behind those of a prompt, piece by piece as it becomes certain.

    Ids are decoded together with those before them: a tokenizer may write a blank into the token behind it, drop the
    first blank of whatever it decodes, or need several ids for a character, which is held back until it is whole.

    Args:
        tokenizer: the tokenizer of all ids.
        prompt: ids of a whole text, with or without an end of text before it.

    Example:
        >>> from isoflop.data.tokenizers.bytes import Bytes
        >>> text = Continuation(Bytes(), list(b"caf"))
        >>> text.add(0xC3), text.add(0xA9), text.rest()
        ('', 'é', '')
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int]) -> None:
        self._tokenizer, self._before, self._pending = tokenizer, list(prompt), list[int]()
        self._known = tokenizer.decode(self._before)

    def add(self, i: int) -> str:
        """What has become certain with one more id."""
        if i == self._tokenizer.eot:
            return ""
        self._pending.append(i)
        text = self._tokenizer.decode([*self._before, *self._pending])
        if text == self._known or (text.endswith("\ufffd") and len(self._pending) < _HELD_BACK):
            return ""
        new = text[shared_start(self._known, text) :]
        self._before, self._pending = self._pending, []  # to decode everything anew each time would take quadratic time
        self._known = self._tokenizer.decode(self._before)
        return new

    def rest(self) -> str:
        """What was held back; nothing comes after it."""
        text = self._tokenizer.decode([*self._before, *self._pending]) if self._pending else self._known
        return text[shared_start(self._known, text) :]


def continuation(tokenizer: Tokenizer, prompt: Sequence[int], new: Iterable[int]) -> Iterator[str]:
    """The pieces of a ``Continuation`` of a prompt's ids by new ones, as they come.

    Example:
        >>> from isoflop.data.tokenizers.bytes import Bytes
        >>> "".join(continuation(Bytes(), list(b"caf"), [0xC3, 0xA9]))
        'é'
    """
    text = Continuation(tokenizer, prompt)
    yield from filter(None, map(text.add, new))
    yield from filter(None, [text.rest()])


def shared_start(a: str, b: str) -> int:
    """How many characters two texts have in common at their beginning."""
    pairs = enumerate(zip(a, b, strict=False))
    return next((i for i, (x, y) in pairs if x != y), min(len(a), len(b)))


def known(i: int) -> int:
    """``i``, unless it is negative: Python would count that from the end."""
    if i < 0:
        raise IndexError(i)
    return i


def unknown_id(ids: Iterable[int], vocab_size: int) -> DataError:
    """The error for ids outside [0, vocab_size)."""
    wrong = next(int(i) for i in ids if not 0 <= int(i) < vocab_size)
    return DataError(f"id {wrong} is not in [0, {vocab_size})", where="tokenizer", fix="was it made by another one?")


@functools.cache
def byte_alphabet() -> dict[str, int]:
    """Byte of each character of GPT-2's printable alphabet (Radford et al. 2019), the one of byte-level BPE files.

    Printable Latin-1 characters stand for themselves, the other 68 bytes in order for U+0100 and on.
    """
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(plain)]
    return {chr(byte): byte for byte in plain} | {chr(256 + i): byte for i, byte in enumerate(others)}


def open_tokenizer(path: Path) -> Any:
    """Read a ``tokenizer.json``; a missing or broken file is a DataError."""
    import tokenizers as hf

    try:
        return hf.Tokenizer.from_str(read_text(path))
    except DataError:
        raise
    except Exception as error:  # the library raises bare Exception
        raise DataError(f"is not a tokenizer.json ({error})", where=str(path)) from error

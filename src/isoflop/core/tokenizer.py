"""The contract of a tokenizer: text to ids and back."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from .registry import Part

TOKENIZER = "tokenizer.json"
"""The file that a corpus and a checkpoint keep of a tokenizer."""


@runtime_checkable
class Tokenizer(Protocol):
    """Text to ids and back.

    Attributes:
        vocab_size: number of ids, the end-of-text one included.
        eot: the id that separates documents.
        byte_lengths: int64 (vocab_size,), each id's UTF-8 length in bytes.
    """

    vocab_size: int
    eot: int
    byte_lengths: npt.NDArray[np.int64]

    def encode(self, text: str) -> npt.NDArray[np.int64]: ...
    def decode(self, ids: Sequence[int]) -> str: ...


class TokenizerPart(Part):
    """Makes a tokenizer, by training it on text, from a file, or from nothing."""

    slot: ClassVar[str] = "tokenizer"

    @property
    @abstractmethod
    def vocabulary(self) -> int:
        """Number of ids including the end-of-text one, known before any text is read."""

    @abstractmethod
    def build(self, texts: Iterator[str]) -> Tokenizer:
        """Make the live tokenizer, trained on ``texts`` if it is one that trains."""


@runtime_checkable
class Storable(Protocol):
    """A live tokenizer that its part cannot make again from its fields: it was trained, or read from a file."""

    def save(self, path: Path) -> None:
        """Write the file from which ``LoadsTokenizer.load`` makes it again."""


@runtime_checkable
class LoadsTokenizer(Protocol):
    """The part of a ``Storable`` tokenizer."""

    def load(self, path: Path) -> Tokenizer: ...


@runtime_checkable
class ReadsFiles(Protocol):
    """A part whose result depends on files: ``inputs`` is a digest of their content."""

    def inputs(self) -> str: ...


class GivenTokenizer(TokenizerPart):
    """A tokenizer that was trained before: that of the model which a run starts from. No recipe names it."""

    name: ClassVar[str] = "given"

    part: Any
    """The part that trained it."""
    path: str
    """The file that holds it."""
    digest: str
    """SHA-256 of that file."""

    @property
    def vocabulary(self) -> int:
        return int(self.part.vocabulary)

    def build(self, texts: Iterator[str]) -> Tokenizer:
        """The tokenizer; no text is read."""
        return self.load(Path(self.path))

    def load(self, path: Path) -> Tokenizer:
        """The tokenizer of a copy of the file."""
        loaded: Tokenizer = self.part.load(path)
        return loaded


def disagreement(ours: Tokenizer, theirs: Tokenizer) -> str:
    """Where two tokenizers' ids stand for different text, in words; "" if they do not."""
    if ours.vocab_size != theirs.vocab_size:
        return f"{ours.vocab_size} ids, not {theirs.vocab_size}"
    if ours.eot != theirs.eot:
        return f"id {ours.eot} ends a text, not {theirs.eot}"
    for i in range(ours.vocab_size):
        if ours.byte_lengths[i] != theirs.byte_lengths[i] or ours.decode([i]) != theirs.decode([i]):
            return f"id {i} stands for {ours.decode([i])!r}, not {theirs.decode([i])!r}"
    return ""

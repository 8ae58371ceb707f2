"""A character a token: for texts over a small alphabet, as those of tasks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from pydantic import field_validator

from ...core.contracts import TokenizerPart
from ...core.errors import DataError
from ...core.registry import Card, part
from ..tokenizing import Ids, Pieces


class Symbols(Pieces):
    """Id i is the i-th symbol, and the id behind them the end of text.

    Args:
        symbols: the characters, each once.

    Example:
        >>> digits = Symbols("01+=")
        >>> digits.encode("1+1=10").tolist(), digits.decode([1, 0, 4]), digits.eot
        ([1, 2, 1, 3, 1, 0], '10', 4)
    """

    def __init__(self, symbols: str) -> None:
        super().__init__([*(symbol.encode() for symbol in symbols), b""], eot=len(symbols))
        self._ids = {symbol: i for i, symbol in enumerate(symbols)}

    def encode(self, text: str) -> Ids:
        """Ids (characters,); a character that is no symbol is a DataError."""
        try:
            return np.array([self._ids[character] for character in text], np.int64)
        except KeyError as error:
            known = "".join(self._ids)
            raise DataError(f"{error.args[0]!r} is none of the symbols {known!r}", where="tokenizer.symbols") from None


@part
class SymbolsPart(TokenizerPart):
    """Every character of a given alphabet is a token: a task's text with the fewest ids.

    A source of puzzles says which symbols its task needs.

    Example:
        >>> tokenizer = SymbolsPart(symbols="0123").build(iter(()))
        >>> SymbolsPart(symbols="0123").vocabulary, tokenizer.encode("31").tolist()
        (5, [3, 1])
    """

    symbols: str
    """The characters, each once."""
    card = Card(summary="A character of a given alphabet a token, and an end-of-text id.", cost="none")

    @field_validator("symbols")
    @classmethod
    def _distinct(cls, symbols: str) -> str:
        if not symbols or len(set(symbols)) < len(symbols):
            raise ValueError(f"should name characters, each once, not {symbols!r}")
        return symbols

    @property
    def vocabulary(self) -> int:
        return len(self.symbols) + 1

    def build(self, texts: Iterator[str]) -> Symbols:
        return Symbols(self.symbols)

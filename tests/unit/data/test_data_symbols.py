"""A character a token."""

import pytest

from isoflop.core.errors import DataError
from isoflop.data.tokenizers.symbols import SymbolsPart


def test_every_symbol_is_an_id_and_nothing_else_is_encoded() -> None:
    part = SymbolsPart(symbols="añ中 ")
    live = part.build(iter(()))
    assert live.encode("中 aa").tolist() == [2, 3, 0, 0]
    assert live.decode([2, 3, 0, live.eot]) == "中 a"
    assert live.byte_lengths.tolist() == [1, 2, 3, 1, 0]
    assert live.vocab_size == part.vocabulary == 5
    with pytest.raises(DataError, match="'b' is none of the symbols"):
        live.encode("ab")


@pytest.mark.parametrize("symbols", ["", "aba"])
def test_an_alphabet_names_each_symbol_once(symbols: str) -> None:
    with pytest.raises(ValueError, match="each once"):
        SymbolsPart(symbols=symbols)

"""What texts are compared by."""

from __future__ import annotations

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoflop.data import units as module
from isoflop.data.units import units


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("def f(a,b): return a+b", "def f ( a , b ) : return a + b"),
        ("x_1 = -3.5e7", "x_1 = - 3 . 5e7"),
        ("a ≠ b", "a ≠ b"),
        ("((()))--------...", "((( ))) -------- ..."),
        ("naïve Straße", "naïve Straße"),
        ("हिन्दी में कितने", "हिन्दी में कितने"),
        ("مُحَمَّد قَالَ", "مُحَمَّد قَالَ"),
        ("שָׁלוֹם", "שָׁלוֹם"),
        ("数は42個。", "数 は 42 個 。"),
        ("カー", "カ ー"),
        ("ภาษา", "ภ า ษ า"),
        ("กำลัง", "ก ำ ลั ง"),
        ("ភាសាខ្មែរ", "ភា សា ខ្ មែ រ"),
        ("한국어 텍스트", "한국어 텍스트"),
        ("❤️👍🏽", "❤️ 👍 🏽"),
    ],
)
def test_words_symbols_and_characters(text: str, wanted: str) -> None:
    assert units(text) == [unicodedata.normalize("NFC", unit) for unit in wanted.split()]


def test_what_no_reader_sees_makes_no_difference() -> None:
    assert units("cafe\u0301") == units("caf\u00e9") == ["caf\u00e9"]
    assert units("one\ntwo\n\n\nthree") == units("one two\r\nthree  \n") == ["one", "two", "three"]
    assert units("ភាសា\u200bខ្មែរ") == units("ភាសាខ្មែរ")
    assert units("") == units(" \n\t\n") == []


def test_gaps_within_lines_are_seen() -> None:
    assert units("if a:\n    b\n    c") != units("if a:\n    b\nc")
    assert units("# #  #") != units("#  # #")
    assert units("a\t\tb") != units("a  b") != units("a b")


@given(st.lists(st.text(min_size=1).filter(lambda s: not any(c.isspace() or c == "\u200b" for c in s)), max_size=5))
def test_nothing_else_is_lost(words: list[str]) -> None:
    """The units of a text without gaps join to the text without its blanks."""
    text = " ".join(words)
    assert "".join(units(text)) == unicodedata.normalize("NFC", text).replace(" ", "")


def test_every_combining_mark_is_known() -> None:
    known = {code for first, last in module._marks() for code in range(first, last + 1)}
    assert known == {code for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code))[0] == "M"}

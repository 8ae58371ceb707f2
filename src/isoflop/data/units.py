"""The units by which texts are compared: words, symbols, and characters where a script writes no blanks.

Whatever a reader could tell two texts apart by is in some unit: a bracket and an operator as much as a word, capitals
as they are, a vowel sign with its letter, and gaps (indentation, columns). Only where lines are broken, and how many
blank lines lie between two, is not.
"""

from __future__ import annotations

import functools
import itertools
import re
import unicodedata

# Scripts whose words are not set apart by blanks, first and last code point: Unicode's line breaking classes CJ, ID and
# SA (UAX 14) as far as they hold letters, and ancient scripts without word division.
UNDIVIDED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x1950, 0x19DF),  # Tai Le, New Tai Lue
    (0x1A20, 0x1AAF),  # Tai Tham
    (0x1B00, 0x1B7F),  # Balinese
    (0x2E80, 0x312F),  # radicals, Hiragana, Katakana, Bopomofo
    (0x31A0, 0x4DBF),  # Bopomofo and Katakana extensions, ideographs A
    (0x4E00, 0xA4CF),  # ideographs, Yi
    (0xA980, 0xA9FF),  # Javanese, Myanmar B
    (0xAA60, 0xAADF),  # Myanmar A, Tai Viet
    (0xF900, 0xFAFF),  # compatibility ideographs
    (0xFF66, 0xFF9F),  # halfwidth Katakana
    (0x11700, 0x1174F),  # Ahom
    (0x12000, 0x1467F),  # cuneiform, hieroglyphs, Anatolian hieroglyphs
    (0x16FE0, 0x18DFF),  # Tangut, Khitan
    (0x1AFF0, 0x1B2FF),  # Kana supplements, Nushu
    (0x20000, 0x3FFFF),  # further ideographs
)


def units(text: str) -> list[str]:
    """The units of ``text`` in order; texts that are canonically equivalent in Unicode have the same ones.

    Args:
        text: any.

    Example:
        >>> units("Two words, 3!")
        ['Two', 'words', ',', '3', '!']
    """
    pattern, text = (_ASCII, text) if text.isascii() else (_any(), unicodedata.normalize("NFC", text))
    return [found[0] for found in pattern.finditer(text)]


_GAP = r"[^\S\r\n]{2,}(?=\S)"  # two blanks or more, but for those at the end of a line
_ASCII = re.compile(rf"\w+|([^\w\s])\1*|{_GAP}")  # a row of one symbol (a rule, an ellipsis) is one unit


@functools.cache
def _any() -> re.Pattern[str]:
    undivided = _ranges(UNDIVIDED)
    belongs = _ranges(_marks()) + "\u200c\u200d"  # the (non-)joiner shapes a word or an emoji and divides neither
    word = rf"[^\W{undivided}]+(?:[{belongs}]+[^\W{undivided}]*)*"
    return re.compile(
        rf"{word}|[{undivided}][{belongs}]*|([^\s\u200b])\1*[{belongs}]*|{_GAP}"
    )  # U+200B is a blank of no width


def _marks() -> list[tuple[int, int]]:
    """Runs of combining marks (general category M): vowel signs, accents, variation selectors."""
    found: list[tuple[int, int]] = []
    for code in itertools.chain(range(0x300, 0x20000), range(0xE0100, 0xE01F0)):  # there are none elsewhere
        if unicodedata.category(chr(code))[0] == "M":
            if found and found[-1][1] == code - 1:
                found[-1] = (found[-1][0], code)
            else:
                found.append((code, code))
    return found


def _ranges(pairs: list[tuple[int, int]] | tuple[tuple[int, int], ...]) -> str:
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in pairs)

"""The texts of the study: orders on words, each a prompt of two marks and a word, and the answer.

``python texts.py DIRECTORY`` writes base.jsonl (three shifts of letters in three formats, all nine together),
shift.jsonl (a fourth shift, as plain words), format.jsonl (a fourth format, letters as they are; every third record of
both is one of the base's kind), both.jsonl (the two skills' records, one after the other) and composed.jsonl (the
fourth shift in the fourth format).
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

LETTERS = "abcdefgh"
LENGTH = 4
SHIFTS = {"-": 0, "p": 1, "q": 2}
FORMATS = {"-": ("", ""), "s": (",", ","), "t": (";", ";")}
NEW_SHIFT, NEW_FORMAT = ("r", 3), ("u", (",", ";"))
"""What the skills add: letters three on; separators that take turns."""


def record(word: str, shift: tuple[str, int], form: tuple[str, tuple[str, str]]) -> dict[str, str]:
    """The prompt of two marks and a word, and the answer."""
    moved = [LETTERS[(LETTERS.index(letter) + shift[1]) % len(LETTERS)] for letter in word]
    answer = moved[0] + "".join(form[1][place % 2] + letter for place, letter in enumerate(moved[1:]))
    return {"prompt": f"{shift[0]}{form[0]}{word}>", "completion": answer}


def words(count: int, seed: int) -> Iterator[str]:
    """``count`` random words."""
    draw = random.Random(seed)
    return ("".join(draw.choices(LETTERS, k=LENGTH)) for _ in range(count))


def with_old(new: list[dict[str, str]], old: list[dict[str, str]]) -> list[dict[str, str]]:
    """New records with an old one after every second, so that a skill is learned as one order among others."""
    return [each for place, one in enumerate(old) for each in (*new[2 * place : 2 * place + 2], one)]


def write(directory: Path) -> None:
    """Write the five files."""
    directory.mkdir(parents=True, exist_ok=True)
    plain_shift, plain_format = ("-", 0), ("-", ("", ""))
    pairs = [(shift, form) for shift in SHIFTS.items() for form in FORMATS.items()]
    old = [record(word, *pairs[number % len(pairs)]) for number, word in enumerate(words(6000, 5))]
    shift = with_old([record(word, NEW_SHIFT, plain_format) for word in words(6000, 2)], old[:3000])
    form = with_old([record(word, plain_shift, NEW_FORMAT) for word in words(6000, 3)], old[3000:])
    texts = {
        "base": [record(word, *pairs[number % len(pairs)]) for number, word in enumerate(words(36000, 1))],
        "shift": shift,
        "format": form,
        "both": [each for pair in zip(shift, form, strict=True) for each in pair],
        "composed": [record(word, NEW_SHIFT, NEW_FORMAT) for word in words(2000, 4)],
    }
    for name, records in texts.items():
        lines = "".join(json.dumps(each) + "\n" for each in records)
        (directory / f"{name}.jsonl").write_text(lines, encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))

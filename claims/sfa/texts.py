"""The texts of the study, one document a line: ``python texts.py DIRECTORY``.

documentation and code are drawn from the Python standard library, programs and lists from two grammars. code-tenth and
programs-tenth are what is rehearsed: documents of the old texts, a tenth as many bytes as the new text has beside them.
code-test and programs-test are documents of the same kinds that are in none of the others.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterable
from pathlib import Path

from isoflop.data.sources.pcfg import PcfgPart
from isoflop.data.sources.stdlib import StdlibPart

BYTES = 400_000
"""Of each text."""
LISTS = {
    "S": {"[LR\n": 1.0},
    "L": {"[LR": 0.2, "0": 0.2, "1": 0.2, "2": 0.1, "3": 0.1, "4": 0.1, "5": 0.1},
    "R": {", LR": 0.6, "]": 0.4},
}
"""Nested lists of digits."""


def taken(texts: Iterable[str], size: int, seed: int) -> list[str]:
    """Texts in random order until they have ``size`` bytes."""
    shuffled = sorted(texts)
    random.Random(seed).shuffle(shuffled)
    kept, total = [], 0
    for text in shuffled:
        if total >= size:
            break
        kept.append(text)
        total += len(text.encode())
    return kept


def grammar(rules: dict[str, dict[str, float]] | None, seed: int) -> list[str]:
    """Documents of a grammar, some two kilobytes together each."""
    part = (
        PcfgPart(text_bytes=BYTES, seed=seed) if rules is None else PcfgPart(rules=rules, text_bytes=BYTES, seed=seed)
    )
    pieces, held = [], ""
    for document in part.documents():
        held += document.text
        if len(held) >= 2000:
            pieces.append(held)
            held = ""
    return pieces


def write(directory: Path) -> None:
    """Write the eight files."""
    directory.mkdir(parents=True, exist_ok=True)
    by_domain: dict[str, list[str]] = {"documentation": [], "code": []}
    for document in StdlibPart().documents():
        if len(document.text) <= 20_000:
            by_domain[document.domain].append(document.text)
    texts = {name: taken(found, BYTES, 0) for name, found in by_domain.items()}
    texts |= {"programs": grammar(None, 1), "lists": grammar(LISTS, 2)}
    rest = sorted(set(by_domain["code"]) - set(texts["code"]))
    texts |= {"code-test": taken(rest, BYTES // 8, 3), "programs-test": grammar(None, 4)[:25]}
    texts |= {f"{name}-tenth": taken(texts[name], BYTES // 9, 1) for name in ("code", "programs")}
    for name, found in texts.items():
        lines = "".join(json.dumps({"text": text}) + "\n" for text in found)
        (directory / f"{name}.jsonl").write_text(lines, encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))

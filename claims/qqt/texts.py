"""The texts: ``python texts.py DIRECTORY`` writes part-1.jsonl to part-3.jsonl and held_out.jsonl.

Pieces of the Python standard library, without duplicates: parts of 45 kB each, the best one documentation, the middle
one half documentation and half code, the last one code; a third of a sixth of all documentation, set apart by a hash of
each piece, is held out.
"""

from __future__ import annotations

import json
import random
import runpy
import sys
from pathlib import Path

from isoflop.core.digests import document_hash
from isoflop.data.dedup import distinct
from isoflop.data.sources.stdlib import StdlibPart

PART = 45_000
"""Characters of a part."""


def taken(texts: list[str], size: int) -> list[str]:
    """Texts from the end of a list, which loses them, until they are so long."""
    found: list[str] = []
    while sum(map(len, found)) < size:
        found.append(texts.pop())
    return found


def write(directory: Path) -> None:
    """Write the four files."""
    pieces = runpy.run_path(str(Path(__file__).parents[1] / "color-filter" / "texts.py"))["pieces"]
    directory.mkdir(parents=True, exist_ok=True)
    kinds: dict[str, list[str]] = {"documentation": [], "code": []}
    for document in StdlibPart().documents():
        kinds[document.domain] += pieces(document.text)
    prose = [kinds["documentation"][i] for i in distinct(kinds["documentation"]).kept]
    held = [text for text in prose if 0.25 <= document_hash(text)[0] / 256 < 0.42]
    good = [text for text in prose if not 0.25 <= document_hash(text)[0] / 256 < 0.42]
    code = list(kinds["code"])
    for texts in (good, code):
        random.Random(1).shuffle(texts)
    rows = {
        "part-1": taken(good, PART),
        "part-2": taken(good, PART // 2) + taken(code, PART // 2),
        "part-3": taken(code, PART),
        "held_out": held[::3],
    }
    for name, texts in rows.items():
        lines = [json.dumps({"id": f"{name}-{i}", "text": text}) + "\n" for i, text in enumerate(texts)]
        (directory / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))

"""The texts: ``python texts.py DIRECTORY`` writes pool.jsonl and held_out.jsonl.

Documentation and code of the Python standard library in pieces of some thousand characters, without near duplicates: a
sixth of each is held out, by a hash of each piece, and the rest is the pool, one part documentation to three of code.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

from isoflop.core.digests import document_hash
from isoflop.data.dedup import distinct
from isoflop.data.sources.stdlib import StdlibPart

POOL = {"documentation": 250_000, "code": 750_000}
"""Characters of each kind in the pool."""
HELD_OUT = 100_000
"""Characters of each kind that are held out, at most."""
SIZE = 1000


def pieces(text: str) -> list[str]:
    """Cut at line ends into pieces of some thousand characters."""
    found, held = [""], 0
    for line in text.splitlines(keepends=True):
        if held > SIZE:
            found.append("")
            held = 0
        found[-1] += line[: 2 * SIZE]
        held += len(line)
    return [piece for piece in found if len(piece) > SIZE // 4]


def taken(texts: list[str], most: int) -> list[str]:
    """The first texts that hold so many characters."""
    found, size = list[str](), 0
    for text in texts:
        if size < most:
            found.append(text)
            size += len(text)
    return found


def write(directory: Path) -> None:
    """Write both files."""
    directory.mkdir(parents=True, exist_ok=True)
    kinds: dict[str, list[str]] = {kind: [] for kind in POOL}
    for document in StdlibPart().documents():
        kinds[document.domain] += pieces(document.text)
    rows: dict[str, list[tuple[str, str]]] = {"pool": [], "held_out": []}
    for kind, texts in kinds.items():
        random.Random(1).shuffle(texts)
        texts = taken(texts, 2 * POOL[kind])
        alone = [texts[number] for number in distinct(texts).kept]
        held = [text for text in alone if 0.25 <= document_hash(text)[0] / 256 < 0.42]
        rest = [text for text in alone if not 0.25 <= document_hash(text)[0] / 256 < 0.42]
        rows["held_out"] += [(kind, text) for text in taken(held, HELD_OUT)]
        rows["pool"] += [(kind, text) for text in taken(rest, POOL[kind])]
    random.Random(2).shuffle(rows["pool"])
    for name, records in rows.items():
        lines = [json.dumps({"id": f"{name}-{i}", "domain": d, "text": t}) + "\n" for i, (d, t) in enumerate(records)]
        (directory / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))

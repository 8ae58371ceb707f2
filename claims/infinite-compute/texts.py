"""The texts: ``python texts.py DIRECTORY`` writes part-1.jsonl, part-2, part-4, part-8 and held_out.jsonl.

Documentation of the Python standard library, without duplicates, in pieces: each part holds the one before it and is
twice as long, from 40 kB on; a sixth of all pieces is held out, by a hash of each.
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

PART, PARTS = 40_000, (1, 2, 4, 8)
"""Characters of the shortest part, and how many times as long each is."""


def write(directory: Path) -> None:
    """Write the five files."""
    pieces = runpy.run_path(str(Path(__file__).parents[1] / "color-filter" / "texts.py"))["pieces"]
    directory.mkdir(parents=True, exist_ok=True)
    every = [
        piece for document in StdlibPart(domains=("documentation",)).documents() for piece in pieces(document.text)
    ]
    prose = [every[i] for i in distinct(every).kept]
    held = [text for text in prose if document_hash(text)[0] / 256 < 0.17]
    rest = [text for text in prose if not document_hash(text)[0] / 256 < 0.17]
    random.Random(1).shuffle(rest)
    taken, size, rows = list[str](), 0, {"held_out": held}
    for part in PARTS:
        while size < part * PART:
            taken.append(rest.pop())
            size += len(taken[-1])
        rows[f"part-{part}"] = list(taken)
    for name, texts in rows.items():
        lines = [json.dumps({"id": f"{name}-{i}", "text": text}) + "\n" for i, text in enumerate(texts)]
        (directory / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))

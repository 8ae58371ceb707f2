"""The texts: ``python texts.py DIRECTORY`` writes real.jsonl and held_out.jsonl.

Documentation of the Python standard library in pieces of two to four thousand characters, without duplicates, a sixth
of it set apart by a hash of each piece, of which some is held out: the pieces and the split of color-filter.
"""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

from isoflop.core.digests import document_hash
from isoflop.data.dedup import distinct
from isoflop.data.sources.stdlib import StdlibPart


def write(directory: Path) -> None:
    """Write both files."""
    pieces = runpy.run_path(str(Path(__file__).parents[1] / "color-filter" / "texts.py"))["pieces"]
    directory.mkdir(parents=True, exist_ok=True)
    texts = [
        piece
        for document in StdlibPart().documents()
        if document.domain == "documentation"
        for piece in pieces(document.text)
    ]
    sides: dict[str, list[str]] = {"real": [], "held_out": []}
    for number in distinct(texts).kept:
        place = document_hash(texts[number])[0] / 256
        sides["held_out" if 0.25 <= place < 0.42 else "real"].append(texts[number])
    sides["held_out"] = sides["held_out"][::3]
    for name, found in sides.items():
        lines = [json.dumps({"id": f"{name}-{i}", "text": text}) + "\n" for i, text in enumerate(found)]
        (directory / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))

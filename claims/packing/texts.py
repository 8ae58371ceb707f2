"""The texts: ``python texts.py DIRECTORY`` writes train.jsonl and held_out.jsonl.

Paragraphs of 40 to 250 bytes of the documentation of the Python standard library, each once, a sixth of them held out
by a hash of each.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from isoflop.core.digests import document_hash
from isoflop.data.sources.stdlib import StdlibPart


def write(directory: Path) -> None:
    """Write both files."""
    directory.mkdir(parents=True, exist_ok=True)
    found: dict[str, None] = {}
    for document in StdlibPart().documents():
        if document.domain == "documentation":
            found |= dict.fromkeys(text.strip() for text in re.split(r"\n\s*\n", document.text))
    sides: dict[str, list[str]] = {"train": [], "held_out": []}
    for text in found:
        if 40 <= len(text.encode()) <= 250:
            sides["held_out" if document_hash(text)[0] < 43 else "train"].append(text)
    for name, texts in sides.items():
        lines = [json.dumps({"id": f"{name}-{i}", "text": text}) + "\n" for i, text in enumerate(texts)]
        (directory / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))

"""The texts: ``python texts.py DIRECTORY`` writes pool.jsonl, target.jsonl and held_out.jsonl.

Documentation of the Python standard library, split by a hash of each document: a quarter is the target of which
selection sees a sample, a sixth is held out, and the rest lies in the pool among code and noise: shuffled words, lines
that repeat, and letters at random. The pool has no duplicates, and nothing of it nearly equals what is held out.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

from isoflop.core.digests import document_hash
from isoflop.data.dedup import distinct
from isoflop.data.sources.stdlib import StdlibPart

DOCUMENTATION, CODE, NOISE = 200_000, 800_000, 200_000
"""Characters of each in the pool."""
LONGEST = 4000


def pieces(text: str) -> list[str]:
    """Cut at line ends into pieces of some two to four thousand characters."""
    found, held = [""], 0
    for line in text.splitlines(keepends=True):
        if held > LONGEST // 2:
            found.append("")
            held = 0
        found[-1] += line[:LONGEST]
        held += len(line)
    return [piece for piece in found if piece.strip()]


def noise(words: list[str], draw: random.Random) -> str:
    """A document that no reader wants."""
    kind = draw.randrange(3)
    if kind == 0:
        return " ".join(draw.choices(words, k=300))
    if kind == 1:
        return (" ".join(draw.choices(words, k=8)) + "\n") * 40
    return "".join(draw.choices("abcdefghijklmnopqrstuvwxyz0123456789 ", k=1500))


def write(directory: Path) -> None:
    """Write the three files."""
    directory.mkdir(parents=True, exist_ok=True)
    kinds: dict[str, list[str]] = {"documentation": [], "code": []}
    for document in StdlibPart().documents():
        kinds[document.domain] += pieces(document.text)
    draw = random.Random(1)
    documentation = [kinds["documentation"][i] for i in distinct(kinds["documentation"]).kept]
    sides: dict[str, list[str]] = {"target": [], "held_out": [], "pool": []}
    for text in documentation:
        place = document_hash(text)[0] / 256
        sides["target" if place < 0.25 else "held_out" if place < 0.42 else "pool"].append(text)
    code = list(kinds["code"])
    draw.shuffle(code)
    pool: list[tuple[str, str]] = []
    for domain, most, texts in (("documentation", DOCUMENTATION, sides["pool"]), ("code", CODE, code)):
        size = 0
        for text in texts:
            if size < most:
                pool.append((domain, text))
                size += len(text)
    words, size = " ".join(sides["pool"]).split(), 0
    while size < NOISE:
        pool.append(("noise", noise(words, draw)))
        size += len(pool[-1][1])
    draw.shuffle(pool)
    rows = {"pool": pool, "target": [("documentation", text) for text in sides["target"]]}
    rows["held_out"] = [("documentation", text) for text in sides["held_out"]]
    for name, records in rows.items():
        lines = [json.dumps({"id": f"{name}-{i}", "domain": d, "text": t}) + "\n" for i, (d, t) in enumerate(records)]
        (directory / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))

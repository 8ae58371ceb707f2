"""MinHash deduplication beside others': MB of text a CPU second, on one core, and the share of planted copies found.

``python benchmarks/dedup.py FILES... [--peers PYTHON] [--json OUT]``: PYTHON is an interpreter of an environment with
datasketch, rensa and datatrove. Every tenth document comes again with some of its words changed; recall is over those
copies whose Jaccard similarity to the original (sets of 5 words) is 0.8 or more. Ours is timed from file to file, the
others from a file to a list; of datatrove only the signatures, by far its longest stage. ``--gigabyte`` instead makes a
file of 1 GB and reports the memory that deduplicating it takes.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import re
import resource
import subprocess
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from isoflop.data.engine.dedup import Keying, dedup
from isoflop.data.engine.inputs import DocumentRow, rows_of, units_of
from isoflop.data.engine.jobs import JobSettings
from isoflop.store.environment import environment

BESIDE = Path(__file__).parent


def report(rows: dict[str, Any], out: Path | None) -> None:
    """Print what came of a benchmark, with where and when, and write it to a file if one is named."""
    now, load = datetime.now(UTC).isoformat(timespec="seconds"), os.getloadavg()[0]
    result = json.dumps({"environment": {**environment(), "date": now, "load": load}, "rows": rows}, indent=1)
    print(result)
    if out:
        out.write_text(result + "\n")


def sample(files: list[str], megabytes: float, out: Path) -> int:
    """Write documents of files until there are so many megabytes of text, file by file in turn; their bytes."""
    size, lines = 0, list[str]()
    readers = [iter(rows_of(unit)) for unit in units_of(files)]
    while readers and size < megabytes * 1e6:
        for reader in list(readers):
            row = next(reader, None)
            if row is None:
                readers.remove(reader)
            elif isinstance(row, DocumentRow) and size < megabytes * 1e6:
                lines.append(json.dumps({"id": row.id, "text": row.text}))
                size += len(row.text.encode())
    out.write_text("\n".join(lines), encoding="utf-8")
    return size


def planted(path: Path) -> list[tuple[int, int, float]]:
    """Add a changed copy of every tenth document to a file; (copy, original, similarity)."""
    draw = random.Random(11)
    texts = [json.loads(line)["text"] for line in path.open(encoding="utf-8")]
    copies = []
    for original in range(0, len(texts), 10):
        words, rate = texts[original].split(" "), draw.choice((0.0, 0.005, 0.01, 0.02, 0.04))
        changed = " ".join("changed" if draw.random() < rate else word for word in words)
        copies.append((original, changed + draw.choice(("", " and a few words more"))))
    found = []
    with path.open("a", encoding="utf-8") as file:
        for number, (original, text) in enumerate(copies, len(texts)):
            file.write("\n" + json.dumps({"id": f"copy-{number}", "text": text}))
            found.append((number, original, similarity(text, texts[original])))
    return found


def similarity(one: str, two: str) -> float:
    a, b = (
        {tuple(words[i : i + 5]) for i in range(max(1, len(words) - 4))}
        for words in (re.findall(r"\w+", text.lower()) for text in (one, two))
    )
    return len(a & b) / len(a | b)


def peer(python: Path, name: str, path: Path, folder: Path) -> dict[str, Any]:
    """CPU seconds of another tool, and what it would drop."""
    out = folder / f"{name}.json"
    command = [str(python), str(BESIDE / "data_peers.py"), name, str(path), str(out)]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}, stdout=2)
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def ours(path: Path, folder: Path) -> tuple[float, set[int]]:
    """CPU seconds from file to file, and the numbers of the documents that are dropped."""
    before = time.process_time()
    dedup(units_of([str(path)]), Keying("minhash"), JobSettings(folder))
    seconds = time.process_time() - before
    with gzip.open(folder / "attributes" / "part-00000.jsonl.gz") as file:
        return seconds, {number for number, line in enumerate(file) if not json.loads(line)["keep"]}


def gigabyte(files: list[str], folder: Path) -> dict[str, Any]:
    """Memory and time of a gigabyte: the documents again and again, each time with other words in them."""
    texts = [row.text for unit in units_of(files) for row in rows_of(unit) if isinstance(row, DocumentRow)]
    path, size, turn = folder / "big.jsonl", 0, 0
    with path.open("w", encoding="utf-8") as file:
        while size < 1e9:
            for text in texts:
                words = text.split(" ")
                words[:: 3 + turn % 5] = [f"w{turn}{i}" for i in range(len(words[:: 3 + turn % 5]))]
                file.write(json.dumps({"text": " ".join(words)}) + "\n")
                size += len(text)
            turn += 1
    del texts
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    before = time.process_time()
    found = dedup(units_of([str(path)]), Keying("minhash"), JobSettings(folder / "out"))
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = time.process_time() - before
    counts = found["counts"]
    return {
        "bytes": size,
        "documents": counts["documents"],
        "cpu_seconds": seconds,
        "rss_kb": rss,
        "rss_before_kb": base,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--megabytes", type=float, default=16.0)
    parser.add_argument("--slow-megabytes", type=float, default=1.5)
    parser.add_argument("--gigabyte", action="store_true")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if asked.gigabyte:
            rows["gigabyte"] = gigabyte(asked.files, folder)
        else:
            whole, slow = folder / "whole.jsonl", folder / "slow.jsonl"
            sample(asked.files, asked.megabytes, whole)
            sample(asked.files, asked.slow_megabytes, slow)
            near = [copy for copy, _, similar in planted(whole) if similar >= 0.8]
            size = sum(len(json.loads(line)["text"].encode()) for line in whole.open(encoding="utf-8"))
            ours(slow, folder / "warm")
            seconds, dropped = ours(whole, folder / "out")
            rows["isoflop"] = (seconds, size, sum(copy in dropped for copy in near) / len(near))
            for tool in ("rensa", "datasketch") if asked.peers else ():
                found = peer(asked.peers, tool, whole, folder)
                rows[tool] = (
                    found["cpu_seconds"],
                    size,
                    sum(copy in set(found["dropped"]) for copy in near) / len(near),
                )
            if asked.peers:
                size = sum(len(json.loads(line)["text"].encode()) for line in slow.open(encoding="utf-8"))
                rows["datatrove, signatures"] = (
                    peer(asked.peers, "datatrove", slow, folder)["cpu_seconds"],
                    size,
                    None,
                )
            rows = {
                tool: {"cpu_seconds": s, "mb_per_second": b / 1e6 / s, "recall": recall, "bytes": b}
                for tool, (s, b, recall) in rows.items()
            }
            rows["pairs"] = len(near)
    report(rows, asked.json)


if __name__ == "__main__":
    main()

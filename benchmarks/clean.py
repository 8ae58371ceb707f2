"""Cleaning by FineWeb's chain beside datatrove's: MB of text a CPU second, on one core, from file to file.

``python benchmarks/clean.py FILES... [--peers PYTHON] [--json OUT]``: PYTHON is an interpreter of an environment with
datatrove (``pip install "datatrove[processing]" spacy orjson``). Both see the same documents; datatrove's are in memory
already, ours are read, unpacked, written and packed.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from dedup import peer, report, sample  # beside this file
from isoflop.data.engine.cleaning import chain_of, clean
from isoflop.data.engine.inputs import units_of
from isoflop.data.engine.jobs import JobSettings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--megabytes", type=float, default=16.0)
    parser.add_argument("--peer-megabytes", type=float, default=1.5)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        whole, small = Path(folder) / "whole.jsonl", Path(folder) / "small.jsonl"
        sizes = {
            path: sample(asked.files, mb, path)
            for path, mb in ((whole, asked.megabytes), (small, asked.peer_megabytes))
        }
        chain = chain_of("fineweb")
        clean(units_of([str(small)]), chain, JobSettings(Path(folder) / "warm"))
        for label, path in (("isoflop", whole), ("isoflop, the peer's documents", small)):
            before = time.process_time()
            found = clean(units_of([str(path)]), chain, JobSettings(Path(folder) / path.stem))
            seconds = time.process_time() - before
            rows[label] = {
                "cpu_seconds": seconds,
                "mb_per_second": sizes[path] / 1e6 / seconds,
                "kept": found["counts"]["kept"],
            }
        if asked.peers:
            found = peer(asked.peers, "datatrove_filters", small, Path(folder))
            documents = sum(1 for _ in small.open(encoding="utf-8"))
            rows["datatrove"] = {
                "cpu_seconds": found["cpu_seconds"],
                "mb_per_second": sizes[small] / 1e6 / found["cpu_seconds"],
                "kept": documents - len(found["dropped"]),
            }
            rows["times datatrove"] = (
                rows["isoflop, the peer's documents"]["mb_per_second"] / rows["datatrove"]["mb_per_second"]
            )
    report(rows, asked.json)


if __name__ == "__main__":
    main()

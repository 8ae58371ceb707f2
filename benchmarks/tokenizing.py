"""Encoding text into tokens beside other libraries, with the same merges: MB of text a CPU second, on one thread.

``python benchmarks/tokenizing.py FILES... [--peers PYTHON] [--json OUT]``: PYTHON is an interpreter of an environment
with transformers and, if it is to be compared, tiktoken. A byte-level BPE is learned here from one part of the
documents; all encode another part, new to all, batch by batch as ``isoflop data build`` does. What a library remembers
of words helps its later turns; "isoflop, first pass" is ours with nothing to remember. Turns alternate; the median of
each is told, and all must give the same number of tokens. (A script called tokenize.py would hide the standard
library's module of that name.)
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import tokenizers as hf

from dedup import BESIDE, report, sample  # beside this file
from isoflop.data.engine.features import batches
from isoflop.data.tokenizers.bpe import BpePart, BytePairs


def texts_of(path: Path) -> list[str]:
    return [json.loads(line)["text"] for line in path.open(encoding="utf-8")]


def timed(encode: Any, texts: list[str]) -> tuple[float, int]:
    """CPU seconds and tokens of one pass, by batches of a million characters."""
    before, tokens = time.process_time(), 0
    for batch in batches(texts):
        tokens += encode(batch)
    return time.process_time() - before, tokens


def ours(tokenizer: BytePairs) -> Any:
    return lambda batch: sum(map(len, tokenizer.encode_many(batch)))


def peers(python: Path, tokenizer: Path, documents: Path, turns: int, folder: Path) -> dict[str, Any]:
    """Passes of the libraries of another environment: {library: [[seconds, tokens], ...]}."""
    out = folder / "peers.json"
    command = [str(python), str(BESIDE / "tokenizing_peers.py"), str(tokenizer), str(documents), str(turns), str(out)]
    quiet = {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": ""}
    subprocess.run(command, check=True, env={**os.environ, **quiet}, stdout=2)
    return dict(json.loads(out.read_text()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--megabytes", type=float, default=8.0, help="of text that is encoded; as much is learned from")
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    os.environ.update(RAYON_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        documents, saved = folder / "documents.jsonl", folder / "tokenizer.json"
        sample(asked.files, 2 * asked.megabytes, documents)
        whole = texts_of(documents)
        learned, texts = whole[::2], whole[1::2]
        documents.write_text("\n".join(json.dumps({"text": text}) for text in texts), encoding="utf-8")
        before = time.process_time()
        live = BpePart(vocab_size=asked.vocabulary).build(iter(learned))
        learning = time.process_time() - before
        live.save(saved)
        library = hf.Tokenizer.from_file(str(saved))
        passes: dict[str, list[Any]] = {"isoflop": [], "isoflop, first pass": [], "tokenizers": []}
        for _ in range(asked.turns):
            passes["isoflop, first pass"].append(timed(ours(BpePart(vocab_size=asked.vocabulary).load(saved)), texts))
            passes["tokenizers"].append(
                timed(lambda b: sum(len(e.ids) for e in library.encode_batch_fast(b, add_special_tokens=False)), texts)
            )
            passes["isoflop"].append(timed(ours(live), texts))
        if asked.peers:
            passes |= peers(asked.peers, saved, documents, asked.turns, folder)
    size = sum(len(text.encode()) for text in texts)
    rows: dict[str, Any] = {
        label: {
            "mb_per_second": size / 1e6 / statistics.median(seconds for seconds, _ in found),
            "cpu_seconds": [round(seconds, 4) for seconds, _ in found],
            "tokens": found[0][1],
        }
        for label, found in passes.items()
    }
    if len({row["tokens"] for row in rows.values()}) > 1:
        raise SystemExit(f"the libraries disagree: { ({label: row['tokens'] for label, row in rows.items()}) }")
    rows["text"] = {"bytes": size, "documents": len(texts), "vocabulary": asked.vocabulary}
    rows["learning"] = {"mb_per_second": sum(len(text.encode()) for text in learned) / 1e6 / learning}
    report(rows, asked.json)


if __name__ == "__main__":
    main()

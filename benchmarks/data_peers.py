"""What other tools do with the same documents: run by an interpreter that has them (see dedup.py and clean.py).

``python data_peers.py NAME IN.jsonl OUT.json`` writes the CPU seconds that NAME took, importing aside, and the numbers
of the documents that it would drop.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PERMUTATIONS, BANDS, ROWS, WORDS = 112, 14, 8, 5


def documents(path: str) -> Iterator[tuple[int, str]]:
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file):
            yield number, json.loads(line)["text"]


def shingles(text: str) -> list[str]:
    words = re.findall(r"\w+", text.lower())
    return list({" ".join(words[i : i + WORDS]) for i in range(max(1, len(words) - WORDS + 1))})


def rensa(path: str) -> Callable[[], list[int]]:
    from rensa import RMinHash, RMinHashLSH

    def work() -> list[int]:
        lsh, dropped = RMinHashLSH(threshold=0.72, num_perm=PERMUTATIONS, num_bands=BANDS), []
        for number, text in documents(path):
            made = RMinHash(num_perm=PERMUTATIONS, seed=1)
            made.update(shingles(text))
            if lsh.query(made):
                dropped.append(number)
            lsh.insert(number, made)
        return dropped

    return work


def datasketch(path: str) -> Callable[[], list[int]]:
    from datasketch import MinHash, MinHashLSH

    def work() -> list[int]:
        lsh, dropped = MinHashLSH(num_perm=PERMUTATIONS, params=(BANDS, ROWS)), []
        for number, text in documents(path):
            made = MinHash(num_perm=PERMUTATIONS, seed=1)
            made.update_batch([shingle.encode() for shingle in shingles(text)])
            if lsh.query(made):
                dropped.append(number)
            lsh.insert(str(number), made)
        return dropped

    return work


def datatrove(path: str) -> Callable[[], list[int]]:
    from datatrove.data import Document
    from datatrove.pipeline.dedup import MinhashConfig, MinhashDedupSignature
    from datatrove.utils.hashing import HashConfig

    config = MinhashConfig(
        n_grams=WORDS, num_buckets=BANDS, hashes_per_bucket=ROWS, hash_config=HashConfig(hash_fc="sha1")
    )

    def work() -> list[int]:
        with tempfile.TemporaryDirectory() as folder:
            stage = MinhashDedupSignature(output_folder=folder, config=config)
            stage.run((Document(text=text, id=str(number)) for number, text in documents(path)), 0, 1)
        return []

    return work


def datatrove_filters(path: str) -> Callable[[], list[int]]:
    from datatrove.data import Document
    from datatrove.pipeline.filters import (
        C4QualityFilter,
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
    )

    chain = [
        GopherRepetitionFilter(),
        GopherQualityFilter(),
        C4QualityFilter(filter_no_terminal_punct=False),
        FineWebQualityFilter(),
    ]
    chain[0].filter(Document(text="One sentence to load what is needed.", id="0"))

    def work() -> list[int]:
        dropped = []
        for number, text in documents(path):
            document = Document(text=text, id=str(number))
            for each in chain:
                found = each.filter(document)
                if not (found if isinstance(found, bool) else found[0]):
                    dropped.append(number)
                    break
        return dropped

    return work


def main(name: str, path: str, out: str) -> None:
    work = {f.__name__: f for f in (rensa, datasketch, datatrove, datatrove_filters)}[name](path)
    before = time.process_time()
    dropped = work()
    seconds = time.process_time() - before
    Path(out).write_text(json.dumps({"cpu_seconds": seconds, "dropped": dropped}))


if __name__ == "__main__":
    main(*sys.argv[1:4])

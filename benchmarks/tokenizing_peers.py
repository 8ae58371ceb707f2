"""What other libraries take to encode the same texts: run by an interpreter that has them (see tokenizing.py).

``python tokenizing_peers.py TOKENIZER.json DOCUMENTS.jsonl TURNS OUT.json`` writes the passes of each library that is
installed: CPU seconds and tokens.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

BATCH = 1 << 20  # characters at a time

Encode = Callable[[list[str]], int]


def batches(texts: list[str]) -> Iterator[list[str]]:
    batch, size = [], 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def transformers(path: str) -> Encode:
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_file=path)
    asked = {"add_special_tokens": False, "return_attention_mask": False, "return_token_type_ids": False}
    return lambda batch: sum(map(len, tokenizer(batch, **asked)["input_ids"]))


def tiktoken(path: str) -> Encode:
    import tiktoken

    tree = json.loads(Path(path).read_text())
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printed]
    alphabet = {chr(byte): byte for byte in printed} | {chr(256 + place): byte for place, byte in enumerate(others)}
    special = {token["content"] for token in tree["added_tokens"]}
    vocabulary = tree["model"]["vocab"]
    ranks = {bytes(alphabet[c] for c in token): i for token, i in vocabulary.items() if token not in special}
    pattern = tree["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
    encoding = tiktoken.Encoding("ours", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    return lambda batch: sum(len(encoding.encode_ordinary(text)) for text in batch)


def main(tokenizer: str, documents: str, turns: int, out: str) -> None:
    with open(documents, encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in file]
    found: dict[str, list[tuple[float, int]]] = {}
    for library in (transformers, tiktoken):
        try:
            encode = library(tokenizer)
        except ImportError:
            continue
        encode(["One text to begin with."])
        for _ in range(turns):
            before, tokens = time.process_time(), 0
            for batch in batches(texts):
                tokens += encode(batch)
            found.setdefault(library.__name__, []).append((time.process_time() - before, tokens))
    Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])

"""Any ``tokenizer.json`` of the tokenizers library, as published models carry one."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers as hf

from ...core.contracts import TokenizerPart
from ...core.digests import digest_file
from ...core.errors import DataError, nearest
from ...core.files import write_atomic
from ...core.reading import user_path
from ...core.registry import Card, part
from ..document import utf8
from ..tokenizing import Ids, open_tokenizer, shared_start, unknown_id

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class FileTokenizer:
    """A foreign tokenizer. It must give back every text it encodes: bits per byte of an altered text mean nothing.

    Special tokens are neither added nor recognised in text. ``byte_lengths`` are exact for byte-level tokenizers; for
    those with word-boundary marks and byte fall-back the mark counts as one blank.
    """

    def __init__(self, tokenizer: hf.Tokenizer, eot: str, path: Path) -> None:
        added = tokenizer.get_added_tokens_decoder()
        special = {token.content: i for i, token in added.items() if token.special}
        if eot not in special:  # any other may occur in text
            known = f"set tokenizer.eot: {nearest(eot, special)}" if special else "choose tokenizer bpe or bytes"
            raise DataError(f"has no special token {eot!r}", where=str(path), fix=known)
        tokenizer.encode_special_tokens = True
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer, self._path = tokenizer, path
        self.eot: int = special[eot]
        self.vocab_size = size_of(tokenizer)
        description = json.loads(tokenizer.to_str())
        if description["model"].get("dropout"):
            raise DataError("drops merges at random", where=str(path), fix="set its model.dropout to null")
        byte_level = any(step["type"] == "ByteLevel" for step in _steps(description["pre_tokenizer"]))
        self.byte_lengths: Ids = np.zeros(self.vocab_size, np.int64)
        for token, i in tokenizer.get_vocab(with_added_tokens=True).items():
            if i in added:
                self.byte_lengths[i] = 0 if added[i].special else len(token.encode())
            else:
                self.byte_lengths[i] = _bytes_of(token, byte_level)

    def encode(self, text: str) -> Ids:
        """Ids (tokens,). Text that the tokenizer does not give back, or a lone surrogate, is a DataError."""
        return self.encode_many([text])[0]

    def encode_many(self, texts: Sequence[str]) -> list[Ids]:
        """``encode`` of each text."""
        for text in texts:
            utf8(text)
        found = [each.ids for each in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]
        back = self._tokenizer.decode_batch(found, skip_special_tokens=True)
        for text, again in zip(texts, back, strict=True):  # the parts of a file do not tell what it does as a whole
            if again != text:
                place = shared_start(text, again)
                raise DataError(
                    f"does not give back a text that begins {text[:40]!r}: at character {place} it makes "
                    f"{again[place : place + 20]!r} of {text[place : place + 20]!r} (a normaliser, an added token, "
                    "unknown characters)",
                    where=str(self._path),
                    fix="choose tokenizer bpe or bytes, or change the text beforehand",
                )
        return [np.array(ids, np.int64) for ids in found]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids without special tokens."""
        if any(not 0 <= i < self.vocab_size for i in ids):
            raise unknown_id(ids, self.vocab_size)
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def save(self, path: Path) -> None:
        """Write it as a ``tokenizer.json``."""
        write_atomic(path, self._tokenizer.to_str(pretty=False))


@part
class FilePart(TokenizerPart):
    """The tokenizer of a published model, from its tokenizer.json."""

    path: str
    """The tokenizer.json."""
    eot: str = "<|endoftext|>"
    """The special token that ends a text, e.g. "</s>"."""
    card = Card(
        summary="A tokenizer.json of the tokenizers library; nothing is trained.",
        differs="special tokens are not recognised in text; a tokenizer that alters text is refused",
    )

    @property
    def vocabulary(self) -> int:
        return size_of(_opened(self.path, self.inputs()))

    def inputs(self) -> str:
        """SHA-256 of the file."""
        return digest_file(user_path(self.path))

    def build(self, texts: Iterator[str]) -> FileTokenizer:
        return self.load(user_path(self.path))

    def load(self, path: Path) -> FileTokenizer:
        """The tokenizer of a copy that ``FileTokenizer.save`` wrote, wherever the original is by now."""
        return FileTokenizer(open_tokenizer(path), self.eot, path)


def size_of(tokenizer: hf.Tokenizer) -> int:
    """The number of ids a model must know: one more than the largest."""
    return 1 + max(tokenizer.get_vocab(with_added_tokens=True).values())


@functools.lru_cache(maxsize=4)
def _opened(path: str, digest: str) -> hf.Tokenizer:
    tokenizer: hf.Tokenizer = open_tokenizer(user_path(path))
    return tokenizer


def _steps(pre_tokenizer: dict[str, Any] | None) -> list[dict[str, Any]]:
    if pre_tokenizer is None:
        return []
    if pre_tokenizer["type"] == "Sequence":
        return [step for inner in pre_tokenizer["pretokenizers"] for step in _steps(inner)]
    return [pre_tokenizer]


def _bytes_of(token: str, byte_level: bool) -> int:
    if byte_level:
        return len(token)
    return 1 if _BYTE.fullmatch(token) else len(token.replace("\u2581", " ").encode())

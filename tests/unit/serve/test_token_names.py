"""Names of tokens: their text where they have one, and no two kinds of bytes by one name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from isoflop.core.contracts import Tokenizer
from isoflop.core.registry import get
from isoflop.data.tokenizers.pretrained import PretrainedPart
from isoflop.serve.answers import offsets_of
from isoflop.serve.token_names import TokenNames
from tokenizer_toys import byte_level, directory

TEXT = "Ein naïve 日本 text, 12  words\n"


def own(name: str, **fields: int) -> Callable[[Path], Tokenizer]:
    return lambda place: get("tokenizer", name)(**fields).build(iter([TEXT * 20]))  # type: ignore[attr-defined, no-any-return]


def foreign(place: Path) -> Tokenizer:
    directory(place, byte_level(), eos_token="<|endoftext|>")
    return PretrainedPart(path=str(place)).build(iter(()))


@pytest.mark.parametrize("make", [own("bytes"), own("bpe", vocab_size=290), foreign], ids=["bytes", "bpe", "foreign"])
def test_names_are_distinct_and_say_the_bytes(make: Callable[[Path], Tokenizer], tmp_path: Path) -> None:
    tokenizer = make(tmp_path / "tokenizer")
    names, ids = TokenNames(tokenizer), tokenizer.encode(TEXT).tolist()
    assert b"".join(bytes(names.bytes_of(i)) for i in ids) == TEXT.encode()
    every = [names(i) for i in range(tokenizer.vocab_size)]
    assert len(set(every)) == len(every)
    assert every[tokenizer.eot] == "<|endoftext|>"
    for i in ids:
        text = bytes(names.bytes_of(i)).decode("utf-8", "replace")
        assert names(i) == text or names(i).startswith("bytes:\\x")
    offsets = offsets_of(tokenizer, TEXT, ids)
    for i, offset in zip(ids, offsets, strict=True):
        assert names(i).startswith("bytes:") or TEXT[offset:].startswith(names(i))
    assert names(10**9) == "<|1000000000|>"

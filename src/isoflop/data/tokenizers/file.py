"""Any ``tokenizer.json`` of the tokenizers library, as published models carry one."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

import tokenizers as hf

from ...core.contracts import TokenizerPart
from ...core.digests import digest_file
from ...core.errors import DataError, nearest
from ...core.reading import user_path
from ...core.registry import Card, part
from ..foreign import ESTIMATES, ForeignTokenizer, size_of, special_ids
from ..tokenizing import Ids, open_tokenizer


class FileTokenizer(ForeignTokenizer):
    """A foreign tokenizer that must give back every text it encodes: whatever alters one is refused there and then.

    Example:
        >>> from tokenizers import Tokenizer, models
        >>> words = Tokenizer(models.WordLevel({"a": 0, "b": 1, "<|endoftext|>": 2}, "a"))
        >>> _ = words.add_special_tokens(["<|endoftext|>"])
        >>> FileTokenizer(words, "<|endoftext|>", Path("tokenizer.json")).encode("b").tolist()
        [1]
    """

    def __init__(self, tokenizer: hf.Tokenizer, eot: str, path: Path) -> None:
        special = special_ids(tokenizer)
        if eot not in special:  # any other may occur in text
            known = f"set tokenizer.eot: {nearest(eot, special)}" if special else "choose tokenizer bpe or bytes"
            raise DataError(f"has no special token {eot!r}", where=str(path), fix=known)
        super().__init__(tokenizer, special[eot], path)
        self.remarks = [ESTIMATES.format(self.prefix)] if self.prefix else []

    def encode_many(self, texts: Sequence[str]) -> list[Ids]:
        """Ids (tokens,) of each text; a lone surrogate, or a text that does not come back, is a DataError."""
        found = super().encode_many(texts)
        self.refuse_altered(texts, found)
        return found


@part
class FilePart(TokenizerPart):
    """The tokenizer of a published model, from its tokenizer.json alone. ``pretrained`` reads its whole directory.

    Use it to train on the tokens of a model that others publish.

    Example:
        >>> from tokenizers import Tokenizer, models
        >>> Tokenizer(models.WordLevel({"a": 0, "b": 1, "<|endoftext|>": 2}, "a")).save("tokenizer.json")
        >>> FilePart(path="tokenizer.json").vocabulary
        3
    """

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


@functools.lru_cache(maxsize=4)
def _opened(path: str, digest: str) -> hf.Tokenizer:
    tokenizer: hf.Tokenizer = open_tokenizer(user_path(path))
    return tokenizer
